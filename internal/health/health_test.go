package health

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
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
		"a failed Job": {`{apiVersion: batch/v1, kind: Job, metadata: {name: a}, status: {conditions: [{type: Failed, status: "True", message: BackoffLimitExceeded}]}}`, Degraded},
		"a Service whose load balancer is not there": {"{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, clusterIP: 10.0.0.1}}", Healthy},
		"an Application answers for itself":          {`{apiVersion: gitopsd.io/v1alpha1, kind: Application, metadata: {name: a}, status: {conditions: [{type: Ready, status: "False"}]}}`, Healthy},
		"what is being deleted":                      {`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, deletionTimestamp: "2026-01-01T00:00:00Z"}}`, Progressing},
	} {
		u := &unstructured.Unstructured{}
		b, err := yaml.YAMLToJSON([]byte(c.yaml))
		if err == nil {
			err = u.UnmarshalJSON(b) // numbers as the API's client reads them
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := Of(u); got.Status != c.want {
			t.Errorf("%s: %+v, want %s", name, got, c.want)
		}
	}
	if got := Of(nil); got.Status != Missing {
		t.Errorf("nothing: %+v", got)
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
