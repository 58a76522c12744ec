package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// asDeployer has an Application act as the account deployer of its namespace.
func asDeployer(app *v1alpha1.Application) { app.Spec.Destination.ServiceAccountName = "deployer" }

// neighbour is an Application of somebody else, which goes on whatever happens beside it.
type neighbour struct {
	*app
	commits int
}

func newNeighbour(t testing.TB, i *instance) *neighbour {
	t.Helper()
	n := &neighbour{app: newApp(i, nameOf(t)+"-other", "other", newRepo(t, map[string]string{"a.yaml": configMap("theirs", "k", "0")}))}
	i.namespace(t, n.namespace)
	i.createApplication(t, n.object())
	t.Cleanup(func() {
		_ = i.dyn.Resource(appResource).Namespace(n.namespace).Delete(cleanupContext(), n.name, metav1.DeleteOptions{})
	})
	n.await(t)
	return n
}

// goesOn has the neighbour sync one commit more, and finds nothing in its namespace that is not its own.
func (n *neighbour) goesOn(t testing.TB) {
	t.Helper()
	n.commits++
	n.repo.commit(t, "goes on", map[string]string{"a.yaml": configMap("theirs", "k", fmt.Sprint(n.commits))})
	n.await(t)
	checkMaps(t, n.i, n.namespace, map[string]string{"theirs": fmt.Sprint(n.commits)})
}

// What the account of an Application may not do, no commit of its repository does: the message names the object and the
// account, nothing of the commit is written, and the others go on.
func TestTenantStaysWithinItsRights(t *testing.T) {
	i := anyCluster(t)
	other := newNeighbour(t, i)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one")}, asDeployer)
	i.mustKubectl(t, "-n", a.namespace, "create", "serviceaccount", "deployer")
	i.mustKubectl(t, "-n", a.namespace, "create", "rolebinding", "deployer", "--clusterrole=admin", "--serviceaccount="+a.namespace+":deployer")
	i.must(t, "sync", a.namespace+"/"+a.name)
	a.await(t)
	for name, c := range map[string]struct{ object, says string }{
		"an object of another namespace": {
			strings.Replace(configMap("loot", "k", "v"), "name: loot", "name: loot, namespace: "+other.namespace, 1), "ConfigMap " + other.namespace + "/loot"},
		"an object of the cluster": {
			"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: " + a.namespace + "}\nrules: [{apiGroups: [\"\"], resources: [secrets], verbs: [get]}]\n", "ClusterRole " + a.namespace},
		"rights that it does not have": {
			"apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: more}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}\n" +
				"subjects: [{kind: ServiceAccount, name: deployer}]\n", "RoleBinding " + a.namespace + "/more"},
		"labels that lower pod security": {
			"apiVersion: v1\nkind: Namespace\nmetadata: {name: " + a.namespace + ", labels: {pod-security.kubernetes.io/enforce: privileged}}\n", "Namespace " + a.namespace},
	} {
		t.Run(name, func(t *testing.T) {
			commit := a.repo.commit(t, name, map[string]string{"a.yaml": configMap("a", "k", "two"), "bad.yaml": c.object})
			st := a.awaitCommit(t, commit, v1alpha1.Failed).Status
			if st.Reason != "ObjectsRefused" || !strings.Contains(st.Message, c.says) || !strings.Contains(st.Message, "system:serviceaccount:"+a.namespace+":deployer") {
				t.Errorf("%s: %s", st.Reason, st.Message)
			}
			checkMaps(t, i, a.namespace, map[string]string{"a": "one"})
			other.goesOn(t)
		})
	}
	ns, err := i.kube.CoreV1().Namespaces().Get(ctx(t), a.namespace, metav1.GetOptions{})
	if err != nil || ns.Labels["pod-security.kubernetes.io/enforce"] != "" {
		t.Errorf("the namespace has the labels %v, %v", ns.Labels, err)
	}
	if _, err := i.kube.RbacV1().ClusterRoles().Get(ctx(t), a.namespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the ClusterRole: %v", err)
	}
	a.repo.commit(t, "good again", map[string]string{"a.yaml": configMap("a", "k", "three"), "bad.yaml": ""})
	a.await(t)
}

// Values come from the Application's own namespace: there is no field for another one, and who writes it is told so, or is
// given what the own namespace has.
func TestValuesFromAnotherNamespace(t *testing.T) {
	i := anyCluster(t)
	r := newRepo(t, map[string]string{"Chart.yaml": chartYAML, "templates/c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {k: {{ .Values.k | quote }}}\n"})
	const canary = "canary-of-another-tenant-8d"
	other := nameOf(t) + "-other"
	i.namespace(t, other)
	values := func(namespace, k string) {
		t.Helper()
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "values"}, StringData: map[string]string{"values.yaml": "k: " + k}}
		if _, err := i.kube.CoreV1().Secrets(namespace).Create(ctx(t), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	values(other, canary)
	a := i.follow(t, r, func(app *v1alpha1.Application) { app.Spec.Sync.Suspend = true })
	manifest := func(name string) string {
		return fmt.Sprintf("apiVersion: gitopsd.io/v1alpha1\nkind: Application\nmetadata: {name: %s, namespace: %s}\nspec: {source: {repo: %s, ref: {branch: main}}, destination: {namespace: %s},"+
			" render: {helm: {valuesFrom: [{kind: Secret, name: values, namespace: %s}]}}}\n", name, a.namespace, r.dir, a.namespace, other)
	}
	file := filepath.Join(t.TempDir(), "app.yaml")
	writeFile(t, file, manifest("thief"))
	if out, code := i.kubectl("apply", "-f", file); code == 0 || !strings.Contains(out, `unknown field "spec.render.helm.valuesFrom[0].namespace"`) {
		t.Errorf("kubectl apply: exit code %d: %s", code, out)
	}
	parent := &app{i, a.namespace, "parent", newRepo(t, map[string]string{"thief.yaml": manifest("thief")})}
	i.createApplication(t, parent.object())
	if st := parent.awaitCommit(t, parent.repo.head(t), v1alpha1.Failed).Status; !strings.Contains(st.Message, "valuesFrom[0].namespace") {
		t.Errorf("by a repository: %s: %s", st.Reason, st.Message)
	}
	i.mustKubectl(t, "apply", "--validate=false", "-f", file)
	thief := &app{i, a.namespace, "thief", r}
	if st := thief.awaitCommit(t, r.head(t), v1alpha1.Failed).Status; !strings.Contains(st.Message, "there is no Secret values in namespace "+a.namespace) || strings.Contains(st.Message, canary) {
		t.Errorf("without validation: %s: %s", st.Reason, st.Message)
	}
	values(a.namespace, "own")
	i.must(t, "sync", thief.namespace+"/"+thief.name)
	thief.await(t)
	checkMaps(t, i, a.namespace, map[string]string{"c": "own"})
}

// A link out of the tree that is pushed reads nothing of the machine, whoever follows it; the status names the link, and the
// others go on.
func TestLinksOutOfThePushedTree(t *testing.T) {
	i := anyCluster(t)
	other := newNeighbour(t, i)
	secret := filepath.Join(t.TempDir(), "canary.yaml")
	writeFile(t, secret, configMap("loot", "k", "canary-of-the-machine-5f"))
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one")})
	a.await(t)
	for name, c := range map[string]struct {
		link  string
		files map[string]string
	}{
		"a manifest":      {"loot.yaml", nil},
		"a resource":      {"linked.yaml", map[string]string{"kustomization.yaml": "resources: [a.yaml, linked.yaml]\n"}},
		"a generator":     {"linked.txt", map[string]string{"kustomization.yaml": "resources: [a.yaml]\nconfigMapGenerator: [{name: loot, files: [linked.txt]}]\n"}},
		"a chart's file":  {"values.yaml", map[string]string{"Chart.yaml": chartYAML, "templates/c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: loot}\ndata: {k: {{ .Values.kind }}}\n"}},
		"a folder of all": {"manifests", map[string]string{"kustomization.yaml": "resources: [manifests/canary.yaml]\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			target := secret
			if c.link == "manifests" {
				target = filepath.Dir(secret)
			}
			if err := os.Symlink(target, filepath.Join(a.repo.dir, c.link)); err != nil {
				t.Fatal(err)
			}
			st := a.awaitCommit(t, a.repo.commit(t, name, c.files), v1alpha1.Failed).Status
			if st.Reason != "RenderFailed" || !strings.Contains(st.Message, c.link) || strings.Contains(st.Message, "canary-of") {
				t.Errorf("%s: %s", st.Reason, st.Message)
			}
			checkMaps(t, i, a.namespace, map[string]string{"a": "one"})
			other.goesOn(t)
			a.repo.revert(t)
			a.await(t)
		})
	}
	if strings.Contains(i.output(), "canary-of-the-machine") {
		t.Error("the log tells what the link leads to")
	}
}
