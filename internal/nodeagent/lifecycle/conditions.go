package lifecycle

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// owned are the conditions that the node agent alone writes.
var owned = []v1.PodConditionType{v1.PodReadyToStartContainers, v1.PodInitialized, v1.PodReady, v1.ContainersReady}

// conditions gives ours, then those of others as the API has them, then PodScheduled as kubelet does.
func (d *decider) conditions(st *v1.PodStatus) []v1.PodCondition {
	ready := d.containersReady(st)
	out := []v1.PodCondition{
		d.readyToStart(),
		d.initializedCondition(st),
		d.podReady(ready),
		ready,
	}
	for i := range out {
		d.transition(&out[i])
	}
	scheduled := v1.PodCondition{Type: v1.PodScheduled, Status: v1.ConditionTrue, ObservedGeneration: d.Pod.Generation}
	for _, c := range d.Pod.Status.Conditions {
		switch {
		case slices.Contains(owned, c.Type):
		case c.Type == v1.PodScheduled && c.Status == v1.ConditionTrue:
			scheduled = c
		case c.Type != v1.PodScheduled:
			out = append(out, c)
		}
	}
	d.transition(&scheduled)
	return append(out, scheduled)
}

// transition keeps the time of the last change of status.
func (d *decider) transition(c *v1.PodCondition) {
	if !c.LastTransitionTime.IsZero() {
		return
	}
	for _, st := range []*v1.PodStatus{d.Memory.Last, &d.Pod.Status} {
		if st == nil {
			continue
		}
		if _, old := podutil.GetPodCondition(st, c.Type); old != nil && old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
			return
		}
	}
	c.LastTransitionTime = metav1.NewTime(d.Now).Rfc3339Copy()
}

func (d *decider) condition(t v1.PodConditionType, ok bool, reason, message string) v1.PodCondition {
	c := v1.PodCondition{Type: t, Status: v1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: d.Pod.Generation}
	if ok {
		c.Status = v1.ConditionTrue
	}
	return c
}

func (d *decider) readyToStart() v1.PodCondition {
	return d.condition(v1.PodReadyToStartContainers, d.sandbox() != nil, "", "")
}

func (d *decider) initializedCondition(st *v1.PodStatus) v1.PodCondition {
	var incomplete []string
	for i := range d.Pod.Spec.InitContainers {
		c := &d.Pod.Spec.InitContainers[i]
		s, _ := podutil.GetContainerStatus(st.InitContainerStatuses, c.Name)
		done := s.Ready
		if podutil.IsRestartableInitContainer(c) {
			done = s.Started != nil && *s.Started
		}
		if !done {
			incomplete = append(incomplete, c.Name)
		}
	}
	if st.Phase == v1.PodSucceeded {
		return d.condition(v1.PodInitialized, true, "PodCompleted", "")
	}
	for _, s := range st.ContainerStatuses {
		// A container that ever started proves that initialization was over.
		if s.ContainerID != "" && (s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil) {
			return d.condition(v1.PodInitialized, true, "", "")
		}
	}
	if len(incomplete) > 0 {
		return d.condition(v1.PodInitialized, false, "ContainersNotInitialized", "containers with incomplete status: "+list(incomplete))
	}
	return d.condition(v1.PodInitialized, true, "", "")
}

func (d *decider) containersReady(st *v1.PodStatus) v1.PodCondition {
	switch st.Phase {
	case v1.PodSucceeded:
		return d.condition(v1.ContainersReady, false, "PodCompleted", "")
	case v1.PodFailed:
		return d.condition(v1.ContainersReady, false, "PodFailed", "")
	}
	var unready []string
	for i := range d.Pod.Spec.InitContainers {
		c := &d.Pod.Spec.InitContainers[i]
		if s, _ := podutil.GetContainerStatus(st.InitContainerStatuses, c.Name); podutil.IsRestartableInitContainer(c) && !s.Ready {
			unready = append(unready, c.Name)
		}
	}
	for _, s := range st.ContainerStatuses {
		if !s.Ready {
			unready = append(unready, s.Name)
		}
	}
	if len(unready) > 0 {
		return d.condition(v1.ContainersReady, false, "ContainersNotReady", "containers with unready status: "+list(unready))
	}
	return d.condition(v1.ContainersReady, true, "", "")
}

func (d *decider) podReady(containers v1.PodCondition) v1.PodCondition {
	if containers.Status != v1.ConditionTrue {
		return d.condition(v1.PodReady, false, containers.Reason, containers.Message)
	}
	var unmet []string
	for _, gate := range d.Pod.Spec.ReadinessGates {
		_, c := podutil.GetPodConditionFromList(d.Pod.Status.Conditions, gate.ConditionType)
		switch {
		case c == nil:
			unmet = append(unmet, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case c.Status != v1.ConditionTrue:
			unmet = append(unmet, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, c.Status))
		}
	}
	if len(unmet) > 0 {
		return d.condition(v1.PodReady, false, "ReadinessGatesNotReady", strings.Join(unmet, ", "))
	}
	return d.condition(v1.PodReady, true, "", "")
}

func list(names []string) string { return "[" + strings.Join(names, " ") + "]" }
