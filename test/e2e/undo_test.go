package e2e

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// What an undo leaves, and what it gives back.

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
	name := nameOf(t)
	r := newRepo(t, map[string]string{"a/own.yaml": configMap("own-a", "k", "v"), "b/own.yaml": configMap("own-b", "k", "v"), "a/moves.yaml": configMap("moves", "k", "one")})
	i.namespace(t, name)
	apps := map[string]*app{}
	for _, folder := range []string{"a", "b"} {
		apps[folder] = &app{i, name, folder, r}
		obj := apps[folder].object()
		withTimeout(4 * time.Second)(obj)
		obj.Spec.Source.Path = folder
		i.createApplication(t, obj)
		apps[folder].await(t)
	}
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
