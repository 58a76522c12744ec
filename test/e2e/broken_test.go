package e2e

import (
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A broken commit changes nothing that runs; status names the place and the reason; the next good commit goes through by
// itself.
func TestBrokenCommits(t *testing.T) {
	i := anyCluster(t)
	good := map[string]string{"good.yaml": configMap("good", "k", "v1")}
	a := i.deploy(t, good)
	a.await(t)
	uid := configMapUID(t, i, a.namespace, "good")
	for name, c := range map[string]struct {
		files  map[string]string
		reason string
		says   []string
	}{
		"YAML that does not parse": {map[string]string{"bad.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: [x\n"},
			"RenderFailed", []string{"bad.yaml:"}},
		"a kustomization that names a missing file": {map[string]string{"kustomization.yaml": "resources: [good.yaml, missing.yaml]\n"},
			"RenderFailed", []string{"kustomization.yaml", "missing.yaml"}},
		"a chart whose template fails": {map[string]string{"Chart.yaml": "apiVersion: v2\nname: c\nversion: 1.0.0\n",
			"templates/x.yaml": "a: b\n---\n{{ required \"set the size\" .Values.size }}\n"},
			"RenderFailed", []string{"templates/x.yaml:3", "set the size"}},
		"an object that the API refuses": {map[string]string{"svc.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 99999}]}\n"},
			"ObjectsRefused", []string{"svc.yaml", "Service", "spec.ports[0].port"}},
		"a field that does not exist": {map[string]string{"d.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: d}\ndatum: {a: b}\n"},
			"ObjectsRefused", []string{"d.yaml", "datum"}},
		"an unknown kind": {map[string]string{"foo.yaml": "apiVersion: example.org/v1\nkind: Foo\nmetadata: {name: f}\n"},
			"ObjectsRefused", []string{"foo.yaml", "no kind Foo in example.org/v1", "CustomResourceDefinition"}},
		"a namespace that is not there": {map[string]string{"n.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: nn, namespace: not-there}\n"},
			"ObjectsRefused", []string{"n.yaml", "namespace not-there does not exist"}},
		"two bad objects": {map[string]string{"foo.yaml": "apiVersion: example.org/v1\nkind: Foo\nmetadata: {name: f}\n",
			"n.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: nn, namespace: not-there}\n"},
			"ObjectsRefused", []string{"foo.yaml", "n.yaml"}},
		"one object twice": {map[string]string{"again.yaml": configMap("good", "k", "other")},
			"RenderFailed", []string{"good.yaml", "again.yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.files["new.yaml"] = configMap("new", "k", "must not appear")
			commit := a.repo.commit(t, name, c.files)
			st := a.awaitCommit(t, commit, v1alpha1.Failed).Status
			if st.Reason != c.reason {
				t.Errorf("reason %s, want %s: %s", st.Reason, c.reason, st.Message)
			}
			out := strings.Join(strings.Fields(i.must(t, "status", a.namespace+"/"+a.name)), " ")
			for _, want := range c.says {
				if !strings.Contains(out, want) {
					t.Errorf("status does not say %q:\n%s", want, out)
				}
			}
			if st.AppliedRevision == nil || st.AppliedRevision.Commit == commit {
				t.Errorf("applied is %+v", st.AppliedRevision)
			}
			if _, err := i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), "new", metav1.GetOptions{}); err == nil {
				t.Error("a part of the broken commit was written")
			}
			if configMapUID(t, i, a.namespace, "good") != uid {
				t.Error("what ran was touched")
			}
			i.mustKubectl(t, "-n", a.namespace, "delete", "configmap", "good")
			a.awaitHealed(t, "good")
			uid = configMapUID(t, i, a.namespace, "good")
			gone := map[string]string{}
			for f := range c.files {
				gone[f] = ""
			}
			a.repo.commit(t, "good again", gone)
			a.await(t)
		})
	}
}

// awaitHealed waits until a ConfigMap is there again.
func (a *app) awaitHealed(t testing.TB, name string) {
	t.Helper()
	eventually(t, 20e9, name+" is healed while the newest commit is broken", func() error {
		_, err := a.i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), name, metav1.GetOptions{})
		return err
	})
}

// An Application with an impossible spec fails by itself and leaves the others alone.
func TestOneBadApplicationStopsNoOther(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"c.yaml": configMap("c", "k", "v")})
	for name, spec := range map[string]v1alpha1.Source{
		"bad-url":    {Repo: "ext::sh -c whoami"},
		"option-url": {Repo: "--upload-pack=whoami"},
		"bad-ref":    {Repo: a.repo.dir, Ref: v1alpha1.Ref{Branch: "../../x"}},
		"bad-path":   {Repo: a.repo.dir, Path: "../../etc"},
		"no-path":    {Repo: a.repo.dir, Path: "not/there"},
		"short":      {Repo: a.repo.dir, Interval: &metav1.Duration{Duration: 1}},
		"no-repo":    {Repo: "/nowhere/at/all"},
	} {
		bad := newApp(i, a.namespace, name, a.repo)
		i.createApplication(t, &v1alpha1.Application{
			TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Application"},
			ObjectMeta: metav1.ObjectMeta{Namespace: a.namespace, Name: name}, Spec: v1alpha1.ApplicationSpec{Source: spec},
		})
		eventually(t, 20e9, name+" fails with a message", func() error {
			if st := bad.get(t).Status; st.Phase != v1alpha1.Failed || st.Message == "" {
				return errPhase(st)
			}
			return nil
		})
		t.Logf("%s: %s", name, bad.get(t).Status.Message)
	}
	a.repo.commit(t, "two", map[string]string{"c.yaml": configMap("c", "k", "two")})
	a.await(t)
}
