package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// diceSecret is a Secret that a chart makes once, as a hook: were it made again, what it encrypts could not be read any more.
const diceSecret = `apiVersion: v1
kind: Secret
metadata: {name: key, annotations: {helm.sh/hook: %s, helm.sh/hook-delete-policy: before-hook-creation}}
stringData: {key: {{ randAlphaNum 16 }}}
`

// A release that Helm has deployed is upgraded by the first revision: its install hooks do not run again.
func TestTakingOverARelease(t *testing.T) {
	i := anyCluster(t)
	r := newRepo(t, map[string]string{"Chart.yaml": chartYAML,
		"templates/key.yaml": fmt.Sprintf(diceSecret, "pre-install"),
		"templates/up.yaml":  hookMap("up", "post-upgrade", "0"),
		"templates/m.yaml":   configMap("m", "k", "{{ if .Release.IsUpgrade }}upgrade{{ else }}install{{ end }}-{{ .Release.Revision }}")})
	ns := nameOf(t)
	i.namespace(t, ns)
	a := newApp(i, ns, ns, r)
	a.helm(t, "install", ns, r.dir)
	a.helm(t, "upgrade", ns, r.dir)
	before := a.secret(t, "key")
	app := a.object()
	app.Spec.Sync.Suspend = true
	i.createApplication(t, app)
	if out, code := i.run("plan", ns+"/"+ns, "--dir", r.dir); code != 2 || !strings.Contains(out, "hook post-upgrade ConfigMap "+ns+"/up would run") || strings.Contains(out, "pre-install") ||
		!strings.Contains(out, "cannot be undone: ConfigMap "+ns+"/up is deleted, and made anew by a hook") {
		t.Errorf("plan: exit code %d\n%s", code, out)
	}
	a.patch(t, `{"spec":{"sync":{"suspend":false}}}`)
	if st := a.await(t).Status; st.AppliedRevision.Number != 3 {
		t.Errorf("it is revision %d", st.AppliedRevision.Number)
	}
	if after := a.secret(t, "key"); after.UID != before.UID || string(after.Data["key"]) != string(before.Data["key"]) {
		t.Error("the Secret of the install hook was made anew")
	}
	checkMaps(t, i, ns, map[string]string{"m": "upgrade-3", "up": "v"})
	if history := a.helm(t, "history", ns); strings.Count(history, "superseded") != 2 || strings.Count(history, "\tdeployed") != 1 {
		t.Errorf("helm history:\n%s", history)
	}
	r.commit(t, "another", map[string]string{"templates/second.yaml": configMap("second", "k", "{{ .Release.Revision }}")})
	a.await(t)
	checkMaps(t, i, ns, map[string]string{"m": "upgrade-4", "second": "4", "up": "v"})
}

// An object in a hook's place that somebody else counts on is not deleted for it: nothing is written before that is told.
func TestAHookInSomebodysPlace(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"Chart.yaml": chartYAML, "templates/key.yaml": fmt.Sprintf(diceSecret, "pre-install")})
	a.await(t)
	before := a.secret(t, "key")
	theirs := strings.Replace(hookMap("left", "pre-install", "0"), "metadata: {", "metadata: {namespace: "+a.namespace+", ", 1)
	i.apply(t, a.namespace, theirs)
	other := newApp(i, a.namespace, "other", newRepo(t, map[string]string{"Chart.yaml": chartYAML, "templates/key.yaml": fmt.Sprintf(diceSecret, "pre-install"), "templates/m.yaml": configMap("m", "k", "v")}))
	i.createApplication(t, other.object())
	refused := func(words string) {
		t.Helper()
		eventually(t, 30*time.Second, "it is refused", func() error {
			if st := other.get(t).Status; st.Reason != "ObjectsRefused" || !strings.Contains(st.Message, words) || st.ObservedCommit != other.repo.head(t) {
				return errPhase(st)
			}
			return nil
		})
	}
	refused("hook templates/key.yaml: Secret " + a.namespace + "/key: an object of the hook's name is there that Application " + a.namespace + "/" + a.name + " made")
	other.patch(t, `{"spec":{"sync":{"adopt":"Refuse"}}}`)
	other.repo.commit(t, "one that nobody's is", map[string]string{"templates/key.yaml": hookMap("left", "pre-install", "0")})
	refused("made by field manager")
	if after := a.secret(t, "key"); after.UID != before.UID {
		t.Error("the Secret of another Application's hook was made anew")
	}
	if _, err := i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), "m", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("something was written: %v", err)
	}
	other.patch(t, `{"spec":{"sync":{"adopt":null}}}`)
	other.await(t)
}

// A definition that is a hook is never deleted, as Helm does not: every object of its kind would go with it.
func TestADefinitionThatIsAHook(t *testing.T) {
	i := anyCluster(t)
	group := nameOf(t) + ".example.org"
	crd := fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.%[1]s, annotations: {helm.sh/hook: "pre-install,pre-upgrade", helm.sh/hook-delete-policy: "before-hook-creation,hook-succeeded"}}
spec:
  group: %[1]s
  scope: Namespaced
  names: {kind: Thing, plural: things}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
`, group)
	t.Cleanup(func() { _, _ = i.kubectl("delete", "crd", "things."+group) })
	a := i.deploy(t, map[string]string{"Chart.yaml": chartYAML, "templates/crd.yaml": crd, "templates/m.yaml": configMap("m", "k", "one")},
		func(app *v1alpha1.Application) { app.Spec.Sync.OnDelete = v1alpha1.Cascade })
	a.await(t)
	uid := func() string {
		return i.mustKubectl(t, "get", "crd", "things."+group, "-o", "jsonpath={.metadata.uid}")
	}
	before := uid()
	st := a.awaitCommit(t, a.repo.commit(t, "two", map[string]string{"templates/m.yaml": configMap("m", "k", "two")}), v1alpha1.Failed).Status
	if st.Reason != "ObjectsRefused" || !strings.Contains(st.Message, "a hook does not delete one") {
		t.Errorf("%s: %s", st.Reason, st.Message)
	}
	checkMaps(t, i, a.namespace, map[string]string{"m": "one"})
	if err := i.dyn.Resource(appResource).Namespace(a.namespace).Delete(ctx(t), a.name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the Application is gone", func() error {
		if _, err := i.application(t, a.namespace, a.name); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %v", err)
		}
		return nil
	})
	if after := uid(); after != before {
		t.Errorf("the definition was %s and is %s", before, after)
	}
}

// When a hook fails, those of its point that ended well go by their policies, as with Helm.
func TestHooksBeforeOneThatFails(t *testing.T) {
	i := anyCluster(t)
	with := func(name, policy, weight string) string {
		return strings.Replace(hookMap(name, "pre-install", weight), "helm.sh/hook-weight", "helm.sh/hook-delete-policy: "+policy+", helm.sh/hook-weight", 1)
	}
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: fails, annotations: {helm.sh/hook: pre-install}}\nspec: {nodeName: nowhere, containers: [{name: c, image: none}]}\n"
	a := i.deploy(t, map[string]string{"Chart.yaml": chartYAML, "templates/a.yaml": with("goes", "hook-succeeded", "-2"), "templates/b.yaml": with("stays", "before-hook-creation", "-1"), "templates/pod.yaml": pod})
	a.awaitReason(t, "HookRunning")
	eventually(t, 30*time.Second, "the Pod fails", func() error {
		p, err := i.kube.CoreV1().Pods(a.namespace).Get(ctx(t), "fails", metav1.GetOptions{})
		if err != nil {
			return err
		}
		p.Status.Phase = corev1.PodFailed
		_, err = i.kube.CoreV1().Pods(a.namespace).UpdateStatus(ctx(t), p, metav1.UpdateOptions{})
		return err
	})
	a.awaitCommit(t, a.repo.head(t), v1alpha1.RolledBack)
	checkMaps(t, i, a.namespace, map[string]string{"stays": "v"})
	if _, err := i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), "goes", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what ended well and goes by its policy is there: %v", err)
	}
}
