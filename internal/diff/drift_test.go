package diff

import (
	"strings"
	"testing"
	"time"
)

// A drift prints what was declared and what is, by whom and since when; what others added stands apart and is none.
func TestDrift(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	theirs := []TheirFields{{Ref{Kind: "ConfigMap", Namespace: "prod", Name: "c"}, Foreign{Manager: "kubectl-annotate", Time: at, Fields: []string{".metadata.annotations.note"}}}}
	d := Drift{Application: "prod/web", Revision: strings.Repeat("1a", 20), Fate: "told only, because spec.sync.heal is false", Theirs: theirs,
		Ours: []Change{
			{Ref: Ref{Group: "apps", Kind: "Deployment", Namespace: "prod", Name: "web"}, Action: Update, Fields: []Field{
				{Path: ".spec.replicas", Old: int64(5), New: int64(3), TakenFrom: "scaler", TakenAt: at}, {Path: ".spec.paused", Old: true}}},
			{Ref: Ref{Kind: "Secret", Namespace: "prod", Name: "s"}, Action: Update, Fields: []Field{{Path: ".data.k", Old: secretValue, New: secretChanged, Secret: true}}},
			{Ref: Ref{Kind: "Service", Namespace: "prod", Name: "web"}, Action: Create},
			{Ref: Ref{Kind: "Service", Namespace: "prod", Name: "same"}, Action: Unchanged},
		}}
	want := `prod/web at 1a1a1a1a: 3 objects and 3 fields differ; told only, because spec.sync.heal is false
~ Deployment prod/web
    .spec.replicas: declared 3, is 5  (by scaler, 2026-01-02 03:04:05 UTC)
    .spec.paused:   declared (absent), is true  (by somebody)
~ Secret prod/s
    .data.k: declared (secret), is (secret, changed)  (by somebody)
- Service prod/web  (deleted)
set by others, not declared, left alone:
  ConfigMap prod/c: .metadata.annotations.note  (by kubectl-annotate, 2026-01-02 03:04:05 UTC)
`
	if got := d.Text(Style{}); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if json := printJSON(t, d); !strings.Contains(json, `"declared": 3,`) || !strings.Contains(json, `"time": "2026-01-02T03:04:05Z"`) || !strings.Contains(json, `"drifted": true`) {
		t.Errorf("JSON:\n%s", json)
	}
	d.Ours = d.Ours[3:]
	if !d.Empty() || !strings.HasPrefix(d.Text(Style{}), "prod/web at 1a1a1a1a: no drift\nset by others") {
		t.Errorf("theirs alone:\n%s", d.Text(Style{}))
	}
}

// What another manager has changed in a declared field is drift; only what it has added is theirs.
func TestAddedFields(t *testing.T) {
	live := parse(t, `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  managedFields:
  - {manager: gitopsd, operation: Apply, fieldsV1: {"f:spec": {"f:paused": {}}}}
  - {manager: hand, operation: Update, fieldsV1: {"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {'k:{"name":"c"}': {"f:image": {}, "f:tty": {}}}}}}}}
spec: {replicas: 2, paused: false, template: {spec: {containers: [{name: c, image: theirs, tty: true}]}}}
`)
	desired := parse(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {paused: false, template: {spec: {containers: [{name: c, image: ours}]}}}
`)
	added := AddedFields(live, desired, "gitopsd")
	if len(added) != 1 || strings.Join(added[0].Fields, " ") != `.spec.replicas .spec.template.spec.containers[name="c"].tty` {
		t.Errorf("added: %+v", added)
	}
	if all := ForeignFields(live, "gitopsd"); len(all) != 1 || len(all[0].Fields) != 3 {
		t.Errorf("foreign: %+v", all)
	}
}
