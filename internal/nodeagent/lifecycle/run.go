package lifecycle

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// run brings a wanted pod forward.
func (d *decider) run() {
	if !d.Memory.VolumesReady {
		d.do(Action{Kind: MountVolumes})
	}
	s := d.sandbox()
	if s == nil {
		d.renewSandbox()
		return
	}
	if !d.Memory.VolumesReady {
		return // containers that run go on
	}
	d.startEphemeral(s)
	if d.initialize(s) {
		d.runContainers(s)
	}
}

// sandbox returns the sandbox that containers can run in, or nil if a new one is needed.
func (d *decider) sandbox() *Sandbox {
	if len(d.Runtime.Sandboxes) == 0 {
		return nil
	}
	s := &d.Runtime.Sandboxes[0]
	if !s.Ready || (len(s.IPs) == 0 && !d.Pod.Spec.HostNetwork) {
		return nil
	}
	for _, other := range d.Runtime.Sandboxes[1:] {
		if other.Ready {
			return nil
		}
	}
	return s
}

// renewSandbox ends what runs in the sandboxes of before, releases their network, and makes a new one.
func (d *decider) renewSandbox() {
	if d.busy(CreateSandbox) {
		return
	}
	if len(d.Runtime.Sandboxes) > 0 && d.cancelStarts() {
		return
	}
	waits := false
	for _, c := range d.Runtime.Containers {
		if c.alive() {
			waits = true
			d.kill(c, d.specGrace(), KillSandbox, "Pod sandbox changed, it will be killed and re-created.")
		}
	}
	for _, s := range d.Runtime.Sandboxes {
		if !waits && (s.Ready || !d.Memory.Stopped[s.ID]) {
			d.do(Action{Kind: StopSandbox, ID: s.ID})
			waits = true
		}
	}
	if waits || !d.Memory.VolumesReady || d.busy(StopSandbox, KillContainer) {
		return
	}
	var attempt uint32
	if len(d.Runtime.Sandboxes) > 0 {
		attempt = d.Runtime.Sandboxes[0].Attempt + 1
	}
	d.do(Action{Kind: CreateSandbox, Attempt: attempt})
}

func (d *decider) cancelStarts() (pending bool) {
	for _, key := range sortedKeys(d.Memory.Busy) {
		if op := d.Memory.Busy[key]; op.Action.Kind == StartContainer {
			pending = true
			if !op.Cancelled {
				d.out.Actions = append(d.out.Actions, Action{Kind: Cancel, Operation: key})
			}
		}
	}
	return pending
}

// startEphemeral starts debug containers, once each, even while the pod initializes.
func (d *decider) startEphemeral(s *Sandbox) {
	for i := range d.Pod.Spec.EphemeralContainers {
		e := &d.Pod.Spec.EphemeralContainers[i]
		if d.Runtime.latest(e.Name) == nil {
			d.start((*v1.Container)(&e.EphemeralContainerCommon), s)
		}
	}
}

// initialize drives the init containers of this sandbox and says whether the others may run.
func (d *decider) initialize(s *Sandbox) bool {
	inits := d.Pod.Spec.InitContainers
	furthest := -1
	for i := range inits {
		if d.Runtime.in(s.ID, inits[i].Name) != nil {
			furthest = i
		}
	}
	initialized := len(inits) == 0
	for i := range d.Pod.Spec.Containers {
		if d.Runtime.in(s.ID, d.Pod.Spec.Containers[i].Name) != nil {
			initialized = true
		}
	}
	for i := range inits {
		c := &inits[i]
		sidecar := podutil.IsRestartableInitContainer(c)
		if sidecar && (initialized || i <= furthest) {
			d.keep(c, s, true)
		}
		if initialized || i < furthest {
			continue
		}
		if !d.initialDone(c, s) {
			if !sidecar || i > furthest {
				d.startInit(c, s)
			}
			return false
		}
	}
	return true
}

// initialDone says that the next init container may start.
func (d *decider) initialDone(c *v1.Container, s *Sandbox) bool {
	cur := d.Runtime.in(s.ID, c.Name)
	if cur == nil {
		return false
	}
	if podutil.IsRestartableInitContainer(c) {
		return cur.State == Running && d.started(c, cur)
	}
	return cur.State == Exited && cur.ExitCode == 0
}

func (d *decider) startInit(c *v1.Container, s *Sandbox) {
	cur := d.Runtime.in(s.ID, c.Name)
	switch {
	case cur == nil || cur.State == Created || cur.State == Exited:
		d.start(c, s)
	case cur.State == Unknown:
		d.kill(*cur, d.specGrace(), KillUnknown, "Init container is in unknown state, try killing it before restart")
	}
}

// started says that a container counts as started: its postStart hook is done and its startup probe succeeded.
func (d *decider) started(c *v1.Container, cur *Container) bool {
	if op, busy := d.Memory.Busy[StartKey(c.Name)]; busy && op.Action.Kind == StartContainer {
		return false
	}
	return c.StartupProbe == nil || d.Memory.Probes[cur.ID].Startup == Success
}

func (d *decider) runContainers(s *Sandbox) {
	for i := range d.Pod.Spec.Containers {
		c := &d.Pod.Spec.Containers[i]
		if d.wants(c) {
			d.keep(c, s, false)
		}
	}
}

// keep has the container run in this sandbox, in its present definition, as long as it is healthy.
func (d *decider) keep(c *v1.Container, s *Sandbox, sidecar bool) {
	cur := d.Runtime.in(s.ID, c.Name)
	if cur == nil || cur.State == Created || cur.State == Exited {
		d.start(c, s)
		return
	}
	noun := "Container"
	if sidecar {
		noun = "Init container"
	}
	if cur.State == Unknown {
		d.kill(*cur, d.specGrace(), KillUnknown, noun+" is in unknown state, try killing it before restart")
		return
	}
	verdicts := d.Memory.Probes[cur.ID]
	again := ""
	if d.restarts(c, 1) {
		again = ", will be restarted"
	}
	switch {
	case cur.Hash != "" && cur.Hash != SpecHash(c):
		d.kill(*cur, d.specGrace(), KillChanged, fmt.Sprintf("%s %s definition changed, will be restarted", noun, c.Name))
	case verdicts.Startup == Failed && c.StartupProbe != nil:
		d.kill(*cur, d.probeGrace(c.StartupProbe), KillStartup, fmt.Sprintf("%s %s failed startup probe%s", noun, c.Name, again))
	case verdicts.Liveness == Failed && c.LivenessProbe != nil:
		d.kill(*cur, d.probeGrace(c.LivenessProbe), KillLiveness, fmt.Sprintf("%s %s failed liveness probe%s", noun, c.Name, again))
	}
}

// start starts a container unless it rests, or another one is being started.
func (d *decider) start(c *v1.Container, s *Sandbox) {
	a := Action{Kind: StartContainer, Container: c.Name, SandboxID: s.ID, Attempt: d.nextAttempt(c.Name)}
	if last := d.Runtime.latest(c.Name); last != nil && last.State == Exited {
		b := d.Memory.Backoffs[c.Name]
		if at, waits := b.waiting(last.Finished, d.Now); waits {
			d.wake(at)
			return
		}
		a.Backoff, a.Restart = b.next(last.Finished, d.Now), true
	}
	if !d.ephemeral(c.Name) && (d.starting() || d.startsAlready()) {
		return
	}
	d.do(a)
}

func (d *decider) startsAlready() bool {
	for _, a := range d.out.Actions {
		if a.Kind == StartContainer && !d.ephemeral(a.Container) {
			return true
		}
	}
	return false
}

// nextAttempt continues the count of the runtime, or that of the API where the runtime lost it. A container that was
// made and never started did not run: its attempt is made again.
func (d *decider) nextAttempt(name string) uint32 {
	if last := d.Runtime.latest(name); last != nil {
		if last.State == Created {
			return last.Attempt
		}
		return last.Attempt + 1
	}
	if s := d.apiStatus(name); s != nil && s.ContainerID != "" {
		return uint32(s.RestartCount) + 1
	}
	return 0
}

func (d *decider) apiStatus(name string) *v1.ContainerStatus {
	st := &d.Pod.Status
	for _, list := range [][]v1.ContainerStatus{st.ContainerStatuses, st.InitContainerStatuses, st.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// specGrace is the pod's own grace period.
func (d *decider) specGrace() time.Duration {
	if s := d.Pod.Spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return v1.DefaultTerminationGracePeriodSeconds * time.Second
}

func (d *decider) probeGrace(p *v1.Probe) time.Duration {
	if p.TerminationGracePeriodSeconds != nil {
		return time.Duration(*p.TerminationGracePeriodSeconds) * time.Second
	}
	return d.specGrace()
}

// SpecHash identifies the part of a container's definition whose change restarts it.
func SpecHash(c *v1.Container) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s\x00%s", c.Name, c.Image)
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}
