package diff

import (
	"encoding/json"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

// What we took from others comes back with the values of before, list items with their keys; what they still own, and what
// we owned before, does not.
func TestTaken(t *testing.T) {
	before := parse(t, `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  annotations: {note: theirs}
  managedFields:
  - {manager: kubectl, operation: Update, subresource: scale, fieldsV1: {"f:spec": {"f:replicas": {}}}}
  - {manager: hand, operation: Update, fieldsV1: {"f:metadata": {"f:annotations": {".": {}, "f:note": {}}}, "f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"c"}': {"f:image": {}, "f:tty": {}}}}}}}}
  - {manager: gitopsd, operation: Apply, fieldsV1: {"f:spec": {"f:paused": {}}}}
spec: {replicas: 2, progressDeadlineSeconds: 600, paused: false, template: {spec: {containers: [{name: b, image: b}, {name: c, image: theirs, tty: true}]}}}
`)
	now := parse(t, `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  annotations: {note: theirs}
  managedFields:
  - {manager: hand, operation: Update, fieldsV1: {"f:metadata": {"f:annotations": {".": {}, "f:note": {}}}, "f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"c"}': {"f:tty": {}}}}}}}}
  - {manager: gitopsd, operation: Apply, fieldsV1: {"f:spec": {"f:paused": {}, "f:minReadySeconds": {}, "f:progressDeadlineSeconds": {}, "f:replicas": {}, "f:template": {"f:spec": {"f:containers": {'k:{"name":"c"}': {".": {}, "f:name": {}, "f:image": {}}}}}}}}
spec: {replicas: 1, minReadySeconds: 3, progressDeadlineSeconds: 9, paused: true, template: {spec: {containers: [{name: b, image: b}, {name: c, image: ours, tty: true}]}}}
`)
	got := map[string]string{}
	for _, taken := range Taken(before, now, "gitopsd") {
		b, err := json.Marshal(taken.Object.Object)
		if err != nil {
			t.Fatal(err)
		}
		got[taken.Manager] = string(b)
	}
	want := map[string]string{
		"kubectl": `{"spec":{"replicas":2}}`,
		"":        `{"spec":{"progressDeadlineSeconds":600,"template":{"spec":{"containers":[{"name":"c"}]}}}}`,
		"hand":    `{"spec":{"template":{"spec":{"containers":[{"image":"theirs","name":"c"}]}}}}`,
	}
	for manager, w := range want {
		if got[manager] != w {
			t.Errorf("%s: %s, want %s", manager, got[manager], w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("taken from %v", got)
	}
}
