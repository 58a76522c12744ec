package probe

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
)

// bench is a prober whose containers answer as told, in virtual time.
type bench struct {
	*Prober
	mu      sync.Mutex
	healthy map[Kind]bool
	asked   map[Kind]int
	away    bool
}

func newBench(t *testing.T) (*bench, Target) {
	ctx, cancel := context.WithCancel(context.Background())
	b := &bench{healthy: map[Kind]bool{}, asked: map[Kind]int{}}
	spec := v1.Container{
		Name:           "web",
		StartupProbe:   &v1.Probe{PeriodSeconds: 2, FailureThreshold: 5, ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(1)}}},
		ReadinessProbe: &v1.Probe{PeriodSeconds: 1, FailureThreshold: 2, SuccessThreshold: 2, ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(2)}}},
		LivenessProbe:  &v1.Probe{PeriodSeconds: 1, FailureThreshold: 3, InitialDelaySeconds: 10, ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(3)}}},
	}
	check := func(_ context.Context, _ Target, p *v1.Probe) (Answer, string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		kind := map[int32]Kind{1: Startup, 2: Readiness, 3: Liveness}[p.TCPSocket.Port.IntVal]
		b.asked[kind]++
		if b.away {
			return Unasked, "runtime is away"
		}
		if b.healthy[kind] {
			return Well, ""
		}
		return Unwell, "not well"
	}
	b.Prober = New(ctx, check, func(types.UID) {}, func(Target, Kind, string) {})
	t.Cleanup(func() { cancel(); b.Wait() })
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u1"}}
	return b, Target{Pod: pod, Container: &spec, ID: "c1", Started: time.Now()}
}

func (b *bench) set(k Kind, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.healthy[k] = ok
}

func (b *bench) count(k Kind) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked[k]
}

func (b *bench) want(t *testing.T, startup, readiness, liveness lifecycle.Verdict) {
	t.Helper()
	synctest.Wait()
	if got := b.Verdicts("u1")["c1"]; got != (lifecycle.Probes{Startup: startup, Readiness: readiness, Liveness: liveness}) {
		t.Errorf("after %s: %+v", time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)), got)
	}
}

func TestStartupHoldsTheOthersBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, target := newBench(t)
		b.Watch("u1", []Target{target}, false)
		time.Sleep(3 * time.Second)
		b.want(t, lifecycle.NotProbed, lifecycle.Failed, lifecycle.Success)
		if b.count(Readiness)+b.count(Liveness) > 0 {
			t.Error("asked before the container had started")
		}
		b.set(Startup, true)
		b.set(Readiness, true)
		b.set(Liveness, true)
		time.Sleep(1500 * time.Millisecond) // startup at 4 s, readiness once
		b.want(t, lifecycle.Success, lifecycle.Failed, lifecycle.Success)
		time.Sleep(time.Second) // readiness twice
		b.want(t, lifecycle.Success, lifecycle.Success, lifecycle.Success)
		if b.count(Liveness) > 0 {
			t.Error("initial delay was not kept")
		}
		b.set(Readiness, false)
		time.Sleep(1100 * time.Millisecond)
		b.want(t, lifecycle.Success, lifecycle.Success, lifecycle.Success)
		time.Sleep(time.Second)
		b.want(t, lifecycle.Success, lifecycle.Failed, lifecycle.Success)
		time.Sleep(5 * time.Second)
		b.set(Liveness, false)
		time.Sleep(3100 * time.Millisecond)
		b.want(t, lifecycle.Success, lifecycle.Failed, lifecycle.Failed)
		asked := b.count(Liveness)
		time.Sleep(10 * time.Second)
		if b.count(Liveness) != asked {
			t.Error("a container that is to die is asked for its health")
		}
		b.Forget("u1")
		synctest.Wait()
	})
}

func TestStartupFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, target := newBench(t)
		b.Watch("u1", []Target{target}, false)
		time.Sleep(7 * time.Second) // asked at 0, 2, 4, 6
		b.want(t, lifecycle.NotProbed, lifecycle.Failed, lifecycle.Success)
		time.Sleep(2 * time.Second)
		b.want(t, lifecycle.Failed, lifecycle.Failed, lifecycle.Success)
		b.Forget("u1")
		synctest.Wait()
	})
}

func TestRestartOfTheAgentKeepsReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, target := newBench(t)
		target.WasStarted, target.WasReady = true, true
		b.Watch("u1", []Target{target}, false)
		b.mu.Lock()
		b.away = true
		b.mu.Unlock()
		time.Sleep(20 * time.Second) // whoever cannot be asked keeps the verdict
		b.want(t, lifecycle.Success, lifecycle.Success, lifecycle.Success)
		b.mu.Lock()
		b.away, b.healthy[Liveness] = false, true
		b.mu.Unlock()
		time.Sleep(5 * time.Second) // it is not ready any more
		b.want(t, lifecycle.Success, lifecycle.Failed, lifecycle.Success)
		b.Watch("u1", []Target{target}, true)
		asked := b.count(Liveness)
		time.Sleep(20 * time.Second)
		if b.count(Liveness) != asked {
			t.Error("the liveness of a pod that ends is asked for")
		}
		b.Watch("u1", nil, true)
		synctest.Wait()
		if len(b.Verdicts("u1")) > 0 {
			t.Error("verdicts of a container that is gone")
		}
	})
}
