package e2e

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// What an undo leaves, and what it gives back.

// A claim that a failed revision made may hold data by then: it stays, told as residue, for as long as nobody deletes it. A later
// revision takes it over as it is.
func TestUndoKeepsClaims(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one")}, withTimeout(4*time.Second))
	a.await(t)
	i.volume(t, a.namespace, "data")
	claim := "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {storageClassName: \"\", volumeName: " + a.namespace + ", accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}\n"
	bad := a.repo.commit(t, "bad", map[string]string{"data.yaml": claim, "web.yaml": brokenImage(""), "b.yaml": configMap("b", "k", "two")})
	st := a.awaitCommit(t, bad, v1alpha1.RolledBack).Status
	if st.Rejected == nil || len(st.Rejected.Residue) != 1 || st.Rejected.Residue[0].Kind != "PersistentVolumeClaim" || st.Rejected.Residue[0].Name != "data" ||
		!strings.Contains(st.Message, "PersistentVolumeClaim data was made by it and is left") {
		t.Errorf("status: %s, rejected %+v", st.Message, st.Rejected)
	}
	uid := claimUID(t, i, a.namespace)
	checkMaps(t, i, a.namespace, map[string]string{"a": "one"})

	a.repo.commit(t, "without it", map[string]string{"data.yaml": "", "web.yaml": "", "b.yaml": "", "a.yaml": configMap("a", "k", "two")})
	a.await(t)
	i.must(t, "sync", a.namespace+"/"+a.name)
	consistently(t, 2*time.Second, "what nobody declares stays", func() error {
		c, err := i.kube.CoreV1().PersistentVolumeClaims(a.namespace).Get(ctx(t), "data", metav1.GetOptions{})
		if err == nil && (c.UID != uid || c.DeletionTimestamp != nil) {
			err = fmt.Errorf("it is another one, or goes")
		}
		return err
	})
	// A revision that declares it again and fails too leaves it as it was.
	again := a.repo.commit(t, "fails again", map[string]string{"data.yaml": strings.Replace(claim, "name: data", "name: data, labels: {x: y}", 1), "web.yaml": brokenImage("")})
	a.awaitCommit(t, again, v1alpha1.RolledBack)
	if c, err := i.kube.CoreV1().PersistentVolumeClaims(a.namespace).Get(ctx(t), "data", metav1.GetOptions{}); err != nil || c.UID != uid || c.Labels["x"] != "" || c.DeletionTimestamp != nil {
		t.Errorf("after the second undo: %v, %v", c, err)
	}
	a.repo.commit(t, "with it", map[string]string{"data.yaml": claim, "web.yaml": ""})
	a.await(t)
	if claimUID(t, i, a.namespace) != uid || !holds(a.get(t).Status, "data") {
		t.Error("the claim is another one, or not in the inventory")
	}
}

func claimUID(t testing.TB, i *instance, namespace string) types.UID {
	t.Helper()
	c, err := i.kube.CoreV1().PersistentVolumeClaims(namespace).Get(ctx(t), "data", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return c.UID
}

// volume makes a volume for a claim; it is called what the namespace is.
func (i *instance) volume(t testing.TB, namespace, claim string) {
	t.Helper()
	i.apply(t, namespace, fmt.Sprintf("apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: %s}\nspec: {storageClassName: \"\", capacity: {storage: 1Mi}, accessModes: [ReadWriteOnce], "+
		"hostPath: {path: %q}, claimRef: {namespace: %[1]s, name: %[3]s}}\n", namespace, t.TempDir(), claim))
	t.Cleanup(func() {
		_ = i.kube.CoreV1().PersistentVolumes().Delete(cleanupContext(), namespace, metav1.DeleteOptions{})
	})
}

// appliedBefore is an Application's content of several kinds; others is what one that fails makes of them.
func appliedBefore(value string) map[string]string {
	return map[string]string{
		"map.yaml":     "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, labels: {l: " + value + "}, annotations: {n: " + value + ", only-" + value + ": x}}\ndata: {k: " + value + ", only-" + value + ": x}\n",
		"secret.yaml":  "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {d: " + map[string]string{"one": "b25l", "two": "dHdv"}[value] + "}\n",
		"text.yaml":    "apiVersion: v1\nkind: Secret\nmetadata: {name: t}\nstringData: {k: " + value + "}\n",
		"service.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: svc}\nspec: {selector: {app: " + value + "}, ports: [{name: b, port: 81}, {name: a, port: 80}]}\n",
		"deploy.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  replicas: 0\n  selector: {matchLabels: {app: d}}\n  template:\n    metadata: {labels: {app: d}}\n" +
			"    spec: {containers: [{name: z, image: z, env: [{name: B, value: " + value + "}, {name: A, value: a}]}, {name: a, image: a}]}\n",
	}
}

// seen are objects as they are, but for what every write changes.
func (i *instance) seen(t testing.TB, namespace string) map[string]map[string]any {
	t.Helper()
	out := map[string]map[string]any{}
	for name, gvr := range map[string]schema.GroupVersionResource{
		"m": {Version: "v1", Resource: "configmaps"}, "s": {Version: "v1", Resource: "secrets"}, "t": {Version: "v1", Resource: "secrets"},
		"svc": {Version: "v1", Resource: "services"}, "d": {Group: "apps", Version: "v1", Resource: "deployments"},
	} {
		u, err := i.dyn.Resource(gvr).Namespace(namespace).Get(ctx(t), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		unstructured.RemoveNestedField(u.Object, "status")
		for _, field := range []string{"managedFields", "resourceVersion", "generation"} {
			unstructured.RemoveNestedField(u.Object, "metadata", field)
		}
		annotations := u.GetAnnotations()
		delete(annotations, "deployment.kubernetes.io/revision")
		u.SetAnnotations(annotations)
		out[name] = u.Object
	}
	return out
}

// Objects that an Application left, when it was deleted, have their fields under our name. If the first revision of the next one,
// of the same name or of another, fails, they are as they were: nothing of them is emptied.
func TestUndoGivesBackWhatWasAppliedBefore(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, appliedBefore("one"))
	a.await(t)
	before := i.seen(t, a.namespace)
	i.mustKubectl(t, "-n", a.namespace, "delete", "application", a.name)
	for _, name := range []string{a.name, "heir"} {
		next := &app{i, a.namespace, name, newRepo(t, appliedBefore("two"))}
		next.repo.commit(t, "and fails", map[string]string{"web.yaml": brokenImage("")})
		obj := next.object()
		withTimeout(4 * time.Second)(obj)
		i.createApplication(t, obj)
		st := next.awaitCommit(t, next.repo.head(t), v1alpha1.RolledBack).Status
		if st.AppliedRevision != nil || len(st.Inventory) > 0 {
			t.Errorf("%s: status %+v", name, st)
		}
		for object, now := range i.seen(t, a.namespace) {
			if !reflect.DeepEqual(now, before[object]) {
				t.Errorf("%s: %s is\n%v\nand was\n%v", name, object, now, before[object])
			}
		}
		i.mustKubectl(t, "-n", a.namespace, "delete", "application", name)
	}
}

// An object that a commit moves to another Application, of which the revision fails, is as the first one left it, and stays so
// until the second one's next revision takes it.
func TestUndoOfAMove(t *testing.T) {
	i := anyCluster(t)
	r, apps := i.twoFolders(t, withTimeout(4*time.Second))
	name := apps["a"].namespace
	apps["a"].await(t)
	apps["b"].await(t)
	uid := configMapUID(t, i, name, "moves")
	bad := r.commit(t, "moves and fails", map[string]string{"a/moves.yaml": "", "b/moves.yaml": configMap("moves", "k", "two"), "b/web.yaml": brokenImage("")})
	apps["b"].awaitCommit(t, bad, v1alpha1.RolledBack)
	i.must(t, "sync", name+"/a")
	consistently(t, 3*time.Second, "it is as a left it", func() error {
		m, err := i.kube.CoreV1().ConfigMaps(name).Get(ctx(t), "moves", metav1.GetOptions{})
		if err == nil && (m.UID != uid || m.Data["k"] != "one" || m.Labels[v1alpha1.LabelApplication] != name+".a") {
			err = fmt.Errorf("it is %v, labels %v", m.Data, m.Labels)
		}
		return err
	})
	r.commit(t, "mended", map[string]string{"b/web.yaml": ""})
	apps["b"].await(t)
	if configMapUID(t, i, name, "moves") != uid {
		t.Error("it was made again")
	}
	checkMaps(t, i, name, map[string]string{"own-a": "v", "own-b": "v", "moves": "two"})
}

// Namespaces and definitions that a failed revision made go again if nothing is in them but what goes itself; what somebody
// has put into them keeps them.
func TestUndoRemovesWhatIsEmpty(t *testing.T) {
	i := anyCluster(t)
	name := nameOf(t)
	namespaces := []string{name + "-empty", name + "-used"}
	content := func(folder string) string {
		return "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + folder + "}\n---\n" +
			strings.Replace(configMap("m", "k", "v"), "name: m", "name: m, namespace: "+folder, 1) + "---\n" +
			strings.Replace(brokenImage(""), "name: web", "name: web, namespace: "+folder, 1)
	}
	things := func(kind string) string {
		return strings.NewReplacer("gizmos", strings.ToLower(kind)+"s", "Gizmo", kind, "gizmo", strings.ToLower(kind)).Replace(gizmos("size: {type: integer}"))
	}
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one")}, withTimeout(25*time.Second))
	t.Cleanup(func() {
		i.kubectl("delete", "namespace", "--ignore-not-found", "--wait=false", namespaces[0], namespaces[1])
		i.kubectl("delete", "crd", "--ignore-not-found", "empties.e2e.example.org", "emptys.e2e.example.org", "useds.e2e.example.org")
	})
	a.await(t)
	bad := a.repo.commit(t, "bad", map[string]string{"n0.yaml": content(namespaces[0]), "n1.yaml": content(namespaces[1]), "c0.yaml": things("Empty"), "c1.yaml": things("Used"),
		"e.yaml": "apiVersion: e2e.example.org/v1\nkind: Empty\nmetadata: {name: e}\nspec: {size: 1}\n"})
	a.awaitCommit(t, bad, v1alpha1.Verifying)
	for resource, object := range map[schema.GroupVersionResource]map[string]any{
		{Version: "v1", Resource: "configmaps"}:                      {"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"k": "v"}},
		{Group: "e2e.example.org", Version: "v1", Resource: "useds"}: {"apiVersion": "e2e.example.org/v1", "kind": "Used"},
	} {
		theirs := &unstructured.Unstructured{Object: object}
		theirs.SetName("theirs")
		eventually(t, 10*time.Second, "somebody puts an object there", func() error {
			_, err := i.dyn.Resource(resource).Namespace(namespaces[1]).Create(ctx(t), theirs, metav1.CreateOptions{})
			return err
		})
	}
	st := a.awaitCommit(t, bad, v1alpha1.RolledBack).Status
	var left []string
	for _, o := range st.Rejected.Residue {
		left = append(left, o.Kind+" "+o.Name)
	}
	slices.Sort(left)
	if want := []string{"CustomResourceDefinition useds.e2e.example.org", "Namespace " + namespaces[1]}; !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
	eventually(t, 30*time.Second, "what is empty is gone", func() error {
		for _, what := range [][]string{{"namespace", namespaces[0]}, {"crd", "emptys.e2e.example.org"}} {
			if out, code := i.kubectl("get", what[0], what[1]); code == 0 {
				return fmt.Errorf("still there: %s", out)
			}
		}
		return nil
	})
	checkMaps(t, i, namespaces[1], map[string]string{"theirs": "v"})
	i.mustKubectl(t, "-n", namespaces[1], "get", "useds", "theirs")

	// And they come again with the next revision.
	mended := map[string]string{"n1.yaml": "", "c1.yaml": ""}
	mended["n0.yaml"] = strings.Split(content(namespaces[0]), "---\napiVersion: apps")[0]
	a.repo.commit(t, "mended", mended)
	a.await(t)
	checkMaps(t, i, namespaces[0], map[string]string{"m": "v"})
}
