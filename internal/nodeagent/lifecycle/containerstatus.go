package lifecycle

import (
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// containerStatuses gives one status per container, in the order of the spec.
func (d *decider) containerStatuses(containers []v1.Container, inits bool) []v1.ContainerStatus {
	var out []v1.ContainerStatus
	for i := range containers {
		out = append(out, d.containerStatus(&containers[i], inits))
	}
	return out
}

func (d *decider) containerStatus(c *v1.Container, initial bool) v1.ContainerStatus {
	s := v1.ContainerStatus{Name: c.Name, Image: c.Image, VolumeMounts: mountStatuses(c)}
	cur := d.Runtime.latest(c.Name)
	if cur == nil {
		d.unseen(&s, initial)
	} else {
		s.RestartCount = int32(cur.Attempt)
		s.ContainerID, s.ImageID, s.User = cur.ID, cur.ImageID, cur.User
		if cur.Image != "" {
			s.Image = cur.Image
		}
		s.State = d.state(cur)
		if prev := d.Runtime.previous(c.Name); prev != nil && prev.State == Exited {
			s.LastTerminationState = d.state(prev)
		} else if old := d.lastStatus(c.Name); old != nil && old.ContainerID == cur.ID {
			s.LastTerminationState = old.LastTerminationState
		} else if old != nil && cur.Attempt > 0 {
			s.LastTerminationState = ended(old)
		}
		if cur.State == Created {
			s.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: ReasonCreating}}
		}
	}
	d.waitingState(c, cur, &s, initial)
	d.readiness(c, cur, &s, initial)
	return s
}

// ended is how the container of an old status ended, as far as that status knows.
func ended(old *v1.ContainerStatus) v1.ContainerState {
	if old.State.Terminated != nil {
		return v1.ContainerState{Terminated: old.State.Terminated}
	}
	return old.LastTerminationState
}

// unseen fills the status of a container that the runtime does not have: not yet, or no longer.
func (d *decider) unseen(s *v1.ContainerStatus, initial bool) {
	reason := ReasonCreating
	if len(d.Pod.Spec.InitContainers) > 0 {
		reason = ReasonInitializing
	}
	s.State.Waiting = &v1.ContainerStateWaiting{Reason: reason, Message: d.obstacle()}
	old := d.lastStatus(s.Name)
	if old != nil && old.State.Terminated != nil {
		*s = *old
		return
	}
	if old != nil {
		s.RestartCount, s.LastTerminationState = old.RestartCount, old.LastTerminationState
		if old.State.Running != nil {
			s.LastTerminationState.Terminated = &v1.ContainerStateTerminated{
				Reason: "ContainerStatusUnknown", ExitCode: 137, ContainerID: old.ContainerID,
				Message: "The container could not be located when the pod was deleted.  The container used to be Running",
			}
		}
	}
	if d.why != running && d.Memory.TornDown {
		s.State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
			Reason: "ContainerStatusUnknown", ExitCode: 137,
			Message: "The container could not be located when the pod was terminated",
		}}
	}
}

// obstacle is why the pod's containers cannot start yet.
func (d *decider) obstacle() string {
	for _, k := range []Kind{MountVolumes, CreateSandbox} {
		if f, failed := d.Memory.Failures[string(k)]; failed {
			return f.Message
		}
	}
	return ""
}

func (d *decider) lastStatus(name string) *v1.ContainerStatus {
	st := d.last()
	for _, list := range [][]v1.ContainerStatus{st.ContainerStatuses, st.InitContainerStatuses, st.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

func (d *decider) state(c *Container) v1.ContainerState {
	switch c.State {
	case Running:
		return v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: stamp(c.Started)}}
	case Exited:
		t := &v1.ContainerStateTerminated{
			ExitCode: c.ExitCode, Signal: c.Signal, Reason: c.Reason, Message: c.Message, ContainerID: c.ID,
			StartedAt: stamp(c.Started), FinishedAt: stamp(c.Finished),
		}
		if t.Reason == "" {
			t.Reason = "Completed"
			if c.ExitCode != 0 {
				t.Reason = "Error"
			}
		}
		return v1.ContainerState{Terminated: t}
	case Unknown:
		return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
			ExitCode: 137, Reason: "ContainerStatusUnknown", ContainerID: c.ID,
			Message: "The container could not be located when the pod was terminated",
		}}
	}
	return v1.ContainerState{}
}

func stamp(t time.Time) metav1.Time {
	if t.IsZero() || t.Unix() <= 0 {
		return metav1.Unix(0, 0)
	}
	return metav1.NewTime(t).Rfc3339Copy()
}

// waitingState shows a container that should run and does not as waiting, with the reason.
func (d *decider) waitingState(c *v1.Container, cur *Container, s *v1.ContainerStatus, initial bool) {
	if d.why != running || (cur != nil && cur.State == Running) {
		return
	}
	if cur != nil && cur.State == Exited && !d.comesBack(c, cur, initial) {
		return
	}
	reason, message := "", ""
	if cur != nil && cur.State == Exited {
		b := d.Memory.Backoffs[c.Name]
		if at, waits := b.waiting(cur.Finished, d.Now); waits {
			d.wake(at)
			reason, message = ReasonCrashLoop, fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)",
				short(b.Delay), c.Name, d.Pod.Name, d.Pod.Namespace, d.Pod.UID)
		}
	}
	if f, failed := d.Memory.Failures[StartKey(c.Name)]; failed {
		if r, m := d.failureShown(c, f); reason == "" || d.Now.Sub(f.At) < failureShown {
			reason, message = r, m
		}
	}
	if reason == "" {
		return
	}
	if s.State.Terminated != nil {
		s.LastTerminationState = s.State
	}
	s.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason, Message: message}}
}

// comesBack says that an ended container will be started again.
func (d *decider) comesBack(c *v1.Container, cur *Container, initial bool) bool {
	if d.ephemeral(c.Name) {
		return false
	}
	if initial && !podutil.IsRestartableInitContainer(c) {
		return cur.ExitCode != 0 && d.restarts(c, cur.ExitCode)
	}
	return d.restarts(c, cur.ExitCode)
}

// failureShown is a start's failure as the status shows it: by its own name first, then as the backoff.
func (d *decider) failureShown(c *v1.Container, f Failure) (reason, message string) {
	if f.Reason != ReasonErrImagePull {
		return f.Reason, f.Message
	}
	turn := f.At.Add(failureShown)
	if d.Now.Before(turn) {
		d.wake(turn)
		return f.Reason, f.Message
	}
	return ReasonImagePullBackOff, fmt.Sprintf("Back-off pulling image %q: %s: %s", c.Image, f.Reason, f.Message)
}

// readiness sets started and ready.
func (d *decider) readiness(c *v1.Container, cur *Container, s *v1.ContainerStatus, initial bool) {
	started := false
	if cur != nil && cur.State == Running {
		started = d.started(c, cur)
	}
	sidecar := initial && podutil.IsRestartableInitContainer(c)
	switch {
	case d.ephemeral(c.Name):
		return
	case initial && !sidecar:
		s.Ready = s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
		s.Started = ptr(false)
		return
	}
	s.Started = &started
	if !started {
		return
	}
	s.Ready = c.ReadinessProbe == nil || d.Memory.Probes[cur.ID].Readiness == Success
}

func mountStatuses(c *v1.Container) []v1.VolumeMountStatus {
	var out []v1.VolumeMountStatus
	for _, m := range c.VolumeMounts {
		s := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			s.RecursiveReadOnly = ptr(v1.RecursiveReadOnlyDisabled)
		}
		out = append(out, s)
	}
	return out
}

func ptr[T any](v T) *T { return &v }

// short prints 2m40s, 5m, 10s: durations without parts that are zero.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	return s
}
