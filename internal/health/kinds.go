package health

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// special are the kinds of which people mean something else than kstatus says. False: kstatus' word counts.
var special = map[schema.GroupKind]func(*unstructured.Unstructured) (Verdict, bool){
	{Group: "apps", Kind: "Deployment"}:                   paused,
	{Group: "apps", Kind: "DaemonSet"}:                    replacedByHand,
	{Group: "batch", Kind: "Job"}:                         job,
	{Kind: "Pod"}:                                         pod,
	{Kind: "Service"}:                                     service,
	{Group: "apiregistration.k8s.io", Kind: "APIService"}: apiService,
}

// paused: a Deployment that its author has paused rolls nothing out, and a new one makes no pod. To wait for what was
// forbidden would fail every revision.
func paused(u *unstructured.Unstructured) (Verdict, bool) {
	is, _, _ := unstructured.NestedBool(u.Object, "spec", "paused")
	return Verdict{Healthy, ""}, is && seen(u)
}

// replacedByHand: pods of a DaemonSet with OnDelete are replaced when a person deletes them. All that runs counts, of whatever
// revision, as kstatus has it for StatefulSets.
func replacedByHand(u *unstructured.Unstructured) (Verdict, bool) {
	strategy, _, _ := unstructured.NestedString(u.Object, "spec", "updateStrategy", "type")
	want, told, _ := unstructured.NestedInt64(u.Object, "status", "desiredNumberScheduled")
	have, _, _ := unstructured.NestedInt64(u.Object, "status", "numberAvailable")
	return Verdict{Healthy, ""}, strategy == "OnDelete" && told && seen(u) && have >= want
}

// seen says that the controller has looked at the present spec.
func seen(u *unstructured.Unstructured) bool {
	observed, found, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
	return found && observed == u.GetGeneration()
}

// job: one that runs has not done yet what it is there for; to kstatus it is well as soon as it was started. One that is
// suspended waits for a person, who asked for that.
func job(u *unstructured.Unstructured) (Verdict, bool) {
	if c, found := condition(u, "Failed"); found && c.Status == corev1.ConditionTrue {
		return Verdict{Degraded, "it failed: " + cmp.Or(c.Message, c.Reason)}, true
	}
	if c, found := condition(u, "Complete"); found && c.Status == corev1.ConditionTrue {
		return Verdict{Healthy, ""}, true
	}
	if is, _, _ := unstructured.NestedBool(u.Object, "spec", "suspend"); is {
		return Verdict{Healthy, ""}, true
	}
	return Verdict{Progressing, "it has not completed yet"}, true
}

// pod: one that failed is no good, though to kstatus it has come to its end.
func pod(u *unstructured.Unstructured) (Verdict, bool) {
	phase, _, _ := unstructured.NestedString(u.Object, "status", "phase")
	message, _, _ := unstructured.NestedString(u.Object, "status", "message")
	return Verdict{Degraded, cmp.Or(message, "it failed")}, phase == string(corev1.PodFailed)
}

// loadBalancerFinalizer is set on a Service by the controller that is going to give it a load balancer, before it begins
// (k8s.io/cloud-provider, service controller).
const loadBalancerFinalizer = "service.kubernetes.io/load-balancer-cleanup"

// service: a load balancer is awaited where somebody has taken the Service up to give it one, or where it names who is to. On
// a cluster without such a controller it would never come.
func service(u *unstructured.Unstructured) (Verdict, bool) {
	kind, _, _ := unstructured.NestedString(u.Object, "spec", "type")
	given, _, _ := unstructured.NestedSlice(u.Object, "status", "loadBalancer", "ingress")
	if kind != string(corev1.ServiceTypeLoadBalancer) || len(given) > 0 {
		return Verdict{Healthy, ""}, true
	}
	class, named, _ := unstructured.NestedString(u.Object, "spec", "loadBalancerClass")
	for _, f := range u.GetFinalizers() {
		named = named || f == loadBalancerFinalizer
	}
	if !named {
		return Verdict{Healthy, ""}, true
	}
	if c, found := condition(u, "LoadBalancerPortsError"); found && c.Status == corev1.ConditionTrue {
		return Verdict{Degraded, "its load balancer cannot be made: " + cmp.Or(c.Message, c.Reason)}, true
	}
	if class != "" {
		return Verdict{Progressing, "its load balancer of class " + class + " has no address yet"}, true
	}
	return Verdict{Progressing, "its load balancer has no address yet"}, true
}

func apiService(u *unstructured.Unstructured) (Verdict, bool) {
	c, found := condition(u, "Available")
	return Verdict{Progressing, "the API that it adds is not available: " + cmp.Or(c.Message, c.Reason)}, found && c.Status == corev1.ConditionFalse
}

func condition(u *unstructured.Unstructured, kind string) (corev1.PodCondition, bool) {
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, item := range list {
		m, _ := item.(map[string]any)
		if m["type"] != kind {
			continue
		}
		text := func(field string) string { s, _ := m[field].(string); return s }
		return corev1.PodCondition{Status: corev1.ConditionStatus(text("status")), Reason: text("reason"), Message: text("message")}, true
	}
	return corev1.PodCondition{}, false
}

// ClassOf is the StorageClass of a claim that is not bound; false when live is no such claim, or names no class.
func ClassOf(live *unstructured.Unstructured) (string, bool) {
	if live == nil || live.GroupVersionKind().GroupKind() != (schema.GroupKind{Kind: "PersistentVolumeClaim"}) {
		return "", false
	}
	phase, _, _ := unstructured.NestedString(live.Object, "status", "phase")
	class, _, _ := unstructured.NestedString(live.Object, "spec", "storageClassName")
	return class, class != "" && phase == string(corev1.ClaimPending)
}

// selectedNode is set on a claim by the scheduler once a pod that uses it was placed.
const selectedNode = "volume.kubernetes.io/selected-node"

// AwaitsConsumer says that a pending claim of this class is as it should be: its volume is made when the first pod that uses it
// is placed, and none was yet.
func AwaitsConsumer(claim *unstructured.Unstructured, class *storagev1.StorageClass) bool {
	mode := class.VolumeBindingMode
	return mode != nil && *mode == storagev1.VolumeBindingWaitForFirstConsumer && claim.GetAnnotations()[selectedNode] == ""
}
