package lifecycle

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
)

// status is what to publish: the whole status but the conditions of other writers, which are passed through.
func (d *decider) status() v1.PodStatus {
	api := &d.Pod.Status
	st := v1.PodStatus{
		ObservedGeneration:    d.Pod.Generation,
		StartTime:             api.StartTime,
		QOSClass:              api.QOSClass,
		NominatedNodeName:     api.NominatedNodeName,
		Resize:                api.Resize,
		ResourceClaimStatuses: api.ResourceClaimStatuses,
	}
	if st.QOSClass == "" {
		st.QOSClass = qos.GetPodQOS(d.Pod)
	}
	if st.StartTime == nil {
		t := metav1.NewTime(d.Memory.FirstSeen).Rfc3339Copy()
		st.StartTime = &t
	}
	d.addresses(&st)
	st.ContainerStatuses = d.containerStatuses(d.Pod.Spec.Containers, false)
	st.InitContainerStatuses = d.containerStatuses(d.Pod.Spec.InitContainers, true)
	var debug []v1.Container
	for i := range d.Pod.Spec.EphemeralContainers {
		debug = append(debug, v1.Container(d.Pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	st.EphemeralContainerStatuses = d.containerStatuses(debug, false)
	d.phase(&st)
	st.Conditions = d.conditions(&st)
	return st
}

func (d *decider) addresses(st *v1.PodStatus) {
	for _, ip := range d.HostIPs {
		st.HostIPs = append(st.HostIPs, v1.HostIP{IP: ip})
	}
	if len(d.HostIPs) > 0 {
		st.HostIP = d.HostIPs[0]
	}
	var ips []string
	if len(d.Runtime.Sandboxes) > 0 {
		ips = d.Runtime.Sandboxes[0].IPs
		if d.Pod.Spec.HostNetwork {
			ips = d.HostIPs
		}
	}
	for _, ip := range ips {
		st.PodIPs = append(st.PodIPs, v1.PodIP{IP: ip})
	}
	if len(ips) == 0 {
		// A stopped sandbox no longer tells its address; readers of a finished pod still want it.
		st.PodIPs = slices.Clone(d.last().PodIPs)
	}
	if len(st.PodIPs) > 0 {
		st.PodIP = st.PodIPs[0].IP
	}
}

// last is the status of before: ours, or after a restart of the agent that of the API.
func (d *decider) last() *v1.PodStatus {
	if d.Memory.Last != nil {
		return d.Memory.Last
	}
	return &d.Pod.Status
}

// phase sets phase, reason and message. A terminal phase stays, and waits until nothing runs any more.
func (d *decider) phase(st *v1.PodStatus) {
	api := &d.Pod.Status
	st.Phase = d.computePhase(st)
	alive := d.Runtime.anyAlive() || d.starting()
	switch {
	case podutil.IsPodPhaseTerminal(api.Phase):
		st.Phase, st.Reason, st.Message = api.Phase, api.Reason, api.Message
	case d.why == rejected:
		st.Phase, st.Reason, st.Message = v1.PodFailed, d.Memory.Rejected.Reason, d.Memory.Rejected.Message
	case d.why == overdue:
		st.Phase, st.Reason = v1.PodFailed, "DeadlineExceeded"
		st.Message = "Pod was active on the node longer than the specified deadline"
	case d.why == deleted && d.Memory.TornDown && !podutil.IsPodPhaseTerminal(st.Phase):
		st.Phase = v1.PodFailed
	}
	if podutil.IsPodPhaseTerminal(st.Phase) && !podutil.IsPodPhaseTerminal(api.Phase) && alive {
		st.Phase, st.Reason, st.Message = d.last().Phase, "", ""
		if st.Phase == "" {
			st.Phase = v1.PodPending
		}
	}
}

// tally counts the containers of a pod by what their statuses say.
type tally struct {
	pendingInit, failedInit                            int
	pendingSidecar, unknown, running, waiting, stopped int
	atRest, succeeded                                  int
}

// computePhase is the phase that the container statuses amount to.
func (d *decider) computePhase(st *v1.PodStatus) v1.PodPhase {
	t := d.tally(st)
	initialized := false
	for i := range d.Pod.Spec.Containers {
		initialized = initialized || d.Runtime.latest(d.Pod.Spec.Containers[i].Name) != nil
	}
	switch {
	case t.failedInit > 0:
		return v1.PodFailed
	case t.pendingInit > 0 && !initialized, t.pendingSidecar > 0 && !initialized, t.waiting > 0:
		return v1.PodPending
	case t.running > 0 && t.unknown == 0:
		return v1.PodRunning
	case t.running == 0 && t.stopped > 0 && t.unknown == 0:
		if d.why == running && t.stopped != t.atRest {
			return v1.PodRunning // something restarts
		}
		if t.stopped == t.succeeded {
			return v1.PodSucceeded
		}
		return v1.PodFailed
	}
	return v1.PodPending
}

func (d *decider) tally(st *v1.PodStatus) tally {
	var t tally
	for i := range d.Pod.Spec.InitContainers {
		c := &d.Pod.Spec.InitContainers[i]
		s, _ := podutil.GetContainerStatus(st.InitContainerStatuses, c.Name)
		if podutil.IsRestartableInitContainer(c) {
			t.sidecar(s)
			continue
		}
		end := s.State.Terminated
		if end == nil && s.State.Waiting != nil {
			end = s.LastTerminationState.Terminated
		}
		switch {
		case end == nil || s.State.Running != nil:
			t.pendingInit++
		case end.ExitCode != 0 && !d.restarts(c, end.ExitCode):
			t.failedInit++
		case end.ExitCode != 0 || s.State.Terminated == nil:
			t.pendingInit++
		}
	}
	for i := range d.Pod.Spec.Containers {
		c := &d.Pod.Spec.Containers[i]
		s, _ := podutil.GetContainerStatus(st.ContainerStatuses, c.Name)
		end := s.State.Terminated
		if end == nil && s.State.Waiting != nil {
			end = s.LastTerminationState.Terminated
		}
		switch {
		case s.State.Running != nil:
			t.running++
		case end != nil:
			t.stopped++
			if !d.restarts(c, end.ExitCode) {
				t.atRest++
			}
			if s.State.Terminated != nil && end.ExitCode == 0 {
				t.succeeded++
			}
		case s.State.Waiting != nil:
			t.waiting++
		default:
			t.unknown++
		}
	}
	return t
}

func (t *tally) sidecar(s v1.ContainerStatus) {
	switch {
	case s.State.Running != nil:
		if s.Started == nil || !*s.Started {
			t.pendingSidecar++
		}
		t.running++
	case s.State.Terminated != nil || s.LastTerminationState.Terminated != nil:
		// Ended sidecars do not count.
	case s.State.Waiting != nil:
		t.pendingSidecar++
		t.waiting++
	default:
		t.unknown++
	}
}
