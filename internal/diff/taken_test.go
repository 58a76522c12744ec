package diff

import (
	"encoding/json"
	"slices"
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

// What a manager had applied is told with its values and in the order of the object, without what others had set.
func TestApplied(t *testing.T) {
	u := parse(t, `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web, theirs: x}
  finalizers: [b, a]
  managedFields:
  - {manager: gitopsd, operation: Apply, apiVersion: apps/v1, fieldsV1: {"f:metadata": {"f:labels": {"f:app": {}}, "f:finalizers": {'v:"a"': {}}}, "f:spec": {"f:selector": {}, "f:template": {"f:spec": {"f:containers": {
      'k:{"name":"a"}': {".": {}, "f:name": {}, "f:image": {}}, 'k:{"name":"z"}': {".": {}, "f:name": {}, "f:env": {'k:{"name":"B"}': {".": {}, "f:name": {}, "f:value": {}}, 'k:{"name":"A"}': {".": {}, "f:name": {}, "f:value": {}}}}}, "f:volumes": {'k:{"name":"v"}': {".": {}, "f:name": {}, "f:emptyDir": {}}}}}}}}
  - {manager: gitopsd, operation: Update, apiVersion: apps/v1, fieldsV1: {"f:spec": {"f:paused": {}}}}
  - {manager: hand, operation: Update, apiVersion: apps/v1, fieldsV1: {"f:metadata": {"f:labels": {"f:theirs": {}}}, "f:spec": {"f:replicas": {}}}}
spec:
  replicas: 3
  paused: true
  selector: {matchLabels: {app: web}}
  template: {spec: {volumes: [{name: v, emptyDir: {}}, {name: w, emptyDir: {}}], containers: [{name: z, image: theirs, env: [{name: B, value: b}, {name: A, value: a}]}, {name: b, image: b}, {name: a, image: a, tty: true}]}}
`)
	want := `{"metadata":{"finalizers":["a"],"labels":{"app":"web"}},"spec":{"selector":{"matchLabels":{"app":"web"}},"template":{"spec":{` +
		`"containers":[{"env":[{"name":"B","value":"b"},{"name":"A","value":"a"}],"name":"z"},{"image":"a","name":"a"}],"volumes":[{"emptyDir":{},"name":"v"}]}}}}`
	got, err := json.Marshal(Applied(u, "gitopsd").Object)
	if err != nil || string(got) != want {
		t.Errorf("%s, %v; want\n%s", got, err, want)
	}
	if got := Applied(u, "nobody").Object; len(got) != 0 {
		t.Errorf("of one that applied nothing: %v", got)
	}
}

func TestAppliedStringData(t *testing.T) {
	u := parse(t, `
apiVersion: v1
kind: Secret
metadata: {name: s, managedFields: [{manager: gitopsd, operation: Apply, apiVersion: v1, fieldsV1: {"f:data": {"f:d": {}}, "f:stringData": {"f:k": {}}}}]}
data: {d: b25l, k: dHdv, theirs: eA==}
`)
	got, err := json.Marshal(Applied(u, "gitopsd").Object)
	if want := `{"data":{"d":"b25l"},"stringData":{"k":"two"}}`; err != nil || string(got) != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
}

// What the API counts as applied and has not kept is found by the path of each field, in lists too.
func TestMissing(t *testing.T) {
	u := parse(t, `
apiVersion: example.org/v2
kind: Gizmo
metadata:
  name: a
  managedFields:
  - {manager: ours, operation: Apply, apiVersion: example.org/v2, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:size": {}, "f:color": {}, "f:parts": {'k:{"name":"x"}': {".": {}, "f:name": {}, "f:width": {}}, 'k:{"name":"y"}': {".": {}, "f:name": {}}}, "f:tags": {'v:"t"': {}}}}}
  - {manager: ours, operation: Apply, apiVersion: example.org/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:old": {}}}}
  - {manager: ours, operation: Update, apiVersion: example.org/v2, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:updated": {}}}}
  - {manager: theirs, operation: Apply, apiVersion: example.org/v2, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:other": {}}}}
spec: {size: 1, parts: [{name: x}], tags: [t]}
`)
	if got, want := Missing(u, "ours"), []string{".spec.color", `.spec.parts[name="x"].width`, `.spec.parts[name="y"].name`}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	u.SetManagedFields(nil)
	if got := Missing(u, "ours"); len(got) > 0 {
		t.Errorf("of an object without managers: %q", got)
	}
}
