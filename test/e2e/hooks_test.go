package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const chartYAML = "apiVersion: v2\nname: hooked\nversion: 1.0.0\n"

// hookJob is a Job that runs the toolbox at an event.
func hookJob(name, event, args, more string) string {
	return fmt.Sprintf(`apiVersion: batch/v1
kind: Job
metadata:
  name: %s
  annotations:
    helm.sh/hook: %s
    %s
spec: {backoffLimit: 0, template: {spec: {restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: [{name: c, image: %s, args: [%s]}]}}}
`, name, event, more, toolbox(), args)
}

func hookMap(name, event, weight string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, annotations: {helm.sh/hook: %s, helm.sh/hook-weight: %q}}\ndata: {k: v}\n", name, event, weight)
}

// hookUID is the UID of the Job of a hook; "" when there is none.
func (a *app) hookUID(t testing.TB, name string) string {
	t.Helper()
	job, err := a.i.kube.BatchV1().Jobs(a.namespace).Get(ctx(t), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(job.UID)
}

// awaitReason waits until the status has a reason, and returns it.
func (a *app) awaitReason(t testing.TB, reason string) v1alpha1.ApplicationStatus {
	t.Helper()
	var st v1alpha1.ApplicationStatus
	eventually(t, 60*time.Second, "the reason is "+reason, func() error {
		if st = a.get(t).Status; st.Reason != reason {
			return errPhase(st)
		}
		return nil
	})
	return st
}

// The hooks of a chart run at the points that Helm names, in its order, once for each revision; they are no part of what is declared, and what
// they leave goes by their policies.
func TestHooks(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{
		"Chart.yaml":               chartYAML,
		"templates/a.yaml":         configMap("a", "k", "one"),
		"templates/settings.yaml":  hookMap("settings", "pre-install", "-5"),
		"templates/migrate.yaml":   hookJob("migrate", `"pre-install,pre-upgrade"`, "args, migrated", `helm.sh/hook-weight: "1"`),
		"templates/announce.yaml":  hookJob("announce", "post-install", "args, announced", "helm.sh/hook-delete-policy: hook-succeeded"),
		"templates/tests/try.yaml": hookJob("try", "test", "exit, '1'", ""),
	}, withTimeout(30*time.Second), func(app *v1alpha1.Application) { app.Spec.Sync.Suspend = true })
	if out, code := i.run("plan", a.namespace+"/"+a.name, "--dir", a.repo.dir); code != 2 || !strings.Contains(out, "hook pre-install Job "+a.namespace+"/migrate would run; what it does cannot be undone") {
		t.Errorf("plan: exit code %d\n%s", code, out)
	}
	a.patch(t, `{"spec":{"sync":{"suspend":false}}}`)
	st := a.await(t).Status
	for _, h := range st.Inventory {
		if h.Kind == "Job" || h.Name == "settings" {
			t.Errorf("%s %s is a hook and in the inventory", h.Kind, h.Name)
		}
	}
	first := a.hookUID(t, "migrate")
	if first == "" || a.hookUID(t, "announce") != "" || a.hookUID(t, "try") != "" {
		t.Error("migrate has to be there, announce to be deleted, try never to be made")
	}
	said := i.must(t, "audit", "export")
	order := []string{"ConfigMap " + a.namespace + "/settings\",\"action\":\"ran as pre-install", "/migrate\",\"action\":\"ran as pre-install", "/announce\",\"action\":\"ran as post-install"}
	at := -1
	for _, what := range order {
		next := strings.Index(said, what)
		if next < at || next < 0 {
			t.Errorf("the ledger does not tell in its order that %s", what)
		}
		at = next
	}

	t.Run("a hook that is gone is no drift", func(t *testing.T) {
		i.mustKubectl(t, "delete", "job/migrate", "-n", a.namespace)
		i.must(t, "sync", a.namespace+"/"+a.name)
		if out, code := i.run("drift", a.namespace+"/"+a.name); code != 0 || a.hookUID(t, "migrate") != "" {
			t.Errorf("drift: exit code %d\n%s", code, out)
		}
	})
	t.Run("an upgrade runs it again", func(t *testing.T) {
		a.repo.commit(t, "two", map[string]string{"templates/a.yaml": configMap("a", "k", "two")})
		a.await(t)
		if again := a.hookUID(t, "migrate"); again == "" || again == first {
			t.Errorf("migrate was %q and is %q", first, again)
		}
	})
	t.Run("one that fails stops the revision before its first write", func(t *testing.T) {
		bad := a.repo.commit(t, "three", map[string]string{"templates/a.yaml": configMap("a", "k", "three"),
			"templates/migrate.yaml": hookJob("migrate", "pre-upgrade", "exit, '3'", "")})
		st := a.awaitCommit(t, bad, v1alpha1.RolledBack).Status
		if st.Reason != "HookFailed" || !strings.Contains(st.Message, "hook pre-upgrade Job "+a.namespace+"/migrate failed: BackoffLimitExceeded") {
			t.Errorf("%s: %s", st.Reason, st.Message)
		}
		checkMaps(t, i, a.namespace, map[string]string{"a": "two", "settings": "v"})
	})
	t.Run("a newer commit waits for one that runs", func(t *testing.T) {
		a.repo.commit(t, "four", map[string]string{"templates/a.yaml": configMap("a", "k", "four"), "templates/migrate.yaml": hookJob("migrate", "pre-upgrade", "sleep", "")})
		if st := a.awaitReason(t, "HookRunning"); !strings.Contains(st.Message, "hook pre-upgrade Job "+a.namespace+"/migrate is running") {
			t.Errorf("message: %s", st.Message)
		}
		running := a.hookUID(t, "migrate")
		a.patch(t, `{"spec":{"sync":{"timeout":"10s"}}}`)
		last := a.repo.commit(t, "five", map[string]string{"templates/a.yaml": configMap("a", "k", "five"), "templates/migrate.yaml": hookJob("migrate", "pre-upgrade", "args, again", "")})
		eventually(t, 20*time.Second, "the newer commit is seen", func() error {
			if st := a.get(t).Status; st.ObservedCommit != last {
				return errPhase(st)
			}
			return nil
		})
		if now := a.hookUID(t, "migrate"); now != running {
			t.Error("the hook that ran was interrupted")
		}
		checkMaps(t, i, a.namespace, map[string]string{"a": "two", "settings": "v"})
		a.awaitCommit(t, last, v1alpha1.Applied)
		checkMaps(t, i, a.namespace, map[string]string{"a": "five", "settings": "v"})
	})
	t.Run("a post hook that fails rolls back", func(t *testing.T) {
		bad := a.repo.commit(t, "six", map[string]string{"templates/a.yaml": configMap("a", "k", "six"), "templates/announce.yaml": hookJob("announce", "post-upgrade", "exit, '1'", "helm.sh/hook-delete-policy: hook-failed")})
		a.awaitCommit(t, bad, v1alpha1.RolledBack)
		checkMaps(t, i, a.namespace, map[string]string{"a": "five", "settings": "v"})
		eventually(t, 20*time.Second, "the failed hook is deleted by its policy", func() error {
			if uid := a.hookUID(t, "announce"); uid != "" {
				return fmt.Errorf("Job %s is there", uid)
			}
			return nil
		})
	})
}

// A revision of which a post hook is refused is held where that is wished; it counts as no success, and a newer commit takes its place.
func TestAHookThatFailsIsHeld(t *testing.T) {
	i := anyCluster(t)
	refused := "apiVersion: v1\nkind: Pod\nmetadata: {name: Not-A-Name, annotations: {helm.sh/hook: post-upgrade}}\nspec: {containers: [{name: c, image: none}]}\n"
	before := strings.Replace(hookMap("there", "post-upgrade", "0"), "helm.sh/hook-weight", "helm.sh/hook-delete-policy: hook-failed, helm.sh/hook-weight", 1)
	a := i.deploy(t, map[string]string{"Chart.yaml": chartYAML, "templates/a.yaml": configMap("a", "k", "one")},
		func(app *v1alpha1.Application) { app.Spec.Sync.OnFailure = v1alpha1.Hold })
	a.await(t)
	if st := a.awaitCommit(t, a.repo.commit(t, "a hook that the API refuses", map[string]string{"templates/a.yaml": configMap("a", "k", "two"), "templates/hook.yaml": refused}), v1alpha1.Failed).Status; st.Reason != "ObjectsRefused" || !strings.Contains(st.Message, "hook templates/hook.yaml") {
		t.Errorf("%s: %s", st.Reason, st.Message)
	}
	checkMaps(t, i, a.namespace, map[string]string{"a": "one"})
	i.apply(t, a.namespace, configMap("there", "k", "somebody's"))
	held := a.repo.commit(t, "a hook in whose place somebody's object is", map[string]string{"templates/a.yaml": configMap("a", "k", "two"), "templates/hook.yaml": before})
	if st := a.awaitCommit(t, held, v1alpha1.Held).Status; st.Reason != "HookFailed" || !strings.Contains(st.Message, "is there from before") {
		t.Errorf("%s: %s", st.Reason, st.Message)
	}
	checkMaps(t, i, a.namespace, map[string]string{"a": "two", "there": "somebody's"})
	if out, code := i.run("sync", a.namespace+"/"+a.name); code != 1 || !strings.Contains(out, "HookFailed") { // looked at again, it stays
		t.Errorf("sync: exit code %d\n%s", code, out)
	}
	if st := a.get(t).Status; st.Phase != v1alpha1.Held {
		t.Errorf("%s: %s", st.Phase, st.Message)
	}
	a.awaitCommit(t, a.repo.commit(t, "without it", map[string]string{"templates/a.yaml": configMap("a", "k", "three"), "templates/hook.yaml": ""}), v1alpha1.Applied)
	checkMaps(t, i, a.namespace, map[string]string{"a": "three", "there": "somebody's"})
}

// A daemon that dies while a hook runs goes on with that very hook.
func TestAHookRunsOnceThroughADeath(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{"Chart.yaml": chartYAML, "templates/a.yaml": configMap("a", "k", "one"), "templates/migrate.yaml": hookJob("migrate", "pre-install", "sleep", "")})
	a.awaitReason(t, "HookRunning")
	before := a.hookUID(t, "migrate")
	i.kill9(t)
	i.start(t)
	a.awaitReason(t, "HookRunning")
	if now := a.hookUID(t, "migrate"); now == "" || now != before {
		t.Fatalf("the hook was %q and is %q", before, now)
	}
	a.patch(t, `{"spec":{"sync":{"timeout":"5s"}}}`)
	st := a.awaitCommit(t, a.repo.head(t), v1alpha1.RolledBack).Status
	if st.Reason != "HookFailed" || !strings.Contains(st.Message, "has not ended within 5s") {
		t.Errorf("%s: %s", st.Reason, st.Message)
	}
}

// Hooks run around a deletion too, and one that fails holds it up until a person says otherwise.
func TestDeletionHooks(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{"Chart.yaml": chartYAML, "templates/a.yaml": configMap("a", "k", "one"),
		"templates/kept.yaml": strings.Replace(configMap("kept", "k", "v"), "name: kept", `name: kept, annotations: {helm.sh/resource-policy: keep}`, 1),
		"templates/bye.yaml":  hookJob("bye", "pre-delete", "exit, '1'", "")},
		func(app *v1alpha1.Application) { app.Spec.Sync.OnDelete = v1alpha1.Cascade })
	a.await(t)
	apps := i.dyn.Resource(appResource).Namespace(a.namespace)
	if err := apps.Delete(ctx(t), a.name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if st := a.awaitReason(t, "HookFailed"); !strings.Contains(st.Message, `annotate the Application with gitopsd.io/skip-hooks: "true"`) {
		t.Errorf("message: %s", st.Message)
	}
	checkMaps(t, i, a.namespace, map[string]string{"a": "one", "kept": "v"})
	a.patch(t, `{"metadata":{"annotations":{"gitopsd.io/skip-hooks":"true"}}}`)
	eventually(t, 30*time.Second, "the Application is gone with its objects", func() error {
		if _, err := apps.Get(ctx(t), a.name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the Application is there: %v", err)
		}
		maps, err := i.kube.CoreV1().ConfigMaps(a.namespace).List(ctx(t), metav1.ListOptions{})
		if err != nil {
			return err
		}
		if slices.ContainsFunc(maps.Items, func(m corev1.ConfigMap) bool { return m.Name == "a" }) || !slices.ContainsFunc(maps.Items, func(m corev1.ConfigMap) bool { return m.Name == "kept" }) {
			return fmt.Errorf("a has to go, kept to stay: %v", maps.Items)
		}
		return nil
	})
	if a.hookUID(t, "bye") != "" {
		t.Error("what the hook left is there")
	}
}
