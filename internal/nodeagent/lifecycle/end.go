package lifecycle

import (
	"time"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// minimumGrace is what a container gets at least, even if the pod is deleted by force.
const minimumGrace = 2 * time.Second

// end takes a pod from the node, one step after another; each step waits for the one before.
func (d *decider) end() {
	if d.cancel() {
		return
	}
	if d.killAll() {
		return
	}
	if d.stopSandboxes() {
		return
	}
	if !d.Memory.TornDown {
		d.do(Action{Kind: TearDown})
		return
	}
	switch {
	case d.Memory.Gone && !d.Memory.Forgotten:
		d.do(Action{Kind: Forget})
	case !d.Memory.Gone && d.Pod.DeletionTimestamp != nil && !d.Memory.Deleted:
		d.do(Action{Kind: DeletePod})
	}
}

// killAll kills what lives: sidecars last, in reverse order, and everything at once when the grace period is over.
func (d *decider) killAll() (waits bool) {
	late := !d.Now.Before(d.endingSince().Add(d.grace()))
	others := false
	for _, c := range d.Runtime.Containers {
		if !c.alive() {
			continue
		}
		waits = true
		if d.sidecar(c.Name) && !late {
			continue
		}
		others = true
		d.kill(c, d.remaining(), "", "Stopping container "+c.Name)
	}
	if others || !waits {
		return waits || d.busy(KillContainer)
	}
	d.wake(d.endingSince().Add(d.grace()))
	for i := len(d.Pod.Spec.InitContainers) - 1; i >= 0; i-- {
		c := d.Runtime.latest(d.Pod.Spec.InitContainers[i].Name)
		if c != nil && c.alive() && d.sidecar(c.Name) {
			d.kill(*c, d.remaining(), "", "Stopping container "+c.Name)
			break
		}
	}
	return true
}

func (d *decider) sidecar(name string) bool {
	for i := range d.Pod.Spec.InitContainers {
		if c := &d.Pod.Spec.InitContainers[i]; c.Name == name {
			return podutil.IsRestartableInitContainer(c)
		}
	}
	return false
}

func (d *decider) stopSandboxes() (waits bool) {
	for _, s := range d.Runtime.Sandboxes {
		if s.Ready || !d.Memory.Stopped[s.ID] {
			waits = true
			d.do(Action{Kind: StopSandbox, ID: s.ID})
		}
	}
	return waits
}

func (d *decider) endingSince() time.Time {
	if d.Memory.EndingSince.IsZero() {
		return d.Now
	}
	return d.Memory.EndingSince
}

// grace is the whole time the pod has to end.
func (d *decider) grace() time.Duration {
	if g := d.Pod.DeletionGracePeriodSeconds; d.why == deleted && g != nil {
		return max(minimumGrace, time.Duration(*g)*time.Second)
	}
	return max(minimumGrace, d.specGrace())
}

func (d *decider) remaining() time.Duration {
	return max(minimumGrace, d.grace()-d.Now.Sub(d.endingSince()))
}

// kill kills a container, or once more if it is being killed and shall end earlier.
func (d *decider) kill(c Container, grace time.Duration, why KillReason, message string) {
	a := Action{Kind: KillContainer, Container: c.Name, ID: c.ID, Grace: grace, Reason: why, Message: message}
	if op, busy := d.Memory.Busy[a.Key()]; busy {
		if !d.Now.Add(grace).Before(op.Deadline.Add(-time.Second)) {
			return
		}
		d.out.Actions = append(d.out.Actions, a)
		return
	}
	d.do(a)
}

// ContainerSpec finds a container of any kind by name; nil when the pod has none of that name.
func ContainerSpec(pod *v1.Pod, name string) *v1.Container {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == name {
			return &pod.Spec.Containers[i]
		}
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return &pod.Spec.InitContainers[i]
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if e := &pod.Spec.EphemeralContainers[i]; e.Name == name {
			return (*v1.Container)(&e.EphemeralContainerCommon)
		}
	}
	return nil
}
