package lifecycle

import (
	"time"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// Decide says what to do for one pod now. It is the only place where a pod's course is decided:
//
//	wanted and not finished → volumes, sandbox, init containers in order, containers   (run)
//	deleted, refused, over its deadline or finished → containers killed, sandbox stopped, torn down, deleted   (end)
func Decide(in Input) Decision {
	d := &decider{Input: in}
	d.why = d.cause()
	d.out.Ending = d.why != running
	if d.out.Ending {
		d.end()
	} else {
		d.run()
	}
	d.out.Status = d.status()
	return d.out
}

// decider collects one decision.
type decider struct {
	Input
	why cause
	out Decision
}

// cause is why a pod ends.
type cause int

const (
	running cause = iota
	deleted
	rejected
	overdue
	finished
)

func (d *decider) cause() cause {
	switch {
	case d.Memory.Gone || d.Pod.DeletionTimestamp != nil:
		return deleted
	case d.Memory.Rejected != nil:
		return rejected
	case d.overdue():
		return overdue
	case podutil.IsPodPhaseTerminal(d.Pod.Status.Phase) || d.finished():
		return finished
	}
	return running
}

// overdue says that activeDeadlineSeconds have passed.
func (d *decider) overdue() bool {
	s := d.Pod.Spec.ActiveDeadlineSeconds
	if s == nil {
		return false
	}
	at := d.startTime().Add(time.Duration(*s) * time.Second)
	if d.Now.Before(at) {
		d.wake(at)
		return false
	}
	return true
}

func (d *decider) startTime() time.Time {
	if t := d.Pod.Status.StartTime; t != nil {
		return t.Time
	}
	return d.Memory.FirstSeen
}

// finished says that no container of the pod will run again: an init container failed for good, or all containers
// ended and their restart policy lets them rest.
func (d *decider) finished() bool {
	if d.starting() {
		return false
	}
	for i := range d.Pod.Spec.InitContainers {
		c := &d.Pod.Spec.InitContainers[i]
		if podutil.IsRestartableInitContainer(c) {
			continue
		}
		if last := d.Runtime.latest(c.Name); last != nil && last.State == Exited && last.ExitCode != 0 && !d.restarts(c, last.ExitCode) {
			return true
		}
	}
	for i := range d.Pod.Spec.Containers {
		if d.wants(&d.Pod.Spec.Containers[i]) {
			return false
		}
	}
	return len(d.Pod.Spec.Containers) > 0
}

// wants says that a regular container should be running, now or after its backoff.
func (d *decider) wants(c *v1.Container) bool {
	last := d.Runtime.latest(c.Name)
	if last != nil {
		return last.State != Exited || d.restarts(c, last.ExitCode)
	}
	// What the runtime lost, the API may still know.
	if s, ok := podutil.GetContainerStatus(d.Pod.Status.ContainerStatuses, c.Name); ok && s.State.Terminated != nil {
		return d.restarts(c, s.State.Terminated.ExitCode)
	}
	return true
}

func (d *decider) restarts(c *v1.Container, exit int32) bool {
	return podutil.ContainerShouldRestart(*c, d.Pod.Spec, exit)
}

// starting says that a container of the ordinary order is being started. Containers start one after another, so
// that a postStart hook of one may prepare the next.
func (d *decider) starting() bool {
	for _, op := range d.Memory.Busy {
		if op.Action.Kind == StartContainer && !d.ephemeral(op.Action.Container) {
			return true
		}
	}
	return false
}

func (d *decider) ephemeral(name string) bool {
	for i := range d.Pod.Spec.EphemeralContainers {
		if d.Pod.Spec.EphemeralContainers[i].Name == name {
			return true
		}
	}
	return false
}

// wake asks for a decision at t at the latest.
func (d *decider) wake(t time.Time) {
	if t.After(d.Now) && (d.out.Wake.IsZero() || t.Before(d.out.Wake)) {
		d.out.Wake = t
	}
}

// do adds an action unless its target is busy or rests after a failure.
func (d *decider) do(a Action) bool {
	if _, busy := d.Memory.Busy[a.Key()]; busy {
		return false
	}
	if f, failed := d.Memory.Failures[a.Key()]; failed {
		if at := f.retryAt(); d.Now.Before(at) {
			d.wake(at)
			return false
		}
	}
	d.out.Actions = append(d.out.Actions, a)
	return true
}

// cancel stops operations that make things, so that what they made can be taken away.
func (d *decider) cancel() (pending bool) {
	for _, key := range sortedKeys(d.Memory.Busy) {
		op := d.Memory.Busy[key]
		switch op.Action.Kind {
		case MountVolumes, CreateSandbox, StartContainer:
			pending = true
			if !op.Cancelled {
				d.out.Actions = append(d.out.Actions, Action{Kind: Cancel, Operation: key})
			}
		}
	}
	return pending
}

func (d *decider) busy(kinds ...Kind) bool {
	for _, op := range d.Memory.Busy {
		for _, k := range kinds {
			if op.Action.Kind == k {
				return true
			}
		}
	}
	return false
}
