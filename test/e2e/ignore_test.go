package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// An autoscaler sets the replicas of a Deployment that declares another number, and keeps them: over healing, over the next
// revision, and over one that is undone.
func TestReplicasAreLeftToTheAutoscaler(t *testing.T) {
	i := shared(t)
	scaler := `apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  minReplicas: 2
  maxReplicas: 3
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]
`
	a := i.deploy(t, map[string]string{"web.yaml": goodImage("  replicas: 1\n")}, podTimeout(8*time.Second))
	a.await(t)
	replicas := func(want int32) {
		t.Helper()
		eventually(t, 60*time.Second, "replicas", func() error {
			d, err := i.kube.AppsV1().Deployments(a.namespace).Get(ctx(t), "web", metav1.GetOptions{})
			if err == nil && *d.Spec.Replicas != want {
				err = fmt.Errorf("%d, want %d: %v", *d.Spec.Replicas, want, d.ManagedFields)
			}
			return err
		})
	}
	a.patch(t, `{"spec":{"sync":{"timeout":"5m"}}}`)
	a.repo.commit(t, "an autoscaler", map[string]string{"hpa.yaml": scaler})
	replicas(2)
	a.await(t)
	out := i.must(t, "plan", a.namespace+"/"+a.name)
	if !strings.Contains(out, ".spec.replicas is left to HorizontalPodAutoscaler web") || !strings.Contains(out, "no changes") {
		t.Errorf("plan:\n%s", out)
	}
	a.repo.commit(t, "another image", map[string]string{"web.yaml": strings.Replace(goodImage("  replicas: 1\n"), "hello:v1", "hello:v2", 1)})
	a.await(t)
	replicas(2)
	a.patch(t, `{"spec":{"sync":{"timeout":"4s"}}}`)
	bad := a.repo.commit(t, "never healthy", map[string]string{"web.yaml": brokenImage("  replicas: 1\n")})
	a.awaitCommit(t, bad, v1alpha1.RolledBack)
	replicas(2)
	if out := i.must(t, "drift", a.namespace+"/"+a.name); !strings.Contains(out, "is left to HorizontalPodAutoscaler web") {
		t.Errorf("drift:\n%s", out)
	}
}

// What spec.ignore names is sent once and then left to whoever sets it; what we own of it keeps its value; nothing else is left.
func TestIgnoredFields(t *testing.T) {
	i := shared(t)
	files := map[string]string{"web.yaml": goodImage("  replicas: 1\n"), "c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {k: one, theirs: one, other: one}\n"}
	a := i.deploy(t, files, func(app *v1alpha1.Application) {
		app.Spec.Ignore = []v1alpha1.Ignored{{Group: "apps", Kind: "Deployment", JSONPointers: []string{"/spec/replicas", "/spec/template/spec/containers/*/imagePullPolicy"}},
			{Kind: "ConfigMap", Name: "c", JSONPointers: []string{"/data/k"}, Managers: []string{"configurator"}}}
	})
	a.await(t)
	i.mustKubectl(t, "-n", a.namespace, "scale", "deployment/web", "--replicas=2")
	i.mustKubectl(t, "-n", a.namespace, "patch", "configmap", "c", "-p", `{"data":{"k":"theirs"}}`)
	i.mustKubectl(t, "-n", a.namespace, "patch", "configmap", "c", "--field-manager=configurator", "-p", `{"data":{"theirs":"theirs"}}`)
	i.mustKubectl(t, "-n", a.namespace, "patch", "configmap", "c", "-p", `{"data":{"other":"theirs"}}`)
	data := func(want string) {
		t.Helper()
		eventually(t, 20*time.Second, "data", func() error {
			if got := i.mustKubectl(t, "-n", a.namespace, "get", "configmap", "c", "-o", "jsonpath={.data.k} {.data.theirs} {.data.other}"); got != want {
				return fmt.Errorf("%s, want %s", got, want)
			}
			return nil
		})
	}
	data("theirs theirs one") // the third was healed, and it alone
	if out := i.must(t, "drift", a.namespace+"/"+a.name); !strings.Contains(out, ".data.k is left as it is, by spec.ignore") || !strings.Contains(out, "no drift") {
		t.Errorf("drift:\n%s", out)
	}
	a.repo.commit(t, "two", map[string]string{"c.yaml": strings.ReplaceAll(files["c.yaml"], "one", "two"), "web.yaml": strings.Replace(goodImage("  replicas: 1\n"), "hello:v1", "hello:v2", 1)})
	a.await(t)
	data("theirs theirs two")
	if got := i.mustKubectl(t, "-n", a.namespace, "get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"); got != "2" {
		t.Errorf("replicas %s", got)
	}
	a.patch(t, `{"spec":{"ignore":[{"kind":"Deployment","group":"apps","jsonPointers":["/spec/replicas"]}]}}`)
	data("two two two")
	a.patch(t, `{"spec":{"ignore":[{"kind":"ConfigMap","jsonPointers":["data/k"]}]}}`)
	st := a.awaitCommit(t, a.repo.head(t), v1alpha1.Failed).Status
	if st.Reason != "InvalidSpec" || !strings.Contains(st.Message, `spec.ignore[0].jsonPointers`) || !strings.Contains(st.Message, `"data/k" is no JSON pointer`) {
		t.Errorf("%s: %s", st.Reason, st.Message)
	}
}
