package appset

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/generate"
	"github.com/gitopsd/gitopsd/internal/source"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"
)

// Store is what a preview reads repositories from.
type Store interface {
	Snapshot(ctx context.Context, spec source.Spec) (source.Snapshot, error)
	Branches(ctx context.Context, spec source.Spec) (map[string]string, error)
}

// Preview says what a set would do, and what Applications its namespace has. It asks each repository once and writes nothing.
func Preview(ctx context.Context, cfg Config, store Store, set *v1alpha1.ApplicationSet) (generate.Plan, []v1alpha1.Application, error) {
	kube, err := kubernetes.NewForConfig(cfg.Client)
	if err != nil {
		return generate.Plan{}, nil, fmt.Errorf("build client: %w", err)
	}
	cfg.Sources = asked{ctx, store}
	c := &controller{Config: cfg, kube: kube, follows: map[types.NamespacedName]map[followed]*follow{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[types.NamespacedName]())}
	defer c.queue.ShutDown()
	params, _, err := c.gather(ctx, set)
	if err != nil {
		return generate.Plan{}, nil, err
	}
	list := &v1alpha1.ApplicationList{}
	if err := cfg.API.Get().Namespace(set.Namespace).Resource(applicationResource).Do(ctx).Into(list); err != nil {
		return generate.Plan{}, nil, fmt.Errorf("list the Applications of namespace %s: %w", set.Namespace, err)
	}
	wanted, err := generate.Wanted(set, params)
	if err != nil {
		return generate.Plan{}, nil, err
	}
	plan, err := generate.Compare(set, wanted, list.Items)
	return plan, list.Items, err
}

// asked answers a subscription once, at once.
type asked struct {
	ctx context.Context
	Store
}

func (a asked) Subscribe(spec source.Spec, _ time.Duration, hear func(source.Event)) (func(), error) {
	s, err := a.Snapshot(a.ctx, spec)
	if err != nil && errors.Is(err, a.ctx.Err()) {
		return nil, err
	}
	hear(source.Event{Snapshot: s, Err: err})
	return func() {}, nil
}
