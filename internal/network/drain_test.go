package network

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// leading is a state in which a Service has the pod as an endpoint.
func leading(pod types.UID, change func(*discoveryv1.EndpointSlice)) State {
	s := slice("web", &testPod{ip: "10.42.0.5"})
	s.Endpoints[0].TargetRef = &corev1.ObjectReference{Kind: "Pod", UID: pod}
	change(s)
	return State{Services: []*corev1.Service{service("web", "10.43.0.10", corev1.ServiceSpec{Ports: ports(80, 0)})}, Slices: []*discoveryv1.EndpointSlice{s}}
}

func TestLeadsTo(t *testing.T) {
	conditions := func(s *discoveryv1.EndpointSlice) *discoveryv1.EndpointConditions { return &s.Endpoints[0].Conditions }
	for what, c := range map[string]struct {
		change func(*discoveryv1.EndpointSlice)
		want   bool
	}{
		"a ready endpoint":         {func(*discoveryv1.EndpointSlice) {}, true},
		"one that says nothing":    {func(s *discoveryv1.EndpointSlice) { conditions(s).Ready = nil }, true},
		"one that is not ready":    {func(s *discoveryv1.EndpointSlice) { conditions(s).Ready = ptr(false) }, false},
		"one that ends":            {func(s *discoveryv1.EndpointSlice) { conditions(s).Terminating = ptr(true) }, false},
		"another pod":              {func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].TargetRef.UID = "b" }, false},
		"an address of no pod":     {func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].TargetRef = nil }, false},
		"a headless Service":       {func(s *discoveryv1.EndpointSlice) { s.Labels[headlessLabel] = "" }, false},
		"a Service that is gone":   {func(s *discoveryv1.EndpointSlice) { s.Labels[discoveryv1.LabelServiceName] = "gone" }, false},
		"one of another proxy":     {func(s *discoveryv1.EndpointSlice) { s.Labels[proxyNameLabel] = "other" }, false},
		"one in another namespace": {func(s *discoveryv1.EndpointSlice) { s.Namespace = "other" }, false},
	} {
		if got := leading("a", c.change).leadsTo("a"); got != c.want {
			t.Errorf("%s: %t", what, got)
		}
	}
}

// The end of a pod waits for the rules, whichever of the two hears of it first, then a moment for what was led there before; and for nothing where no network
// runs or no Service has it.
func TestDrain(t *testing.T) {
	led, ending := leading("a", func(*discoveryv1.EndpointSlice) {}), leading("a", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Conditions.Terminating = ptr(true) })
	wrote := func(rules, watched State) func(*Drain) { return func(d *Drain) { d.wrote(rules, watched.leadsTo) } }
	for what, c := range map[string]struct {
		before, after func(*Drain)
		took          time.Duration // after the rules
		err           error
	}{
		"no network":                {before: func(*Drain) {}},
		"no Service has it":         {before: wrote(State{}, State{})},
		"not led to any more":       {before: wrote(ending, ending), took: settling},
		"rules follow":              {wrote(led, led), wrote(ending, ending), settling, nil},
		"rules about to lead there": {wrote(State{}, led), wrote(ending, ending), settling, nil},
		"rules still of before":     {wrote(led, ending), wrote(ending, ending), settling, nil},
		"its Service is gone":       {wrote(led, led), wrote(State{}, State{}), 0, nil},
		"the network ends":          {wrote(led, led), (*Drain).stop, 0, nil},
		"other rules only":          {wrote(led, led), wrote(led, led), time.Minute, context.DeadlineExceeded},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := NewDrain()
			c.before(d)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			began, done := time.Now(), make(chan error, 1)
			go func() { done <- d.Wait(ctx, "a") }()
			synctest.Wait()
			if d.hurried() != (c.after != nil) {
				t.Errorf("%s: hurried %t", what, d.hurried())
			}
			if c.after != nil {
				c.after(d)
			}
			if err := <-done; !errors.Is(err, c.err) {
				t.Errorf("%s: %v", what, err)
			}
			if took := time.Since(began); took != c.took {
				t.Errorf("%s: took %s", what, took)
			}
			if d.hurried() {
				t.Errorf("%s: still hurried", what)
			}
		})
	}
}
