package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
)

const gadgets = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.health.example.org}
spec:
  group: health.example.org
  scope: Namespaced
  names: {kind: Gadget, plural: gadgets, singular: gadget, listKind: GadgetList}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
apiVersion: health.example.org/v1
kind: Gadget
metadata: {name: g}
`

// Kinds of which nobody knows are judged by rules of the Application; a mistake in one is told before anything is done by it.
func TestHealthRules(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{"g.yaml": gadgets, "c.yaml": configMap("c", "k", "one")}, cascade, func(app *v1alpha1.Application) {
		app.Spec.Health.Rules = []v1alpha1.HealthRule{{APIVersion: "health.example.org/v1", Kind: "Gadget",
			Current: "status.phase == 'Ready'", Failed: "has(status.phase) && status.phase == 'Broken'"}}
	})
	phase := func(p string) {
		i.mustKubectl(t, "-n", a.namespace, "patch", "gadgets.health.example.org", "g", "--subresource=status", "--type=merge", "-p", `{"status":{"phase":"`+p+`"}}`)
	}
	says := func(health v1alpha1.Health, message string) {
		t.Helper()
		eventually(t, 20*time.Second, "health", func() error {
			st := a.get(t).Status
			if st.Health != health || !strings.Contains(st.HealthMessage, message) {
				return errPhase(st)
			}
			return nil
		})
	}
	says(v1alpha1.Progressing, "no such key: phase")
	phase("Broken")
	says(v1alpha1.Degraded, "it failed: has(status.phase)")
	phase("Ready")
	a.await(t)
	phase("Tired")
	says(v1alpha1.Progressing, "not yet: status.phase == 'Ready'")
	phase("Ready")
	a.await(t)

	a.patch(t, `{"spec":{"health":{"rules":[{"apiVersion":"health.example.org/v1","kind":"Gadget","current":"status.phase = 'Ready'"}]}}}`)
	st := a.awaitCommit(t, a.repo.head(t), v1alpha1.Failed).Status
	if st.Reason != "InvalidSpec" || !strings.Contains(st.Message, "Gadget: current: ") || !strings.Contains(st.Message, "line 1, column 14") {
		t.Errorf("%s: %s", st.Reason, st.Message)
	}
	i.mustKubectl(t, "-n", a.namespace, "delete", "configmap", "c") // what runs is looked after all the same
	a.awaitHealed(t, "c")
	a.patch(t, `{"spec":{"health":{"rules":null}}}`)
	a.await(t)

	bad := a.repo.commit(t, "nonsense", map[string]string{"d.yaml": annotated("d", "gitopsd.io/health", "object.")})
	if st := a.awaitCommit(t, bad, v1alpha1.Failed).Status; st.Reason != "ObjectsRefused" || !strings.Contains(st.Message, "d.yaml") || !strings.Contains(st.Message, "gitopsd.io/health") {
		t.Errorf("%s: %s", st.Reason, st.Message)
	}
	if out, code := i.run("plan", a.namespace+"/"+a.name); code != 1 || !strings.Contains(out, "d.yaml") {
		t.Errorf("plan: exit code %d\n%s", code, out)
	}
	a.repo.commit(t, "by annotation", map[string]string{"d.yaml": annotated("d", "gitopsd.io/health", "data.k != 'one'")})
	says(v1alpha1.Progressing, "not yet: data.k")
	a.repo.commit(t, "another value", map[string]string{"d.yaml": strings.Replace(annotated("d", "gitopsd.io/health", "data.k != 'one'"), `"one"`, `"two"`, 1)})
	a.await(t)
}

func annotated(name, key, value string) string {
	return strings.Replace(configMap(name, "k", "one"), "name: "+name, "name: "+name+", annotations: {"+key+": \""+value+"\"}", 1)
}

// What would never come by itself is not waited for: a claim without a consumer, a paused Deployment, a load balancer that nobody
// gives, and what asks to be ignored. A Job is awaited until it has completed.
func TestHealthOfWhatWaits(t *testing.T) {
	i := shared(t)
	ignored := strings.Replace(strings.Replace(brokenImage(""), "name: web", "name: ignored, annotations: {gitopsd.io/health: ignore}", 1), "app: web", "app: ignored", 2)
	paused := strings.Replace(strings.Replace(goodImage("  paused: true\n"), "name: web", "name: paused", 1), "app: web", "app: paused", 2)
	a := i.deploy(t, map[string]string{"ignored.yaml": ignored, "paused.yaml": paused, "rest.yaml": `apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: e2e-later}
provisioner: example.org/none
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: unused}
spec: {storageClassName: e2e-later, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: job}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: "` + toolbox() + `", args: [exit, "0"]}]}}}
`}, cascade)
	a.await(t)
	if out := i.mustKubectl(t, "-n", a.namespace, "get", "job", "job", "-o", `jsonpath={.status.conditions[?(@.type=="Complete")].status}`); out != "True" {
		t.Errorf("the Job has not completed: %q", out)
	}
	i.must(t, "suspend", a.namespace+"/"+a.name)
	eventually(t, 10*time.Second, "suspended", func() error {
		if st := a.get(t).Status; st.Phase != v1alpha1.Suspended {
			return errPhase(st)
		}
		return nil
	})
	i.mustKubectl(t, "-n", a.namespace, "delete", "pvc", "unused")
	eventually(t, 10*time.Second, "the health of what is suspended is told", func() error {
		if st := a.get(t).Status; st.Health != v1alpha1.Missing {
			return errPhase(st)
		}
		return nil
	})
}
