// Package probe asks containers how they are: startup, readiness and liveness, by exec, HTTP, TCP and gRPC.
//
// In go the running containers of a pod; out come verdicts. What a verdict leads to is decided elsewhere. A container
// that was ready before the agent restarted counts as ready until a probe says otherwise.
package probe

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
)

// Kind names a probe.
type Kind string

const (
	Startup   Kind = "Startup"
	Readiness Kind = "Readiness"
	Liveness  Kind = "Liveness"
)

// Target is one running container to ask.
type Target struct {
	Pod       *v1.Pod
	Container *v1.Container
	ID        string
	IP        string
	Started   time.Time
	// WasStarted and WasReady are what the API knew of this very container.
	WasStarted, WasReady bool
}

// Answer is what came of asking once.
type Answer int

const (
	Unasked Answer = iota // the question did not reach the container: no verdict
	Well
	Unwell
)

// Check asks once; text says why it is not well.
type Check func(ctx context.Context, t Target, p *v1.Probe) (a Answer, text string)

// Prober runs the probes of all pods. Its goroutines end with the context given to New.
type Prober struct {
	ctx     context.Context
	check   Check
	changed func(types.UID)
	failed  func(t Target, kind Kind, text string)
	wg      sync.WaitGroup

	mu   sync.Mutex
	pods map[types.UID]map[string]*subject // by container ID
}

type subject struct {
	verdicts lifecycle.Probes
	cancel   map[Kind]context.CancelFunc
	started  chan struct{} // closed when startup succeeded
	ending   bool
	once     sync.Once
}

// New returns a prober. Changed is called when a verdict changes, failed on each probe that did not succeed.
func New(ctx context.Context, check Check, changed func(types.UID), failed func(Target, Kind, string)) *Prober {
	return &Prober{ctx: ctx, check: check, changed: changed, failed: failed, pods: map[types.UID]map[string]*subject{}}
}

// Wait returns when all probes have ended, after the context did.
func (p *Prober) Wait() { p.wg.Wait() }

// Verdicts are the present verdicts about a pod's containers, by ID.
func (p *Prober) Verdicts(uid types.UID) map[string]lifecycle.Probes {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]lifecycle.Probes{}
	for id, s := range p.pods[uid] {
		out[id] = s.verdicts
	}
	return out
}

// Watch says which containers of the pod to ask from now on. A pod that ends is asked for readiness only.
func (p *Prober) Watch(uid types.UID, targets []Target, ending bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	subjects := p.pods[uid]
	if subjects == nil {
		subjects = map[string]*subject{}
		p.pods[uid] = subjects
	}
	alive := map[string]bool{}
	for _, t := range targets {
		alive[t.ID] = true
		if subjects[t.ID] == nil {
			subjects[t.ID] = p.begin(t)
		}
		if ending {
			subjects[t.ID].ending = true
			subjects[t.ID].stop(Startup)
			subjects[t.ID].stop(Liveness)
		}
	}
	for id, s := range subjects {
		if !alive[id] {
			s.stop(Startup)
			s.stop(Readiness)
			s.stop(Liveness)
			delete(subjects, id)
		}
	}
	if len(subjects) == 0 {
		delete(p.pods, uid)
	}
}

// Forget ends all probes of a pod.
func (p *Prober) Forget(uid types.UID) { p.Watch(uid, nil, true) }

func (s *subject) stop(k Kind) {
	if cancel := s.cancel[k]; cancel != nil {
		cancel()
		delete(s.cancel, k)
	}
}

func (p *Prober) begin(t Target) *subject {
	s := &subject{cancel: map[Kind]context.CancelFunc{}, started: make(chan struct{})}
	s.verdicts.Liveness = lifecycle.Success
	s.verdicts.Readiness = lifecycle.Failed
	if t.WasReady || t.Container.ReadinessProbe == nil {
		s.verdicts.Readiness = lifecycle.Success
	}
	if t.Container.StartupProbe == nil || t.WasStarted {
		s.verdicts.Startup = lifecycle.Success
		s.once.Do(func() { close(s.started) })
	} else {
		p.loop(s, t, Startup, t.Container.StartupProbe)
	}
	if t.Container.LivenessProbe != nil {
		p.loop(s, t, Liveness, t.Container.LivenessProbe)
	}
	if t.Container.ReadinessProbe != nil {
		p.loop(s, t, Readiness, t.Container.ReadinessProbe)
	}
	return s
}

func (p *Prober) loop(s *subject, t Target, kind Kind, spec *v1.Probe) {
	ctx, cancel := context.WithCancel(p.ctx)
	s.cancel[kind] = cancel
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		p.probe(ctx, s, t, kind, spec)
	}()
}

// probe asks again and again until ctx ends, or the verdict is one that ends the container.
func (p *Prober) probe(ctx context.Context, s *subject, t Target, kind Kind, spec *v1.Probe) {
	if kind != Startup {
		select {
		case <-ctx.Done():
			return
		case <-s.started:
		}
	}
	period := seconds(spec.PeriodSeconds, 10)
	first := time.Until(t.Started.Add(time.Duration(spec.InitialDelaySeconds) * time.Second))
	if t.WasStarted && time.Since(t.Started) > period {
		first = rand.N(period) // after a restart of the agent: not all at once
	}
	timer := time.NewTimer(max(first, 0))
	defer timer.Stop()
	run, last := int32(0), false
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		answer, text := p.check(ctx, t, spec)
		if ctx.Err() != nil {
			return
		}
		switch answer {
		case Unasked:
			if p.ends(s) {
				break // it can no longer be asked, as is to be expected
			}
			p.failed(t, kind, " probe errored and resulted in unknown state: "+text)
		case Unwell:
			p.failed(t, kind, " probe failed: "+text)
		}
		ok := answer == Well
		if answer != Unasked {
			if ok != last {
				run = 0
			}
			last = ok
			run++
		}
		if answer != Unasked && (ok && run >= max(spec.SuccessThreshold, 1) || !ok && run >= threshold(spec)) {
			if p.set(s, t, kind, ok) {
				return
			}
		}
		timer.Reset(max(period-time.Since(began), time.Millisecond))
	}
}

func (p *Prober) ends(s *subject) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return s.ending
}

func threshold(p *v1.Probe) int32 {
	if p.FailureThreshold <= 0 {
		return 3
	}
	return p.FailureThreshold
}

func seconds(n, fallback int32) time.Duration {
	if n <= 0 {
		n = fallback
	}
	return time.Duration(n) * time.Second
}

// set records a verdict and says whether the probe is over.
func (p *Prober) set(s *subject, t Target, kind Kind, ok bool) (over bool) {
	verdict := lifecycle.Failed
	if ok {
		verdict = lifecycle.Success
	}
	p.mu.Lock()
	var at *lifecycle.Verdict
	switch kind {
	case Startup:
		at, over = &s.verdicts.Startup, true
		if ok {
			s.once.Do(func() { close(s.started) })
		}
	case Liveness:
		at, over = &s.verdicts.Liveness, !ok
	default:
		at = &s.verdicts.Readiness
	}
	changed := *at != verdict
	*at = verdict
	p.mu.Unlock()
	if changed {
		p.changed(t.Pod.UID)
	}
	return over
}
