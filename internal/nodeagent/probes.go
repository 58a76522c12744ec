package nodeagent

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
	"github.com/gitopsd/gitopsd/internal/nodeagent/probe"
)

// probes ties the prober to the workers.
type probes struct {
	*probe.Prober
	agent *agent
}

func newProbes(ctx context.Context, a *agent) *probes {
	changed := func(uid types.UID) {
		if w := a.workers.get(uid); w != nil {
			w.poke()
		}
	}
	failed := func(t probe.Target, kind probe.Kind, text string) {
		a.events.container(t.Pod, t.Container.Name, v1.EventTypeWarning, "Unhealthy", string(kind)+text)
	}
	return &probes{Prober: probe.New(ctx, probe.Checks(a.exec), changed, failed), agent: a}
}

// Sync has the containers probed that run and are done with their postStart hooks.
func (p *probes) Sync(pod *v1.Pod, seen lifecycle.Runtime, d lifecycle.Decision, mem *lifecycle.Memory) {
	ips := p.agent.facts(pod, seen).PodIPs
	var targets []probe.Target
	for i := range seen.Containers {
		c := &seen.Containers[i]
		spec := lifecycle.ContainerSpec(pod, c.Name)
		if c.State != lifecycle.Running || spec == nil || len(ips) == 0 {
			continue
		}
		if spec.StartupProbe == nil && spec.LivenessProbe == nil && spec.ReadinessProbe == nil {
			continue
		}
		if _, starting := mem.Busy[lifecycle.StartKey(c.Name)]; starting {
			continue
		}
		t := probe.Target{Pod: pod, Container: spec, ID: c.ID, IP: ips[0], Started: c.Started}
		t.WasStarted, t.WasReady = known(pod, c.ID)
		targets = append(targets, t)
	}
	p.Watch(pod.UID, targets, d.Ending)
}

// known is what the API says of this very container.
func known(pod *v1.Pod, id string) (started, ready bool) {
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for _, s := range list {
			if s.ContainerID == id {
				return s.Started != nil && *s.Started, s.Ready
			}
		}
	}
	return false, false
}
