package health

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestOf(t *testing.T) {
	for name, c := range map[string]struct {
		yaml string
		want Status
	}{
		"a ConfigMap is healthy by being there":     {"{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}", Healthy},
		"a Deployment before its controller saw it": {"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 2}, spec: {replicas: 1}, status: {observedGeneration: 1}}", Progressing},
		"a Deployment with all replicas": {`{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 1}, spec: {replicas: 1},
			status: {observedGeneration: 1, replicas: 1, updatedReplicas: 1, readyReplicas: 1, availableReplicas: 1, conditions: [{type: Available, status: "True"}]}}`, Healthy},
		"a Deployment over its deadline": {`{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 1}, spec: {replicas: 1},
			status: {observedGeneration: 1, conditions: [{type: Progressing, status: "False", reason: ProgressDeadlineExceeded}]}}`, Degraded},
		"a failed Job":        {`{apiVersion: batch/v1, kind: Job, metadata: {name: a}, status: {conditions: [{type: Failed, status: "True", message: BackoffLimitExceeded}]}}`, Degraded},
		"a paused Deployment": {`{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 1}, spec: {replicas: 1, paused: true}, status: {observedGeneration: 1}}`, Healthy},
		"a paused Deployment that was not seen yet": {`{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, generation: 2}, spec: {replicas: 1, paused: true}, status: {observedGeneration: 1}}`, Progressing},
		"a DaemonSet replaced by hand": {`{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: a, generation: 1}, spec: {updateStrategy: {type: OnDelete}},
			status: {observedGeneration: 1, desiredNumberScheduled: 2, currentNumberScheduled: 2, numberAvailable: 2, updatedNumberScheduled: 1}}`, Healthy},
		"a Job that runs":                  {`{apiVersion: batch/v1, kind: Job, metadata: {name: a}, status: {active: 1, startTime: "2026-01-01T00:00:00Z"}}`, Progressing},
		"a Job that completed":             {`{apiVersion: batch/v1, kind: Job, metadata: {name: a}, status: {conditions: [{type: Complete, status: "True"}]}}`, Healthy},
		"a suspended Job":                  {`{apiVersion: batch/v1, kind: Job, metadata: {name: a}, spec: {suspend: true}}`, Healthy},
		"a Pod that failed":                {`{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {phase: Failed}}`, Degraded},
		"a Pod that succeeded":             {`{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {phase: Succeeded}}`, Healthy},
		"a claim that is not bound":        {`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, status: {phase: Pending}}`, Progressing},
		"a definition that is established": {`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a}, status: {conditions: [{type: Established, status: "True"}]}}`, Healthy},
		"a definition of taken names":      {`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a}, status: {conditions: [{type: NamesAccepted, status: "False"}]}}`, Degraded},
		"a custom resource that is ready":  {`{apiVersion: example.org/v1, kind: Widget, metadata: {name: a}, status: {conditions: [{type: Ready, status: "True"}]}}`, Healthy},
		"a custom resource that is not":    {`{apiVersion: example.org/v1, kind: Widget, metadata: {name: a}, status: {conditions: [{type: Ready, status: "False"}]}}`, Progressing},
		"a custom resource that stalls":    {`{apiVersion: example.org/v1, kind: Widget, metadata: {name: a}, status: {conditions: [{type: Stalled, status: "True"}]}}`, Degraded},
		"an API that does not answer":      {`{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: a}, status: {conditions: [{type: Available, status: "False"}]}}`, Progressing},

		"a load balancer that nobody gives":     {"{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, clusterIP: 10.0.0.1}}", Healthy},
		"a load balancer that somebody gives":   {"{apiVersion: v1, kind: Service, metadata: {name: a, finalizers: [service.kubernetes.io/load-balancer-cleanup]}, spec: {type: LoadBalancer}}", Progressing},
		"a load balancer of a class":            {"{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, loadBalancerClass: example.org/x}}", Progressing},
		"a load balancer that is there":         {"{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, loadBalancerClass: example.org/x}, status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}}", Healthy},
		"a load balancer whose ports are taken": {"{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, loadBalancerClass: x.org/x}, status: {conditions: [{type: LoadBalancerPortsError, status: \"True\"}]}}", Degraded},
		"an Application answers for itself":     {`{apiVersion: gitopsd.io/v1alpha1, kind: Application, metadata: {name: a}, status: {conditions: [{type: Ready, status: "False"}]}}`, Healthy},
		"what is being deleted":                 {`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, deletionTimestamp: "2026-01-01T00:00:00Z"}}`, Progressing},
	} {
		if got := Of(object(t, c.yaml)); got.Status != c.want {
			t.Errorf("%s: %+v, want %s", name, got, c.want)
		}
	}
	if got := Of(nil); got.Status != Missing {
		t.Errorf("nothing: %+v", got)
	}
}

func TestAClaimAwaitsItsConsumer(t *testing.T) {
	later, atOnce := storagev1.VolumeBindingWaitForFirstConsumer, storagev1.VolumeBindingImmediate
	claim := object(t, "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, spec: {storageClassName: slow}, status: {phase: Pending}}")
	if name, ok := ClassOf(claim); !ok || name != "slow" {
		t.Errorf("class %q, %v", name, ok)
	}
	if !AwaitsConsumer(claim, &storagev1.StorageClass{VolumeBindingMode: &later}) || AwaitsConsumer(claim, &storagev1.StorageClass{VolumeBindingMode: &atOnce}) ||
		AwaitsConsumer(claim, &storagev1.StorageClass{}) {
		t.Error("the class' binding mode decides")
	}
	claim.SetAnnotations(map[string]string{selectedNode: "n1"})
	if AwaitsConsumer(claim, &storagev1.StorageClass{VolumeBindingMode: &later}) {
		t.Error("once a pod was placed its volume is awaited")
	}
	bound := object(t, "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, spec: {storageClassName: slow}, status: {phase: Bound}}")
	if _, ok := ClassOf(bound); ok {
		t.Error("a bound claim waits for nobody")
	}
}

func TestWorst(t *testing.T) {
	if got := Worst(Healthy, Progressing, Degraded, Missing); got != Degraded {
		t.Error(got)
	}
	if got := Worst(); got != Healthy {
		t.Error(got)
	}
}

func TestExplainNamesTheNewestPodsReason(t *testing.T) {
	at := func(s int) metav1.Time { return metav1.NewTime(time.Unix(int64(s), 0)) }
	waiting := func(name string, s int, reason, message string) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: at(s)}, Status: corev1.PodStatus{
			ContainerStatuses: []corev1.ContainerStatus{{Name: "web", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}}}
	}
	crash := waiting("crash", 3, "CrashLoopBackOff", "back-off 10s restarting")
	crash.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 3, Reason: "Error"}
	unplaced := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "unplaced", CreationTimestamp: at(4)}, Status: corev1.PodStatus{
		Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/1 nodes are available: 1 Insufficient cpu."}}}}
	for _, c := range []struct {
		pods  []corev1.Pod
		want  string
		stuck bool
	}{
		{nil, "", false},
		{[]corev1.Pod{waiting("new", 2, "ContainerCreating", "")}, "", false},
		{[]corev1.Pod{waiting("old", 1, "ErrImagePull", "no such image"), waiting("new", 2, "ContainerCreating", "")}, "pod old: container web: ErrImagePull: no such image", true},
		{[]corev1.Pod{waiting("old", 1, "ErrImagePull", "x"), crash}, "pod crash: container web: CrashLoopBackOff: it exited with code 3 (Error)", true},
		{[]corev1.Pod{crash, unplaced}, "pod unplaced: not scheduled: 0/1 nodes are available: 1 Insufficient cpu.", true},
	} {
		if why, stuck := Explain(c.pods); why != c.want || stuck != c.stuck {
			t.Errorf("got %q (%v), want %q (%v)", why, stuck, c.want, c.stuck)
		}
	}
}
