package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What one commit brings together with what stands on it.

// gizmos is a definition with these properties of spec, as YAML of one line.
func gizmos(properties string) string {
	return fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gizmos.e2e.example.org}
spec:
  group: e2e.example.org
  scope: Namespaced
  names: {kind: Gizmo, plural: gizmos, singular: gizmo, listKind: GizmoList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {%s}}}}}
`, properties)
}

func gizmo(name, spec string) string {
	return fmt.Sprintf("apiVersion: e2e.example.org/v1\nkind: Gizmo\nmetadata: {name: %s}\nspec: {%s}\n", name, spec)
}

// A version that a failed revision added to a definition goes again, and objects that it moved there are back in the one they had: those of the
// base, and those that had been left by an Application that is gone.
func TestUndoOfAVersion(t *testing.T) {
	i := anyCluster(t)
	const name, size = "sprockets.e2e.example.org", "size: {type: integer}"
	crd := strings.NewReplacer("gizmos", "sprockets", "Gizmo", "Sprocket", "gizmo", "sprocket").Replace(gizmos(size))
	v2 := crd[strings.Index(crd, "  - name: v1"):]
	v2 = strings.NewReplacer("name: v1", "name: v2", "storage: true", "storage: false", size, size+", color: {type: string}").Replace(v2)
	sprocket := func(name, version, spec string) string {
		return strings.NewReplacer("Gizmo", "Sprocket", "/v1", "/"+version).Replace(gizmo(name, spec))
	}
	old := i.deploy(t, map[string]string{"crd.yaml": crd, "left.yaml": sprocket("left", "v1", "size: 1")})
	t.Cleanup(func() { i.kubectl("delete", "crd", name, "--ignore-not-found") })
	old.await(t)
	i.mustKubectl(t, "-n", old.namespace, "delete", "application", old.name)
	a := &app{i, old.namespace, "a", newRepo(t, map[string]string{"crd.yaml": crd, "a.yaml": sprocket("a", "v1", "size: 1"), "b.yaml": sprocket("b", "v1", "size: 1")})}
	obj := a.object()
	withTimeout(4 * time.Second)(obj)
	i.createApplication(t, obj)
	a.await(t)

	versions := func(want string, objects ...string) {
		t.Helper()
		if got := i.mustKubectl(t, "get", "crd", name, "-o", "jsonpath={.spec.versions[*].name}"); got != want {
			t.Errorf("the definition has versions %s, want %s", got, want)
		}
		for _, object := range objects {
			if got := i.mustKubectl(t, "-n", a.namespace, "get", "sprockets.v1.e2e.example.org", object, "-o", "jsonpath={.spec}"); got != `{"size":1}` {
				t.Errorf("%s is %s", object, got)
			}
		}
	}
	bad := map[string]string{"crd.yaml": crd + v2, "a.yaml": sprocket("a", "v2", "size: 2"), "b.yaml": sprocket("b", "v2", "size: 1"), "left.yaml": sprocket("left", "v2", "size: 2"), "web.yaml": brokenImage("")}
	a.awaitCommit(t, a.repo.commit(t, "bad", bad), v1alpha1.RolledBack)
	versions("v1", "a", "b", "left")
	if st := a.get(t).Status; holds(st, "left") {
		t.Errorf("status: %+v", st)
	}

	// The API converts what is applied to the version in which it was applied before, which does not know what is new. That is no obstacle,
	// neither there nor back.
	bad["a.yaml"] = sprocket("a", "v2", "size: 2, color: red")
	a.awaitCommit(t, a.repo.commit(t, "bad too", bad), v1alpha1.RolledBack)
	versions("v1", "a", "b", "left")
	a.repo.commit(t, "good", map[string]string{"b.yaml": "", "left.yaml": "", "web.yaml": ""})
	a.await(t)
	// Where objects are stored in the new version too, there is no way back, and the plan says so.
	stored := strings.Replace(crd, "storage: true", "storage: false", 1) + strings.Replace(v2, "storage: false", "storage: true", 1)
	writeFile(t, filepath.Join(a.repo.dir, "crd.yaml"), stored)
	if out, _ := i.run("plan", a.namespace+"/"+a.name, "--dir", a.repo.dir); !strings.Contains(out, "CustomResourceDefinition "+name+" stores its objects as v2 from then on") {
		t.Errorf("the plan says\n%s", out)
	}
	a.repo.commit(t, "stored", map[string]string{"crd.yaml": stored, "a.yaml": sprocket("a", "v2", "color: red")})
	a.await(t)
	if got := i.mustKubectl(t, "-n", a.namespace, "get", "sprockets.v2.e2e.example.org", "a", "-o", "jsonpath={.spec}"); got != `{"color":"red"}` {
		t.Errorf("a is %s", got)
	}
}

// A definition and its objects change in one commit: what is new in the definition may be used at once, what it does not allow is
// refused before anything is written, and both go back together.
func TestDefinitionAndObjectsChangeTogether(t *testing.T) {
	i := anyCluster(t)
	const size, color, shape = "size: {type: integer}", "color: {type: string, maxLength: 5}", "shape: {type: string, enum: [round, square]}"
	bad := map[string]string{"crd.yaml": gizmos(size), "a.yaml": gizmo("a", "size: big, color: red"), "m.yaml": configMap("m", "k", "one")}
	a := i.deploy(t, bad, withTimeout(6*time.Second), func(app *v1alpha1.Application) { app.Spec.Sync.OnDelete = v1alpha1.Cascade })
	t.Cleanup(func() { i.kubectl("delete", "crd", "gizmos.e2e.example.org", "--ignore-not-found") })
	refused := func(commit string, words ...string) {
		t.Helper()
		st := a.awaitCommit(t, commit, v1alpha1.Failed).Status
		for _, w := range append(words, "a.yaml", "crd.yaml") {
			if !strings.Contains(st.Message, w) {
				t.Errorf("it does not say %q: %s", w, st.Message)
			}
		}
		if st.Reason != "ObjectsRefused" || st.Intent != nil {
			t.Errorf("%s, intent %v", st.Reason, st.Intent)
		}
	}
	refused(a.repo.head(t), `unknown field "spec.color"`, "spec.size")
	if out, code := i.kubectl("get", "crd", "gizmos.e2e.example.org"); code == 0 {
		t.Errorf("the definition was written: %s", out)
	}
	checkMaps(t, i, a.namespace, map[string]string{})

	a.repo.commit(t, "good", map[string]string{"a.yaml": gizmo("a", "size: 1")})
	a.await(t)
	a.repo.commit(t, "a new field", map[string]string{"crd.yaml": gizmos(size + ", " + color), "a.yaml": gizmo("a", "size: 1, color: red"), "b.yaml": gizmo("b", "color: blue")})
	a.await(t)
	spec := func(want string) {
		t.Helper()
		if got := i.mustKubectl(t, "-n", a.namespace, "get", "gizmos", "a", "-o", "jsonpath={.spec}"); got != want {
			t.Errorf("a is %s, want %s", got, want)
		}
	}
	spec(`{"color":"red","size":1}`)

	wrong := a.repo.commit(t, "wrong", map[string]string{"crd.yaml": gizmos(size + ", " + color + ", " + shape), "a.yaml": gizmo("a", "color: yellow, shape: long, weight: 2"),
		"c.yaml": gizmo("c", "size: none"), "m.yaml": configMap("m", "k", "two")})
	refused(wrong, "spec.color", "Too long", "spec.shape", "square", `unknown field "spec.weight"`, "c.yaml", "spec.size")
	checkMaps(t, i, a.namespace, map[string]string{"m": "one"})
	if got := i.mustKubectl(t, "get", "crd", "gizmos.e2e.example.org", "-o", "jsonpath={.spec}"); strings.Contains(got, "shape") {
		t.Errorf("the definition was written: %s", got)
	}

	fails := a.repo.commit(t, "fails", map[string]string{"a.yaml": gizmo("a", "color: red, shape: round"), "c.yaml": gizmo("c", "shape: square"), "web.yaml": brokenImage("")})
	a.awaitCommit(t, fails, v1alpha1.RolledBack)
	spec(`{"color":"red","size":1}`)
	checkMaps(t, i, a.namespace, map[string]string{"m": "one"})
	if got := i.mustKubectl(t, "-n", a.namespace, "get", "gizmos", "-o", "name"); strings.Contains(got, "/c") {
		t.Errorf("left: %s", got)
	}
	a.repo.commit(t, "mended", map[string]string{"web.yaml": ""})
	a.await(t)
	spec(`{"color":"red","shape":"round"}`)
}

// An account that may give no more than it has binds a Role that comes with the same commit.
func TestRoleAndBindingTogether(t *testing.T) {
	i := anyCluster(t)
	role := func(verbs string) string {
		return "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader}\nrules: [{apiGroups: [\"\"], resources: [configmaps], verbs: [" + verbs + "]}]\n"
	}
	binding := "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: reader}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}\n" +
		"subjects: [{kind: ServiceAccount, name: reader}]\n"
	account := "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: reader}\n"
	name := nameOf(t)
	a := i.deploy(t, map[string]string{"m.yaml": configMap("m", "k", "v")}, withTimeout(20*time.Second), func(app *v1alpha1.Application) {
		app.Spec.Destination.ServiceAccountName = "deployer"
	})
	i.mustKubectl(t, "-n", name, "create", "serviceaccount", "deployer")
	i.mustKubectl(t, "-n", name, "create", "rolebinding", "deployer", "--clusterrole=admin", "--serviceaccount="+name+":deployer")
	i.must(t, "sync", name+"/"+name)
	a.await(t)
	a.repo.commit(t, "a role and its binding", map[string]string{"b.yaml": binding, "r.yaml": role("get, list"), "s.yaml": account})
	a.await(t)
	if _, err := i.kube.RbacV1().RoleBindings(name).Get(ctx(t), "reader", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	// More than it has it cannot give, and nothing is written before that is known.
	other := strings.NewReplacer("name: reader", "name: other").Replace
	greedy := a.repo.commit(t, "too much", map[string]string{"b2.yaml": other(binding), "r2.yaml": other(role("get, use")), "m.yaml": configMap("m", "k", "two")})
	st := a.awaitCommit(t, greedy, v1alpha1.Failed).Status
	if st.Reason != "ObjectsRefused" || !strings.Contains(st.Message, "r2.yaml") {
		t.Errorf("%s: %s", st.Reason, st.Message)
	}
	checkMaps(t, i, name, map[string]string{"m": "v"})
	a.repo.commit(t, "gone again", map[string]string{"b2.yaml": "", "r2.yaml": "", "b.yaml": "", "r.yaml": ""})
	a.await(t)
	if _, err := i.kube.RbacV1().Roles(name).Get(ctx(t), "reader", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Role: %v", err)
	}
}

// Objects that do not go keep their own Applications waiting, which say what holds them; all others are worked on.
func TestWhatDoesNotGoHoldsNobodyUp(t *testing.T) {
	i := anyCluster(t)
	const many = 17 // more than are worked on at once
	files := map[string]string{"other/m.yaml": configMap("other", "k", "one")}
	for n := range many {
		files[fmt.Sprintf("%d/m.yaml", n)] = configMap(fmt.Sprint("m", n), "k", "v")
	}
	r, name := newRepo(t, files), nameOf(t)
	i.namespace(t, name)
	follow := func(folder string) *app {
		a := &app{i, name, "f" + folder, r}
		obj := a.object()
		obj.Spec.Source.Path = folder
		i.createApplication(t, obj)
		return a
	}
	other, apps := follow("other"), []*app{}
	for n := range many {
		apps = append(apps, follow(fmt.Sprint(n)))
	}
	for _, a := range append(apps, other) {
		a.await(t)
	}
	release := func() {
		for n := range many {
			i.kubectl("-n", name, "patch", "configmap", fmt.Sprint("m", n), "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
		}
	}
	t.Cleanup(release)
	for n := range many {
		i.mustKubectl(t, "-n", name, "patch", "configmap", fmt.Sprint("m", n), "--type=merge", "-p", `{"metadata":{"finalizers":["e2e.example.org/hold"]}}`)
	}
	i.mustKubectl(t, "-n", name, "delete", "configmaps", "--all", "--wait=false")
	eventually(t, 30*time.Second, "each says what holds its object", func() error {
		for _, a := range apps {
			if st := a.get(t).Status; !strings.Contains(st.Message, "has not gone yet (finalizers: [e2e.example.org/hold])") {
				return fmt.Errorf("%s: %w", a.name, errPhase(st))
			}
		}
		return nil
	})
	r.commit(t, "another's", map[string]string{"other/m.yaml": configMap("other", "k", "two")})
	eventually(t, 20*time.Second, "the other one goes on", func() error {
		if st := other.get(t).Status; st.Phase != v1alpha1.Applied || st.AppliedRevision.Commit != r.head(t) {
			return errPhase(st)
		}
		return nil
	})
	release()
	for _, a := range apps {
		a.await(t)
	}
	if left := i.configMaps(t, name); len(left) != many+1 {
		t.Errorf("%d of %d are back", len(left), many+1)
	}
}
