package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A deployment without replicas, and a Service: both get defaults and fields from others.
const planWeb = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: %s/hello:%s
        resources: {requests: {cpu: 0.010, memory: "16777216"}}
        ports: [{containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
`

func planWebAt(version string) string { return fmt.Sprintf(planWeb, images, version) }

// planned is the part of the JSON that the tests look at: docs/spec/plan.md has all of it.
type planned struct {
	Plans []struct {
		Application, Revision, Error string
		Summary                      struct{ Create, Update, Prune, Unchanged int }
		Changes                      []struct {
			Action, Kind, Name string
			Fields             []struct {
				Path, TakenFrom string
				Old, New        any
				Secret          bool
			}
		}
		CannotBeUndone []string
	}
}

func (i *instance) planJSON(t testing.TB, wantCode int, args ...string) planned {
	t.Helper()
	out, code := i.run(append([]string{"plan", "-o", "json"}, args...)...)
	if code != wantCode {
		t.Fatalf("plan %v: exit code %d, want %d\n%s", args, code, wantCode, out)
	}
	var p planned
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		t.Fatalf("plan %v: %v\n%s", args, err, out)
	}
	if len(p.Plans) != 1 {
		t.Fatalf("plan %v: %d plans", args, len(p.Plans))
	}
	return p
}

// The plan of a working copy shows what a push would change, exactly; after the push there is nothing left to show.
func TestPlan(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{"web.yaml": planWebAt("v1"), "c.yaml": configMap("c", "k", "v"), "gone.yaml": configMap("gone", "k", "v")})
	first := a.await(t).Status.ObservedCommit
	full := a.namespace + "/" + a.name
	i.mustKubectl(t, "-n", a.namespace, "scale", "deployment", "web", "--replicas=2")
	a.await(t)
	if out, code := i.run("plan", full); code != 0 || !strings.Contains(out, "no changes") {
		t.Errorf("of what is applied: exit code %d\n%s", code, out)
	}
	version := a.get(t).ResourceVersion
	mark := auditSize(t, i)

	writeFile(t, filepath.Join(a.repo.dir, "web.yaml"), planWebAt("v2"))
	writeFile(t, filepath.Join(a.repo.dir, "new.yaml"), configMap("new", "k", "v"))
	a.repo.git(t, "rm", "-q", "gone.yaml")
	out, code := i.runIn(a.repo.dir, "plan", full, "--dir", ".")
	for _, want := range []string{"~ Deployment " + a.namespace + "/web\n", "containers[name=web].image:", "hello:v1", "hello:v2", "+ ConfigMap " + a.namespace + "/new\n",
		"- ConfigMap " + a.namespace + "/gone\n", "1 to create, 1 to update, 1 to prune\n", "cannot be undone: ConfigMap " + a.namespace + "/gone is deleted\n"} {
		if code != 2 || !strings.Contains(out, want) {
			t.Errorf("--dir: exit code %d, lacks %q:\n%s", code, want, out)
		}
	}
	p := i.planJSON(t, 2, full, "--dir", a.repo.dir).Plans[0]
	if p.Summary.Create != 1 || p.Summary.Update != 1 || p.Summary.Prune != 1 || p.Summary.Unchanged != 2 || p.Application != full {
		t.Errorf("the JSON says %+v", p)
	}
	for _, c := range p.Changes {
		if c.Action == "update" && (len(c.Fields) != 1 || c.Fields[0].New != images+"/hello:v2") {
			t.Errorf("more changes than the image: %+v", c.Fields)
		}
	}
	out, code = i.run("plan", full, "--dir", a.repo.dir, "-o", "markdown")
	if code != 2 || !strings.Contains(out, "### "+full) || !strings.Contains(out, "+\""+images+"/hello:v2\"") ||
		strings.Count(out, "```")%2 != 0 || strings.Count(out, "<details>") != strings.Count(out, "</details>") {
		t.Errorf("markdown: exit code %d\n%s", code, out)
	}
	i.checkNothingWritten(t, mark, a.namespace)
	if got := a.get(t).ResourceVersion; got != version {
		t.Errorf("the Application was written to")
	}

	a.repo.commit(t, "two", nil)
	a.checkRevisions(t, first, a.await(t).Status.ObservedCommit)
}

// checkRevisions plans what --rev can name, while the second of two commits is applied.
func (a *app) checkRevisions(t *testing.T, first, second string) {
	i, full := a.i, a.namespace+"/"+a.name
	if out, code := i.run("plan", full); code != 0 {
		t.Errorf("after the sync: exit code %d\n%s", code, out)
	}
	for _, rev := range []string{first, first[:10]} {
		p := i.planJSON(t, 2, full, "--rev", rev).Plans[0]
		if p.Revision != first || p.Summary.Create != 1 || p.Summary.Update != 1 || p.Summary.Prune != 1 {
			t.Errorf("--rev %s: %+v", rev, p)
		}
	}
	a.repo.git(t, "tag", "before", first)
	a.repo.git(t, "branch", "feature", second)
	if p := i.planJSON(t, 2, full, "--rev", "before").Plans[0]; p.Revision != first {
		t.Errorf("--rev of a tag: %+v", p)
	}
	if p := i.planJSON(t, 0, full, "--rev", "feature").Plans[0]; p.Revision != second {
		t.Errorf("--rev of a branch: %+v", p)
	}
	if out, code := i.run("plan", full, "--rev", "no-such"); code != 1 || !strings.Contains(out, "no-such is no branch or tag") {
		t.Errorf("an unknown --rev: exit code %d\n%s", code, out)
	}
	if out, code := i.run("plan", "-o", "json"); code != 0 && code != 1 && code != 2 || !strings.Contains(out, full) {
		t.Errorf("of all Applications: exit code %d\n%s", code, out)
	}
}

// checkNothingWritten fails when the command line has asked about a namespace in any other way than by reads and dry-runs
// since mark, or not at all.
func (i *instance) checkNothingWritten(t testing.TB, mark int64, namespace string) {
	t.Helper()
	dryRuns := 0
	for _, e := range auditSince(t, i, mark) {
		switch {
		case e.ObjectRef.Namespace != namespace || e.User.Username != "gitopsd:admin":
		case !readOnly(e):
			t.Errorf("the plan wrote: %s %s", e.Verb, e.RequestURI)
		case strings.Contains(e.RequestURI, "dryRun=All"):
			dryRuns++
		}
	}
	if dryRuns == 0 {
		t.Error("the audit log shows no dry-run")
	}
}

// Another order of containers that run one after another is a change, and one that a sync brings to its end, also where
// somebody has put a container of his own between them. Another order of those that run together is none.
func TestPlanOrder(t *testing.T) {
	i := anyCluster(t)
	deployment := func(init, side string) string {
		containers := ""
		for _, name := range strings.Fields(side) {
			containers += fmt.Sprintf("{name: %s, image: %s/hello:v1},", name, images)
		}
		inits := ""
		for _, name := range strings.Fields(init) {
			inits += fmt.Sprintf("{name: %s, image: %s/hello:v1},", name, images)
		}
		return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: o}\nspec:\n  replicas: 0\n  selector: {matchLabels: {app: o}}\n  template:\n" +
			"    metadata: {labels: {app: o}}\n    spec: {initContainers: [" + inits + "], containers: [" + containers + "]}\n"
	}
	a := i.deploy(t, map[string]string{"o.yaml": deployment("a b", "main side")})
	a.await(t)
	full := a.namespace + "/" + a.name
	i.mustKubectl(t, "-n", a.namespace, "patch", "deployment", "o", "--type=json", "-p",
		`[{"op":"add","path":"/spec/template/spec/initContainers/1","value":{"name":"theirs","image":"`+images+`/hello:v1"}}]`)
	if p := i.planJSON(t, 0, full).Plans[0]; p.Summary.Unchanged != 1 {
		t.Errorf("a container of somebody else: %+v", p)
	}
	writeFile(t, filepath.Join(a.repo.dir, "o.yaml"), deployment("b a", "side main"))
	p := i.planJSON(t, 2, full, "--dir", a.repo.dir).Plans[0]
	if len(p.Changes) != 1 || len(p.Changes[0].Fields) != 1 || p.Changes[0].Fields[0].Path != ".spec.template.spec.initContainers[order]" {
		t.Errorf("another order: %+v", p)
	}
	a.repo.commit(t, "another order", nil)
	a.await(t)
	if out, code := i.run("plan", full); code != 0 {
		t.Errorf("after the sync: exit code %d\n%s", code, out)
	}
	if out := i.mustKubectl(t, "-n", a.namespace, "get", "deployment", "o", "-o", "jsonpath={.spec.template.spec.initContainers[*].name}"); !strings.HasSuffix(strings.Replace(out, "theirs", "", 1), "a") {
		t.Errorf("the order is %s", out)
	}
}

// What the API refuses is told for every object at once, each with its file; a Secret's values never appear, a change of
// them does; a field that another manager holds is named with that manager.
func TestPlanRefusalsAndSecrets(t *testing.T) {
	i := anyCluster(t)
	const value, changed, broken = "canary-value-90b2", "canary-changed-90b2", "canary-broken-90b2"
	secret := func(v string) string {
		return "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: " + v + ", same: x}\n"
	}
	off := false
	a := i.deploy(t, map[string]string{"s.yaml": secret(value), "c.yaml": configMap("c", "k", "v")}, func(app *v1alpha1.Application) { app.Spec.Sync.Heal = &off })
	a.await(t)
	full := a.namespace + "/" + a.name
	hidden := func(out string) {
		t.Helper()
		if strings.Contains(out, "canary") || strings.Contains(out, "Y2FuYXJ5") { // in base64 too
			t.Errorf("a secret is shown:\n%s", out)
		}
	}
	writeFile(t, filepath.Join(a.repo.dir, "s.yaml"), secret(changed))
	for _, format := range []string{"text", "json", "markdown"} {
		out, code := i.run("plan", full, "--dir", a.repo.dir, "-o", format)
		hidden(out)
		if code != 2 || !strings.Contains(out, ".data.k") || !strings.Contains(out, "(secret, changed)") || strings.Contains(out, ".data.same") {
			t.Errorf("a changed Secret as %s: exit code %d\n%s", format, code, out)
		}
	}
	i.mustKubectl(t, "-n", a.namespace, "patch", "configmap", "c", "--field-manager=somebody", "--type=merge", "-p", `{"data":{"k":"theirs","more":"theirs"}}`)
	if out, code := i.run("plan", full, "--dir", a.repo.dir); code != 2 || !strings.Contains(out, `.data.k: "theirs" → "v"  (taken from somebody)`) || strings.Contains(out, ".data.more") {
		t.Errorf("a field of somebody else: exit code %d\n%s", code, out)
	}

	writeFile(t, filepath.Join(a.repo.dir, "bad.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\ndata: {k: 1}\n")
	writeFile(t, filepath.Join(a.repo.dir, "kind.yaml"), "apiVersion: example.org/v1\nkind: Nothing\nmetadata: {name: nothing}\n")
	writeFile(t, filepath.Join(a.repo.dir, "t.yaml"), "apiVersion: v1\nkind: Secret\nmetadata: {name: t}\ndata: {k: "+broken+"}\n")
	for _, format := range []string{"text", "json"} {
		out, code := i.run("plan", full, "--dir", a.repo.dir, "-o", format)
		hidden(out)
		for _, want := range []string{"bad.yaml", "kind.yaml", "no kind Nothing", "t.yaml", "data.k is not base64"} {
			if code != 1 || !strings.Contains(out, want) {
				t.Errorf("refused objects as %s: exit code %d, lacks %q\n%s", format, code, want, out)
			}
		}
	}
	writeFile(t, filepath.Join(a.repo.dir, "bad.yaml"), "{")
	if out, code := i.run("plan", full, "--dir", a.repo.dir); code != 1 || !strings.Contains(out, "bad.yaml:1") {
		t.Errorf("what does not parse: exit code %d\n%s", code, out)
	}
	if out, code := i.run("plan", full, "--dir", a.repo.dir, "--rev", "main"); code != 1 || !strings.Contains(out, "use one of them") {
		t.Errorf("two revisions: exit code %d\n%s", code, out)
	}
}

// drift says which field, by whom and since when; what others have added is told and is none.
func TestPlanDrift(t *testing.T) {
	i := anyCluster(t)
	off := false
	a := i.deploy(t, map[string]string{"c.yaml": configMap("c", "k", "v"), "d.yaml": configMap("d", "k", "v")}, func(app *v1alpha1.Application) { app.Spec.Sync.Heal = &off })
	a.await(t)
	full := a.namespace + "/" + a.name
	i.mustKubectl(t, "-n", a.namespace, "annotate", "configmap", "c", "note=by-hand")
	if out, code := i.run("drift", full); code != 0 || !strings.Contains(out, "no drift") || !strings.Contains(out, ".metadata.annotations.note  (by kubectl-annotate, ") {
		t.Errorf("theirs alone: exit code %d\n%s", code, out)
	}
	i.mustKubectl(t, "-n", a.namespace, "patch", "configmap", "c", "--field-manager=somebody", "--type=merge", "-p", `{"data":{"k":"changed"}}`)
	i.mustKubectl(t, "-n", a.namespace, "delete", "configmap", "d")
	out, code := i.run("drift", full)
	for _, want := range []string{"2 objects and 1 field differ; told only, because spec.sync.heal is false", `.data.k: declared "v", is "changed"  (by somebody, 20`,
		"- ConfigMap " + a.namespace + "/d  (deleted)"} {
		if code != 2 || !strings.Contains(out, want) {
			t.Errorf("drift: exit code %d, lacks %q\n%s", code, want, out)
		}
	}
	out, code = i.run("drift", full, "-o", "json")
	var found struct {
		Drift []struct {
			Drifted, Healed bool
			Fields          []struct {
				Path, Name, Manager string
				Declared, Live      any
				Deleted             bool
				Time                *time.Time
			}
			SetByOthers []struct{ Path, Manager string }
		}
	}
	if err := json.Unmarshal([]byte(out), &found); err != nil || code != 2 {
		t.Fatalf("-o json: exit code %d, %v\n%s", code, err, out)
	}
	if d := found.Drift[0]; !d.Drifted || d.Healed || len(d.Fields) != 2 || d.Fields[0].Live != "changed" || d.Fields[0].Manager != "somebody" || d.Fields[0].Time == nil ||
		!d.Fields[1].Deleted || len(d.SetByOthers) != 1 {
		t.Errorf("-o json: %+v", d)
	}
	a.patch(t, `{"spec":{"sync":{"heal":true}}}`)
	eventually(t, 20*time.Second, "drift is healed and gone", func() error {
		if _, err := i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), "d", metav1.GetOptions{}); apierrors.IsNotFound(err) {
			return err
		}
		if out, code := i.run("drift", full); code != 0 {
			return fmt.Errorf("exit code %d\n%s", code, out)
		}
		return nil
	})
}
