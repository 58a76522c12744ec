package appset

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/source"
	"k8s.io/apimachinery/pkg/types"
)

// followed is what a set follows. Generators that differ in any of it do not share one.
type followed struct {
	repo, secret string
	ref          source.Ref
	interval     time.Duration
}

// follow is a ref of a repository that a set follows.
type follow struct {
	spec   source.Spec
	cancel func()

	mu    sync.Mutex
	heard *source.Event
}

// tree is what a generator's repository holds now. It is followed from the first time on: what it hears brings the set up again.
func (g *gathering) tree(ctx context.Context, s v1alpha1.GeneratorSource) (source.Snapshot, error) {
	spec, err := g.spec(ctx, s.Repo, s.Ref, s.SecretRef)
	if err != nil {
		return source.Snapshot{}, err
	}
	interval := defaultInterval
	if s.Interval != nil {
		interval = s.Interval.Duration
	}
	if interval < shortest {
		return source.Snapshot{}, fmt.Errorf("interval %s is too short; at least %s", interval, shortest)
	}
	what := followed{repo: s.Repo, ref: spec.Ref, interval: interval}
	if s.SecretRef != nil {
		what.secret = s.SecretRef.Name
	}
	g.keeps[what] = true
	f, err := g.follow(keyOf(g.set), what, spec)
	if err != nil {
		return source.Snapshot{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.heard == nil:
		return source.Snapshot{}, errNotYet
	case f.heard.Err != nil: // what was read before may be out of date by now: nothing is changed by it
		return source.Snapshot{}, errTransient{f.heard.Err}
	}
	return f.heard.Snapshot, nil
}

func (c *controller) follow(set types.NamespacedName, what followed, spec source.Spec) (*follow, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.follows[set]
	if all == nil {
		all = map[followed]*follow{}
		c.follows[set] = all
	}
	if f := all[what]; f != nil && reflect.DeepEqual(f.spec, spec) {
		return f, nil
	} else if f != nil { // its credentials are others now
		f.cancel()
	}
	f := &follow{spec: spec}
	cancel, err := c.Sources.Subscribe(spec, what.interval, func(ev source.Event) {
		f.mu.Lock()
		f.heard = &ev
		f.mu.Unlock()
		c.queue.Add(set)
	})
	if err != nil {
		delete(all, what)
		return nil, err
	}
	f.cancel = cancel
	all[what] = f
	return f, nil
}

// keepOnly ends what a set no longer follows.
func (c *controller) keepOnly(set types.NamespacedName, keeps map[followed]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for what, f := range c.follows[set] {
		if !keeps[what] {
			f.cancel()
			delete(c.follows[set], what)
		}
	}
}

func (c *controller) forget(set types.NamespacedName) {
	c.keepOnly(set, nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.follows, set)
}

func (c *controller) forgetAll() {
	c.mu.Lock()
	var all []types.NamespacedName
	for set := range c.follows {
		all = append(all, set)
	}
	c.mu.Unlock()
	for _, set := range all {
		c.forget(set)
	}
}
