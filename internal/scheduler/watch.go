package scheduler

import (
	"context"
	"errors"
	"sync"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// event is what happened to one object; one of the pointers is set.
type event struct {
	pod       *v1.Pod
	node      *v1.Node
	namespace *v1.Namespace
	deleted   bool
}

// inbox takes events from the watches, which must not be held up, to the loop.
type inbox struct {
	wake   chan struct{}
	mu     sync.Mutex
	events []event
}

func (in *inbox) put(e event) {
	in.mu.Lock()
	in.events = append(in.events, e)
	in.mu.Unlock()
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

func (in *inbox) empty() []event {
	in.mu.Lock()
	defer in.mu.Unlock()
	events := in.events
	in.events = nil
	return events
}

// watch starts the watches and returns when the inbox holds everything that is there now. To decide earlier would
// be to decide without knowing what the nodes already carry.
func watch(ctx context.Context, client kubernetes.Interface, background *sync.WaitGroup) (*inbox, error) {
	in := &inbox{wake: make(chan struct{}, 1)}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(slim))
	// Pods that are over use nothing, and there may be many.
	pods := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(slim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = "status.phase!=Succeeded,status.phase!=Failed" }))
	var synced []cache.InformerSynced
	for _, informer := range []cache.SharedIndexInformer{
		factory.Core().V1().Nodes().Informer(), factory.Core().V1().Namespaces().Informer(), pods.Core().V1().Pods().Informer(),
	} {
		registration, err := informer.AddEventHandler(in.handler())
		if err != nil {
			return nil, err
		}
		synced = append(synced, registration.HasSynced)
	}
	factory.Start(ctx.Done())
	pods.Start(ctx.Done())
	background.Go(func() {
		<-ctx.Done()
		factory.Shutdown()
		pods.Shutdown()
	})
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil, errors.New("ended before the first list was read")
	}
	return in, nil
}

func (in *inbox) handler() cache.ResourceEventHandler {
	put := func(obj any, deleted bool) {
		if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = last.Obj
		}
		switch o := obj.(type) {
		case *v1.Pod:
			in.put(event{pod: o, deleted: deleted})
		case *v1.Node:
			in.put(event{node: o, deleted: deleted})
		case *v1.Namespace:
			in.put(event{namespace: o, deleted: deleted})
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { put(obj, false) },
		UpdateFunc: func(_, obj any) { put(obj, false) },
		DeleteFunc: func(obj any) { put(obj, true) },
	}
}

// slim drops what the scheduler never looks at before it is kept in memory.
func slim(obj any) (any, error) {
	if o, ok := obj.(metav1.Object); ok {
		o.SetManagedFields(nil)
		o.SetAnnotations(nil)
	}
	if n, ok := obj.(*v1.Node); ok {
		n.Status.Images = nil
	}
	return obj, nil
}
