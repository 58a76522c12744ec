// Package health says of a live object whether it does what it is there for: healthy, still coming, broken or missing,
// and in words why not.
//
// In go objects as the API returns them, and the pods of a workload for the reason; out comes a Verdict. The rules are
// kstatus' (sigs.k8s.io/cli-utils), but for a few kinds; over them go rules in CEL that an Application declares, and over these what
// an object says of itself. Plus what people need to hear: which pod waits for what. It is pure.
package health

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// Status of an object, from best to worst.
type Status string

const (
	Healthy     Status = "Healthy"
	Progressing Status = "Progressing"
	Degraded    Status = "Degraded"
	Missing     Status = "Missing"
)

var order = []Status{Healthy, Progressing, Missing, Degraded}

// Worst of several; Healthy of none.
func Worst(all ...Status) Status {
	worst := Healthy
	for _, s := range all {
		if slices.Index(order, s) > slices.Index(order, worst) {
			worst = s
		}
	}
	return worst
}

// Verdict is a status and, unless it is Healthy, why.
type Verdict struct {
	Status  Status
	Message string
}

// Of judges one object; nil is Missing.
func Of(live *unstructured.Unstructured) Verdict {
	if live == nil {
		return Verdict{Missing, "it does not exist"}
	}
	if live.GroupVersionKind().Group == "gitopsd.io" {
		return Verdict{Healthy, ""} // an Application below this one answers for itself
	}
	if judge := special[live.GroupVersionKind().GroupKind()]; judge != nil && live.GetDeletionTimestamp() == nil {
		if v, decided := judge(live); decided {
			return v
		}
	}
	r, err := status.Compute(live)
	if err != nil {
		return Verdict{Progressing, "its status cannot be read: " + err.Error()}
	}
	switch r.Status {
	case status.CurrentStatus:
		return Verdict{Healthy, ""}
	case status.FailedStatus:
		return Verdict{Degraded, r.Message}
	case status.TerminatingStatus:
		return Verdict{Progressing, "it is being deleted"}
	case status.NotFoundStatus:
		return Verdict{Missing, r.Message}
	}
	return Verdict{Progressing, r.Message}
}

// Ended judges a Job that is gone by how it ended: "Complete", or otherwise.
func Ended(how string) Verdict {
	if how == "Complete" {
		return Verdict{Healthy, ""}
	}
	return Verdict{Degraded, "it failed, and is gone; change it, or delete it from the repository"}
}

// workloads are the kinds that have pods.
var workloads = map[schema.GroupKind]bool{
	{Group: "apps", Kind: "Deployment"}: true, {Group: "apps", Kind: "StatefulSet"}: true,
	{Group: "apps", Kind: "DaemonSet"}: true, {Group: "apps", Kind: "ReplicaSet"}: true, {Group: "batch", Kind: "Job"}: true,
}

// Selector returns the labels by which a workload finds its pods; false when the object has none.
func Selector(u *unstructured.Unstructured) (map[string]string, bool) {
	if u == nil || !workloads[u.GroupVersionKind().GroupKind()] {
		return nil, false
	}
	m, found, err := unstructured.NestedStringMap(u.Object, "spec", "selector", "matchLabels")
	return m, found && err == nil && len(m) > 0
}

// stuck are reasons for which a container waits that time alone will not mend.
var stuck = map[string]bool{
	"CrashLoopBackOff": true, "ImagePullBackOff": true, "ErrImagePull": true, "InvalidImageName": true, "ErrImageNeverPull": true,
	"CreateContainerConfigError": true, "CreateContainerError": true, "RunContainerError": true,
}

// Explain says what keeps pods from being ready: the first reason of the newest pod that has one. Stuck tells those
// that a person has to mend from those that pass.
func Explain(pods []corev1.Pod) (why string, isStuck bool) {
	pods = slices.Clone(pods)
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return b.CreationTimestamp.Compare(a.CreationTimestamp.Time) })
	for _, p := range pods {
		if p.DeletionTimestamp != nil {
			continue
		}
		if why, isStuck = explain(&p); why != "" {
			return fmt.Sprintf("pod %s: %s", p.Name, why), isStuck
		}
	}
	return "", false
}

func explain(p *corev1.Pod) (string, bool) {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return join("not scheduled", c.Message), true
		}
	}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if w := s.State.Waiting; w != nil && stuck[w.Reason] {
			return join("container "+s.Name+": "+w.Reason, crashMessage(w.Message, s)), true
		}
		if t := s.State.Terminated; t != nil && t.ExitCode != 0 {
			return fmt.Sprintf("container %s: %s, exit code %d", s.Name, t.Reason, t.ExitCode), true
		}
	}
	if p.Status.Phase == corev1.PodFailed {
		return join(p.Status.Reason, p.Status.Message), true
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Running != nil && !s.Ready {
			return "container " + s.Name + " is not ready yet", false
		}
	}
	return "", false
}

// crashMessage adds to a crash loop's message how the container ended.
func crashMessage(message string, s corev1.ContainerStatus) string {
	if t := s.LastTerminationState.Terminated; t != nil && s.State.Waiting.Reason == "CrashLoopBackOff" {
		return fmt.Sprintf("it exited with code %d (%s)", t.ExitCode, t.Reason)
	}
	return message
}

func join(a, b string) string {
	return strings.TrimSuffix(strings.TrimSpace(a+": "+b), ":")
}
