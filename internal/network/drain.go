package network

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// settling is how long a pod of a Service is left alone when nothing new is led to it any more. What was led there just before is connected, but perhaps its
// request has not come yet, and few programs answer one that comes after the sign to end (net/http does not after Shutdown).
const settling = 500 * time.Millisecond

// Drain lets the end of a pod wait for the rules of this node: a container that is stopped while a Service still leads to it loses requests. It is shared by
// Run, which tells it what was written, and the one who stops containers.
type Drain struct {
	mu      sync.Mutex
	known   func(types.UID) bool // whether the watched state leads to a pod; nil while no network runs
	written State                // what the rules were last made of
	again   chan struct{}        // closed when rules were written
	waiting int
	came    chan struct{} // has one element when somebody has begun to wait
}

// NewDrain returns a Drain that makes nobody wait until Run has it.
func NewDrain() *Drain {
	return &Drain{again: make(chan struct{}), came: make(chan struct{}, 1)}
}

// Wait returns once no Service leads new connections to a pod that is being deleted, or what it leads there is led on purpose: to a pod that ends when there
// is no other, and what was led there has had a moment. It returns the error of ctx when that ends before the rules are written.
func (d *Drain) Wait(ctx context.Context, pod types.UID) error {
	served, err := d.await(ctx, pod)
	if served {
		settle(ctx)
	}
	return err
}

// await waits for the rules, and says whether a Service has the pod even now, as an endpoint that ends.
func (d *Drain) await(ctx context.Context, pod types.UID) (served bool, err error) {
	begun := false
	for {
		d.mu.Lock()
		known, again := d.known, d.again
		led := known != nil && (d.written.leadsTo(pod) || known(pod))
		served = known != nil && d.written.serves(pod)
		if led && !begun {
			begun = true
			d.waiting++
			defer d.leave()
			select {
			case d.came <- struct{}{}:
			default:
			}
		}
		d.mu.Unlock()
		if !led {
			return served, nil
		}
		select {
		case <-again:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

func settle(ctx context.Context) {
	t := time.NewTimer(settling)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (d *Drain) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting--
}

// hurried says whether somebody waits.
func (d *Drain) hurried() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.waiting > 0
}

// wrote is told what the rules were made of.
func (d *Drain) wrote(s State, known func(types.UID) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known, d.written = known, s
	close(d.again)
	d.again = make(chan struct{})
}

// stop is told that nobody writes rules any more.
func (d *Drain) stop() { d.wrote(State{}, nil) }

// leadsTo says whether a Service has the pod as an endpoint that is not ending.
func (s State) leadsTo(pod types.UID) bool {
	return s.hasEndpoint(pod, func(c discoveryv1.EndpointConditions) bool {
		return deref(c.Ready, true) && !deref(c.Terminating, false)
	})
}

// serves says whether a Service has the pod as an endpoint, ending or not: it has led there, as likely as not.
func (s State) serves(pod types.UID) bool {
	return s.hasEndpoint(pod, func(discoveryv1.EndpointConditions) bool { return true })
}

func (s State) hasEndpoint(pod types.UID, is func(discoveryv1.EndpointConditions) bool) bool {
	return slices.ContainsFunc(s.Slices, func(slice *discoveryv1.EndpointSlice) bool {
		return slices.ContainsFunc(slice.Endpoints, func(e discoveryv1.Endpoint) bool {
			return e.TargetRef != nil && e.TargetRef.UID == pod && is(e.Conditions)
		}) && proxied(slice.Labels) && s.has(slice.Namespace, slice.Labels[discoveryv1.LabelServiceName])
	})
}

// has says whether there is a Service of that name; the slices of a deleted one stay for a moment.
func (s State) has(namespace, name string) bool {
	return slices.ContainsFunc(s.Services, func(svc *corev1.Service) bool { return svc.Namespace == namespace && svc.Name == name })
}
