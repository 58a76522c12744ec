package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const engineUser = "gitopsd:engine"

// A second sync of one commit writes nothing at all: the API's audit log has no request of the engine that could.
func TestSecondSyncWritesNothing(t *testing.T) {
	i := anyCluster(t)
	files := map[string]string{"sa.yaml": "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: web}\n", "hello.yaml": helloDeployment("v1", pods(1), 0)}
	for n := range 5 {
		files[fmt.Sprintf("c%d.yaml", n)] = configMap(fmt.Sprintf("c%d", n), "k", "v")
	}
	a := i.deploy(t, files)
	a.await(t)
	mark := auditSize(t, i)
	// A commit that changes nothing that is rendered, then a sync that looks at every object anew.
	i.must(t, "sync", a.namespace+"/"+a.name)
	for _, e := range auditSince(t, i, mark) {
		if e.User.Username != engineUser || e.ObjectRef.Resource == "leases" || readOnly(e) {
			continue
		}
		if e.ObjectRef.Resource == "applications" && e.ObjectRef.Name == a.name && e.ObjectRef.Subresource == "status" {
			continue // the answer to `gitopsd sync`: which request was handled
		}
		if strings.Contains(e.RequestURI, "fieldManager=gitopsd-cli") || e.ObjectRef.Resource == "selfsubjectreviews" {
			continue // the question itself: as a guest, the engine and its command line are one user
		}
		if strings.HasPrefix(e.ObjectRef.Name, "gitopsd-ledger-") {
			continue // that somebody asked is an entry
		}
		if e.ObjectRef.Resource == "secrets" && e.Verb == "delete" {
			continue // kept revisions of Applications that went with earlier tests
		}
		t.Errorf("the engine wrote: %s %s", e.Verb, e.RequestURI)
	}
}

// readOnly tells requests that cannot change anything: reads, and server-side dry-runs.
func readOnly(e auditEntry) bool {
	return slices.Contains([]string{"get", "list", "watch"}, e.Verb) || strings.Contains(e.RequestURI, "dryRun=All")
}

func auditFile(i *instance) string { return filepath.Join(i.api, "logs", "audit.log") }

func auditSize(t testing.TB, i *instance) int64 {
	t.Helper()
	info, err := os.Stat(auditFile(i))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func auditSince(t testing.TB, i *instance, mark int64) []auditEntry {
	t.Helper()
	b, err := os.ReadFile(auditFile(i))
	if err != nil {
		t.Fatal(err)
	}
	b = b[mark:]
	b = b[:bytes.LastIndexByte(b, '\n')+1] // a line may be half written
	entries, err := parseAudit(b)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// A poll that finds nothing new writes nothing: not even the Application's own status.
func TestIdleEngineWritesNothing(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"c.yaml": configMap("c", "k", "v")}, func(app *v1alpha1.Application) {
		app.Spec.Source.Interval = &metav1.Duration{Duration: time.Second}
	})
	a.await(t)
	version := a.get(t).ResourceVersion
	mark := auditSize(t, i)
	a.repo.commit(t, "a comment", map[string]string{"c.yaml": configMap("c", "k", "v") + "# nothing new\n"}) // one write: the commit is seen
	a.await(t)
	if a.get(t).ResourceVersion == version {
		t.Error("the new commit was not written down")
	}
	for _, e := range auditSince(t, i, mark) {
		if e.User.Username == engineUser && !readOnly(e) && e.ObjectRef.Namespace == a.namespace && e.ObjectRef.Resource != "applications" && e.ObjectRef.Resource != "events" {
			t.Errorf("the engine wrote: %s %s", e.Verb, e.RequestURI)
		}
	}
}

// 50 deletions and 50 changes by hand are undone, each. How fast is for the benchmarks: here the daemon runs under the
// race detector.
func TestHealing(t *testing.T) {
	i := anyCluster(t)
	files := map[string]string{}
	for n := range 100 {
		files[fmt.Sprintf("c%02d.yaml", n)] = configMap(fmt.Sprintf("c%02d", n), "k", "good")
	}
	a := i.deploy(t, files)
	a.await(t)
	maps := i.kube.CoreV1().ConfigMaps(a.namespace)
	w, err := maps.Watch(ctx(t), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	began := map[string]time.Time{}
	for n := range 50 {
		for _, name := range []string{fmt.Sprintf("c%02d", n), fmt.Sprintf("c%02d", n+50)} {
			began[name] = time.Now()
			if name < "c50" {
				err = maps.Delete(ctx(t), name, metav1.DeleteOptions{})
			} else {
				_, err = maps.Patch(ctx(t), name, types.MergePatchType, []byte(`{"data":{"k":"bad"}}`), metav1.PatchOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	var slowest time.Duration
	healed := map[string]bool{}
	bad := map[string]bool{} // seen changed or gone; what was there before is no healing
	timeout := time.After(30 * time.Second)
	for len(healed) < 100 {
		select {
		case ev := <-w.ResultChan():
			m, ok := ev.Object.(*corev1.ConfigMap)
			if !ok || began[m.Name].IsZero() {
				continue
			}
			if ev.Type == "DELETED" || m.Data["k"] == "bad" {
				bad[m.Name] = true
			} else if bad[m.Name] && !healed[m.Name] {
				healed[m.Name] = true
				slowest = max(slowest, time.Since(began[m.Name]))
			}
		case <-timeout:
			t.Fatalf("only %d of 100 were healed", len(healed))
		}
	}
	t.Logf("the slowest of 100 was undone after %s", slowest.Round(time.Millisecond))
}

// With heal off, drift is told and left; a field that someone else added is shown as theirs and left alone.
func TestDriftIsToldApart(t *testing.T) {
	i := anyCluster(t)
	off := false
	a := i.deploy(t, map[string]string{"c.yaml": configMap("c", "k", "v")}, func(app *v1alpha1.Application) { app.Spec.Sync.Heal = &off })
	a.await(t)
	i.mustKubectl(t, "-n", a.namespace, "annotate", "configmap", "c", "note=by-hand")
	eventually(t, 10*time.Second, "their field is told", func() error {
		for _, d := range a.get(t).Status.Drift {
			if !d.Ours && d.Object.Name == "c" && strings.Contains(strings.Join(d.Fields, " "), "note") && d.Manager == "kubectl-annotate" {
				return nil
			}
		}
		return fmt.Errorf("drift is %+v", a.get(t).Status.Drift)
	})
	i.mustKubectl(t, "-n", a.namespace, "patch", "configmap", "c", "--type=merge", "-p", `{"data":{"k":"changed"}}`)
	eventually(t, 10*time.Second, "our changed field is told", func() error {
		st := a.get(t).Status
		for _, d := range st.Drift {
			if d.Ours && strings.Contains(strings.Join(d.Fields, " "), ".data.k") && st.Reason == "Drifted" {
				return nil
			}
		}
		return fmt.Errorf("%s, drift is %+v", st.Reason, st.Drift)
	})
	if out := i.must(t, "status", a.namespace+"/"+a.name); !strings.Contains(out, "theirs, left alone") || !strings.Contains(out, ".data.k") {
		t.Errorf("status does not tell both:\n%s", out)
	}
	a.patch(t, `{"spec":{"sync":{"heal":true}}}`)
	eventually(t, 10*time.Second, "it is healed, and theirs stays", func() error {
		m, err := i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), "c", metav1.GetOptions{})
		if err == nil && (m.Data["k"] != "v" || m.Annotations["note"] != "by-hand") {
			err = fmt.Errorf("data %v, annotations %v", m.Data, m.Annotations)
		}
		return err
	})
}

// What leaves the repository is deleted, and nothing else: not what others made, not what has our name but another UID.
func TestPrune(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "v"), "b.yaml": configMap("b", "k", "v"), "c.yaml": configMap("c", "k", "v")})
	a.await(t)
	i.apply(t, a.namespace, configMap("by-hand", "k", "v"))
	a.repo.commit(t, "without b", map[string]string{"b.yaml": ""})
	if st := a.await(t).Status; st.LastSync.Pruned != 1 || len(st.Inventory) != 2 {
		t.Errorf("pruned %d, %d in the inventory", st.LastSync.Pruned, len(st.Inventory))
	}
	if _, err := i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), "b", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("b: %v", err)
	}
	for _, name := range []string{"a", "c", "by-hand"} {
		if _, err := i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), name, metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	}
	st := a.awaitCommit(t, a.repo.commit(t, "nothing", map[string]string{"a.yaml": "", "c.yaml": "", "README": "empty"}), v1alpha1.Failed).Status
	if st.Reason != "NothingLeft" || !strings.Contains(st.Message, "all 2 objects") {
		t.Errorf("an empty commit: %s: %s", st.Reason, st.Message)
	}
	if _, err := i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), "a", metav1.GetOptions{}); err != nil {
		t.Errorf("an empty commit deleted: %v", err)
	}
	a.repo.revert(t)
	a.await(t)
	i.mustKubectl(t, "-n", a.namespace, "annotate", "configmap", "a", "gitopsd.io/prune=never")
	a.repo.commit(t, "without a", map[string]string{"a.yaml": ""})
	a.await(t)
	if _, err := i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), "a", metav1.GetOptions{}); err != nil {
		t.Errorf("a was pruned although it is never to be: %v", err)
	}
	a.patch(t, `{"spec":{"sync":{"prune":false}}}`)
	a.repo.commit(t, "without c", map[string]string{"c.yaml": ""})
	a.await(t)
	if _, err := i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), "c", metav1.GetOptions{}); err != nil {
		t.Errorf("c was pruned although prune is off: %v", err)
	}
}

// A namespace, a definition and objects of both work in one commit, at the first sync.
func TestNamespacesAndDefinitionsFirst(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"all.yaml": `apiVersion: example.org/v1
kind: Widget
metadata: {name: w, namespace: e2e-widgets}
spec: {size: 3}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c, namespace: e2e-widgets}
---
apiVersion: v1
kind: Namespace
metadata: {name: e2e-widgets}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget, listKind: WidgetList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}
`}, func(app *v1alpha1.Application) { app.Spec.Sync.OnDelete = v1alpha1.Cascade })
	a.await(t)
	if out := i.mustKubectl(t, "-n", "e2e-widgets", "get", "widgets", "w", "-o", "jsonpath={.spec.size}"); out != "3" {
		t.Errorf("the widget has size %s", out)
	}
	i.mustKubectl(t, "-n", a.namespace, "delete", "application", a.name)
	eventually(t, 30*time.Second, "Cascade deletes what the Application made", func() error {
		if out, code := i.kubectl("get", "crd", "widgets.example.org"); code == 0 {
			return fmt.Errorf("still there: %s", out)
		}
		return nil
	})
}

// A deleted Application leaves its objects, and another one may take them over; Cascade deletes them.
func TestDeletingAnApplication(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"c.yaml": configMap("c", "k", "v")})
	a.await(t)
	uid := configMapUID(t, i, a.namespace, "c")
	i.mustKubectl(t, "-n", a.namespace, "delete", "application", a.name)
	if configMapUID(t, i, a.namespace, "c") != uid {
		t.Error("the object did not stay as it was")
	}
	heir := *a
	heir.name = "heir"
	i.createApplication(t, &v1alpha1.Application{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Application"},
		ObjectMeta: metav1.ObjectMeta{Namespace: a.namespace, Name: "heir"},
		Spec: v1alpha1.ApplicationSpec{Source: v1alpha1.Source{Repo: a.repo.dir}, Destination: v1alpha1.Destination{Namespace: a.namespace},
			Sync: v1alpha1.SyncPolicy{OnDelete: v1alpha1.Cascade}},
	})
	heir.await(t)
	if configMapUID(t, i, a.namespace, "c") != uid {
		t.Error("the heir made another object")
	}
	i.mustKubectl(t, "-n", a.namespace, "delete", "application", "heir")
	if _, err := i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), "c", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after Cascade: %v", err)
	}
}

func configMapUID(t testing.TB, i *instance, namespace, name string) types.UID {
	t.Helper()
	m, err := i.kube.CoreV1().ConfigMaps(namespace).Get(ctx(t), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m.UID
}

// An object that another Application has made is refused by the names of both.
func TestTwoApplicationsDoNotShareAnObject(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"c.yaml": configMap("c", "k", "v")})
	a.await(t)
	other := *a
	other.name = "other"
	other.repo = newRepo(t, map[string]string{"c.yaml": configMap("c", "k", "mine")})
	i.createApplication(t, &v1alpha1.Application{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Application"},
		ObjectMeta: metav1.ObjectMeta{Namespace: a.namespace, Name: "other"},
		Spec:       v1alpha1.ApplicationSpec{Source: v1alpha1.Source{Repo: other.repo.dir}, Destination: v1alpha1.Destination{Namespace: a.namespace}},
	})
	st := other.awaitCommit(t, other.repo.head(t), v1alpha1.Failed).Status
	if !strings.Contains(st.Message, "c.yaml") || !strings.Contains(st.Message, a.namespace+"/"+a.name) {
		t.Errorf("the message names not both: %s", st.Message)
	}
}

// suspend stops everything, resume goes on from there.
func TestSuspendAndResume(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"c.yaml": configMap("c", "k", "one")})
	a.await(t)
	full := a.namespace + "/" + a.name
	i.must(t, "suspend", full)
	a.awaitCommit(t, a.repo.head(t), v1alpha1.Suspended)
	a.repo.commit(t, "two", map[string]string{"c.yaml": configMap("c", "k", "two")})
	if out, code := i.run("sync", full); code != 1 || !strings.Contains(out, "resume") {
		t.Errorf("sync of a suspended Application: exit code %d, %s", code, out)
	}
	m, err := i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), "c", metav1.GetOptions{})
	if err != nil || m.Data["k"] != "one" {
		t.Errorf("it was synced: %v %v", m.Data, err)
	}
	i.must(t, "resume", full)
	a.await(t)
}

// An Application waits for those it depends on; a circle is refused by name.
func TestDependencies(t *testing.T) {
	i := anyCluster(t)
	name := nameOf(t)
	i.namespace(t, name)
	r := newRepo(t, map[string]string{"a/a.yaml": configMap("a", "k", "v"), "b/b.yaml": configMap("b", "k", "v")})
	create := func(called, path string, on ...string) *app {
		obj := &v1alpha1.Application{
			TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Application"},
			ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: called},
			Spec:       v1alpha1.ApplicationSpec{Source: v1alpha1.Source{Repo: r.dir, Path: path}, Destination: v1alpha1.Destination{Namespace: name}},
		}
		for _, d := range on {
			obj.Spec.DependsOn = append(obj.Spec.DependsOn, v1alpha1.Dependency{Name: d})
		}
		i.createApplication(t, obj)
		return newApp(i, name, called, r)
	}
	b := create("b", "b", "a")
	eventually(t, 10*time.Second, "b waits", func() error {
		if st := b.get(t).Status; st.Phase != v1alpha1.Waiting || !strings.Contains(st.Message, "does not exist") {
			return fmt.Errorf("%s: %s", st.Phase, st.Message)
		}
		return nil
	})
	a := create("a", "a")
	a.await(t)
	b.await(t)
	dependsAtTheSameCommit(t, a, b)
	a.patch(t, `{"spec":{"dependsOn":[{"name":"b"}]}}`)
	eventually(t, 10*time.Second, "the circle is named", func() error {
		if st := a.get(t).Status; st.Reason != "DependencyCycle" || !strings.Contains(st.Message, "a → b → a") {
			return fmt.Errorf("%s: %s", st.Reason, st.Message)
		}
		return nil
	})
}

// dependsAtTheSameCommit pushes commits that concern both: the one that depends does nothing until the other has applied the same commit and
// is healthy, however the two are looked at, and what it has is looked after meanwhile. A commit that concerns it alone is taken at once.
func dependsAtTheSameCommit(t *testing.T, a, b *app) {
	t.Helper()
	i, ns := a.i, a.namespace
	for n := range 4 {
		value := fmt.Sprint("both ", n)
		awaited := strings.Replace(configMap("a", "k", value), "metadata: {", fmt.Sprintf(`metadata: {annotations: {gitopsd.io/health: "has(data.seen%d)"}, `, n), 1)
		before := i.configMaps(t, ns)["b"]
		head := a.repo.commit(t, value, map[string]string{"a/a.yaml": awaited, "b/b.yaml": configMap("b", "k", value)})
		eventually(t, 10*time.Second, "b waits for a", func() error {
			if st := b.get(t).Status; st.Phase != v1alpha1.Waiting || st.ObservedCommit != head || a.get(t).Status.Phase != v1alpha1.Verifying {
				return errPhase(st)
			}
			return nil
		})
		i.mustKubectl(t, "-n", ns, "patch", "configmap", "b", "--type=merge", "-p", `{"data":{"k":"by hand"}}`)
		eventually(t, 10*time.Second, "what b has is healed", func() error {
			if is := i.configMaps(t, ns)["b"]; is != before {
				return fmt.Errorf("it is %q", is)
			}
			return nil
		})
		i.mustKubectl(t, "-n", ns, "patch", "configmap", "a", "--type=merge", "-p", fmt.Sprintf(`{"data":{"seen%d":"yes"}}`, n))
		b.awaitCommit(t, head, v1alpha1.Applied)
		checkMaps(t, i, ns, map[string]string{"a": value, "b": value})
		own := fmt.Sprint("b alone ", n)
		b.awaitCommit(t, a.repo.commit(t, own, map[string]string{"b/b.yaml": configMap("b", "k", own)}), v1alpha1.Applied)
	}
}

func newApp(i *instance, namespace, name string, r *repo) *app { return &app{i, namespace, name, r} }

// An Application with a service account acts with the rights of that account and no others.
func TestServiceAccount(t *testing.T) {
	i := anyCluster(t)
	name := nameOf(t)
	a := i.deploy(t, map[string]string{"c.yaml": configMap("c", "k", "v")}, func(app *v1alpha1.Application) {
		app.Spec.Destination.ServiceAccountName = "deployer"
	})
	st := a.awaitCommit(t, a.repo.head(t), v1alpha1.Failed).Status
	if !strings.Contains(st.Message, "system:serviceaccount:"+name+":deployer") {
		t.Errorf("the message does not name the account: %s", st.Message)
	}
	i.mustKubectl(t, "-n", name, "create", "serviceaccount", "deployer")
	i.mustKubectl(t, "-n", name, "create", "rolebinding", "deployer", "--clusterrole=edit", "--serviceaccount="+name+":deployer")
	i.must(t, "sync", name+"/"+name)
	a.await(t)
}
