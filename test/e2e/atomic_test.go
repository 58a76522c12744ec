package e2e

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// withTimeout gives a revision so long to become healthy.
func withTimeout(d time.Duration) func(*v1alpha1.Application) {
	return func(a *v1alpha1.Application) { a.Spec.Sync.Timeout = &metav1.Duration{Duration: d} }
}

// podTimeout is withTimeout for revisions with pods: where those are real ones, a good revision has time to start them on a machine that is busy
// with other tests.
func podTimeout(d time.Duration) func(*v1alpha1.Application) {
	if !onPlain {
		d = max(d, 20*time.Second)
	}
	return withTimeout(d)
}

// brokenImage is a Deployment that never becomes healthy.
func brokenImage(replicas string) string {
	return `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
` + replicas + `  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: "127.0.0.1:1/absent:v1"}]}
`
}

func goodImage(replicas string) string {
	if onPlain && replicas == "" {
		replicas = "  replicas: 0\n" // healthy without a node
	}
	return strings.ReplaceAll(brokenImage(replicas), "127.0.0.1:1/absent:v1", helloImage("v1"))
}

// maps of a namespace: every ConfigMap that is not the API's own, with its values.
func (i *instance) configMaps(t testing.TB, namespace string) map[string]string {
	t.Helper()
	list, err := i.kube.CoreV1().ConfigMaps(namespace).List(ctx(t), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, m := range list.Items {
		if m.Name != "kube-root-ca.crt" {
			out[m.Name] = m.Data["k"]
		}
	}
	return out
}

func checkMaps(t testing.TB, i *instance, namespace string, want map[string]string) {
	t.Helper()
	if got := i.configMaps(t, namespace); !maps.Equal(got, want) {
		t.Errorf("the namespace has %v, want %v", got, want)
	}
}

// A revision that does not become healthy is undone wholly: what it changed, what it made, what it would have pruned. It is
// told as RolledBack, never as success, and is not tried again until a person asks or a newer one comes.
func TestRollback(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"web.yaml": goodImage(""), "a.yaml": configMap("a", "k", "one"), "b.yaml": configMap("b", "k", "one")}, podTimeout(4*time.Second))
	good := a.await(t).Status.AppliedRevision.Commit
	uid := configMapUID(t, i, a.namespace, "b")
	bad := a.repo.commit(t, "bad", map[string]string{"web.yaml": brokenImage(""), "a.yaml": configMap("a", "k", "two"), "b.yaml": "", "c.yaml": configMap("c", "k", "two")})
	st := a.awaitCommit(t, bad, v1alpha1.RolledBack).Status
	if st.AppliedRevision.Commit != good || st.Intent != nil || st.Rejected == nil || st.Rejected.Revision.Commit != bad || st.Reason != "NotHealthyInTime" {
		t.Errorf("status: %+v", st)
	}
	checkMaps(t, i, a.namespace, map[string]string{"a": "one", "b": "one"})
	if configMapUID(t, i, a.namespace, "b") != uid {
		t.Error("b was deleted and made again")
	}
	d, err := i.kube.AppsV1().Deployments(a.namespace).Get(ctx(t), "web", metav1.GetOptions{})
	if err != nil || d.Spec.Template.Spec.Containers[0].Image != helloImage("v1") {
		t.Errorf("the Deployment runs %+v, %v", d.Spec.Template.Spec.Containers, err)
	}
	out, code := i.run("sync", a.namespace+"/"+a.name)
	if code == 0 || !strings.Contains(out, "RolledBack") {
		t.Errorf("sync of a rejected revision: exit code %d\n%s", code, out)
	}
	if out := i.must(t, "status", a.namespace+"/"+a.name); !strings.Contains(out, "RolledBack") || !strings.Contains(out, "--retry") {
		t.Errorf("status:\n%s", out)
	}
	if out := i.must(t, "history", a.namespace+"/"+a.name, "-o", "json"); !strings.Contains(out, `"outcome": "RolledBack"`) || !strings.Contains(out, `"current": true`) {
		t.Errorf("history -o json:\n%s", out)
	}
	if out := i.must(t, "history", a.namespace+"/"+a.name); !strings.Contains(out, bad[:8]) || !strings.Contains(out, good[:8]) {
		t.Errorf("history:\n%s", out)
	}
	i.awaitEvent(t, a.namespace, "RolledBack")

	t.Run("what is there is looked after", func(t *testing.T) { a.checkHealingOf(t, "a") })
	t.Run("retry", func(t *testing.T) {
		if out, code := i.run("sync", a.namespace+"/"+a.name, "--retry"); code == 0 || !strings.Contains(out, "RolledBack") {
			t.Errorf("exit code %d\n%s", code, out)
		}
		if got := a.get(t).Status; got.LastSync == nil || got.LastSync.Commit != bad {
			t.Errorf("it was not tried again: %+v", got.LastSync)
		}
	})
	t.Run("the next good commit", func(t *testing.T) {
		a.repo.commit(t, "good again", map[string]string{"web.yaml": goodImage("")})
		a.await(t)
		checkMaps(t, i, a.namespace, map[string]string{"a": "two", "c": "two"})
	})
}

// checkHealingOf deletes a ConfigMap and waits until it is back.
func (a *app) checkHealingOf(t testing.TB, name string) {
	t.Helper()
	a.i.mustKubectl(t, "-n", a.namespace, "delete", "configmap", name)
	eventually(t, 10*time.Second, name+" is back", func() error {
		_, err := a.i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), name, metav1.GetOptions{})
		return err
	})
}

// With onFailure: Hold it stays as it is and says what is unhealthy; health that comes late, or a newer commit, ends that.
func TestHold(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one"), "gone.yaml": configMap("gone", "k", "one")}, withTimeout(3*time.Second),
		func(app *v1alpha1.Application) { app.Spec.Sync.OnFailure = v1alpha1.Hold })
	a.await(t)
	both := map[string]string{"a": "two", "b": "two"}
	bad := a.repo.commit(t, "bad", map[string]string{"web.yaml": brokenImage(""), "a.yaml": configMap("a", "k", "two"), "b.yaml": configMap("b", "k", "two")})
	st := a.awaitCommit(t, bad, v1alpha1.Held).Status
	if st.AppliedRevision.Commit == bad || !strings.Contains(st.Message, "Deployment") {
		t.Errorf("status: %+v", st)
	}
	checkMaps(t, i, a.namespace, map[string]string{"a": "two", "b": "two", "gone": "one"})
	a.repo.commit(t, "mended", map[string]string{"web.yaml": goodImage(""), "gone.yaml": ""})
	a.await(t)
	checkMaps(t, i, a.namespace, both)

	// No node is what this one asks for, until one is.
	picky := strings.Replace(goodImage(""), "spec: {terminationGracePeriodSeconds", `spec: {nodeSelector: {"gitopsd.io/e2e": late}, terminationGracePeriodSeconds`, 1)
	late := a.repo.commit(t, "waits for a node", map[string]string{"web.yaml": picky, "b.yaml": ""})
	a.awaitCommit(t, late, v1alpha1.Held)
	checkMaps(t, i, a.namespace, both) // nothing is pruned while it is held
	i.mustKubectl(t, "label", "nodes", "--all", "gitopsd.io/e2e=late")
	t.Cleanup(func() { i.kubectl("label", "nodes", "--all", "gitopsd.io/e2e-") })
	a.await(t)
	checkMaps(t, i, a.namespace, map[string]string{"a": "two"})
}

// What no dry-run knows, a quota of something else than objects that adds up, refuses one in the middle: everything goes back.
func TestRefusedInTheMiddle(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one")})
	a.await(t)
	i.apply(t, a.namespace, "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: q}\nspec: {hard: {services.nodeports: \"1\"}}\n")
	a.awaitQuota(t)
	from, _ := i.nodePorts()
	files := map[string]string{"a.yaml": configMap("a", "k", "two")}
	for n, name := range []string{"b", "c", "d"} {
		files[name+".yaml"] = nodePortService(name, from+40+n)
	}
	bad := a.repo.commit(t, "too many", files)
	st := a.awaitCommit(t, bad, v1alpha1.RolledBack).Status
	if !strings.Contains(st.Message, "exceeded quota") || strings.Count(st.Message, "yaml:") < 2 {
		t.Errorf("not every refusal is told: %s", st.Message)
	}
	checkMaps(t, i, a.namespace, map[string]string{"a": "one"})
}

// What a revision took by force goes back to whom it belonged: a value of an object that was somebody else's, and a number
// of replicas that somebody had set.
func TestForcedFieldsComeBack(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{"web.yaml": goodImage("")}, podTimeout(4*time.Second))
	a.await(t)
	i.mustKubectl(t, "-n", a.namespace, "scale", "deployment/web", "--replicas=2")
	i.mustKubectl(t, "-n", a.namespace, "create", "configmap", "theirs", "--from-literal=k=theirs", "--from-literal=other=kept")
	uid := configMapUID(t, i, a.namespace, "theirs")
	bad := a.repo.commit(t, "takes over", map[string]string{"web.yaml": brokenImage("  replicas: 1\n"), "theirs.yaml": configMap("theirs", "k", "ours")})
	a.awaitCommit(t, bad, v1alpha1.RolledBack)
	m, err := i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), "theirs", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if m.UID != uid || m.Data["k"] != "theirs" || m.Data["other"] != "kept" || m.Labels[v1alpha1.LabelApplication] != "" {
		t.Errorf("theirs: uid %s (was %s), data %v, labels %v", m.UID, uid, m.Data, m.Labels)
	}
	for _, f := range m.ManagedFields {
		if f.Manager == v1alpha1.FieldManager {
			t.Errorf("we still own %s of it", f.FieldsV1)
		}
	}
	d, err := i.kube.AppsV1().Deployments(a.namespace).Get(ctx(t), "web", metav1.GetOptions{})
	if err != nil || d.Spec.Replicas == nil || *d.Spec.Replicas != 2 {
		t.Errorf("replicas %d, %v; they were 2: %v", *d.Spec.Replicas, err, d.ManagedFields)
	}
}

// A newer commit replaces one that waits for health, as soon as it has passed its dry-run; one that has not leaves it alone.
func TestNewestWins(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one")})
	base := a.await(t).Status.AppliedRevision.Commit
	waits := a.repo.commit(t, "waits", map[string]string{"web.yaml": brokenImage(""), "b.yaml": configMap("b", "k", "two")})
	a.awaitCommit(t, waits, v1alpha1.Verifying)
	refused := a.repo.commit(t, "is refused", map[string]string{"x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\nwrong: {}\n"})
	st := a.awaitCommit(t, refused, v1alpha1.Failed).Status
	if st.Intent == nil || st.Intent.Revision.Commit != waits || st.AppliedRevision.Commit != base {
		t.Errorf("intent %+v, applied %+v", st.Intent, st.AppliedRevision)
	}
	for n := range 10 {
		a.repo.commit(t, "burst", map[string]string{"x.yaml": "", "web.yaml": "", "b.yaml": "", "a.yaml": configMap("a", "k", fmt.Sprint("burst ", n))})
	}
	a.await(t)
	checkMaps(t, i, a.namespace, map[string]string{"a": "burst 9"})
	eventually(t, 20*time.Second, "the Deployment that was begun is gone", func() error {
		list, err := i.kube.AppsV1().Deployments(a.namespace).List(ctx(t), metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d are left", len(list.Items))
		}
		return err
	})
}

// gitopsd rollback goes back to an earlier revision, as it was rendered then, and holds it until a newer commit comes.
func TestRollbackByHand(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one"), "b.yaml": configMap("b", "k", "one")})
	first := a.await(t).Status.AppliedRevision.Commit
	a.repo.commit(t, "two", map[string]string{"a.yaml": configMap("a", "k", "two"), "b.yaml": "", "c.yaml": configMap("c", "k", "two")})
	a.await(t)
	name := a.namespace + "/" + a.name
	i.must(t, "rollback", name)
	checkMaps(t, i, a.namespace, map[string]string{"a": "one", "b": "one"})
	if st := a.get(t).Status; st.Reason != "PinnedByHand" || st.AppliedRevision.Commit != first {
		t.Errorf("status: %+v", st)
	}
	i.must(t, "resume", name)
	a.await(t)
	checkMaps(t, i, a.namespace, map[string]string{"a": "two", "c": "two"})
	i.must(t, "rollback", name, "--to", first[:8])
	checkMaps(t, i, a.namespace, map[string]string{"a": "one", "b": "one"})
	a.repo.commit(t, "three", map[string]string{"a.yaml": configMap("a", "k", "three")})
	a.await(t)
	checkMaps(t, i, a.namespace, map[string]string{"a": "three", "c": "two"})
	if out, code := i.run("rollback", name, "--to", "deadbeef"); code == 0 || !strings.Contains(out, "never applied") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

// A commit that would delete most of what is there waits for a person.
func TestMassPrune(t *testing.T) {
	i := anyCluster(t)
	files, kept, gone := map[string]string{}, map[string]string{}, map[string]string{}
	for n := range 8 {
		name := fmt.Sprint("m", n)
		files[name+".yaml"], kept[name], gone[name+".yaml"] = configMap(name, "k", "v"), "v", ""
	}
	a := i.deploy(t, files)
	a.await(t)
	gone["m0.yaml"] = configMap("m0", "k", "v")
	commit := a.repo.commit(t, "most of it goes", gone)
	st := a.awaitCommit(t, commit, v1alpha1.Failed).Status
	if st.Reason != "PruneNeedsConsent" || !strings.Contains(st.Message, "7 of 8") || !strings.Contains(st.Message, "--allow-prune") {
		t.Errorf("%s: %s", st.Reason, st.Message)
	}
	checkMaps(t, i, a.namespace, kept)
	i.must(t, "sync", a.namespace+"/"+a.name, "--allow-prune")
	checkMaps(t, i, a.namespace, map[string]string{"m0": "v"})
}
