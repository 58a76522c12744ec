package pipeline

import (
	"context"
	"reflect"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/diff"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
)

// live watches every object that some Application made, kind by kind, from the moment when the first object of the kind
// appears. It answers what the object is like now and says whose it is when it changes.
type live struct {
	ctx     context.Context // ends all watches
	client  dynamic.Interface
	mapper  meta.RESTMapper
	changed func(owner string)

	mu    sync.Mutex
	kinds map[schema.GroupVersionKind]cache.SharedIndexInformer
	all   sync.WaitGroup
}

func newLive(ctx context.Context, client dynamic.Interface, mapper meta.RESTMapper, changed func(string)) *live {
	return &live{ctx: ctx, client: client, mapper: mapper, changed: changed, kinds: map[schema.GroupVersionKind]cache.SharedIndexInformer{}}
}

// wait returns when every watch has ended, after ctx has.
func (l *live) wait() { l.all.Wait() }

// follow starts to watch the kinds of these objects where that is not done yet, and waits a moment for the first
// listing. A kind that the API does not know, or not yet, is left out: it is asked about by other means.
func (l *live) follow(objects []apply.Object) {
	var fresh []cache.SharedIndexInformer
	for _, o := range objects {
		if i := l.start(o.GroupVersionKind()); i != nil {
			fresh = append(fresh, i)
		}
	}
	if len(fresh) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
	defer cancel()
	for _, i := range fresh {
		cache.WaitForCacheSync(ctx.Done(), i.HasSynced)
	}
}

// start returns the new watch of a kind, or nil when there is one already or the kind is unknown.
func (l *live) start(gvk schema.GroupVersionKind) cache.SharedIndexInformer {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kinds[gvk] != nil {
		return nil
	}
	m, err := l.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return nil
	}
	informer := dynamicinformer.NewFilteredDynamicInformer(l.client, m.Resource, metav1.NamespaceAll, 0,
		cache.Indexers{byLabel: ownerIndex}, func(o *metav1.ListOptions) { o.LabelSelector = v1alpha1.LabelApplication }).Informer()
	notify := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if u, ok := obj.(*unstructured.Unstructured); ok {
			l.changed(u.GetLabels()[v1alpha1.LabelApplication])
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: notify, DeleteFunc: notify, UpdateFunc: func(old, new any) {
			if !statusOfAnApplication(old, new) {
				notify(new)
			}
		},
	}); err != nil {
		return nil
	}
	l.kinds[gvk] = informer
	l.all.Go(func() { informer.RunWithContext(l.ctx) })
	return informer
}

// statusOfAnApplication says that an Application below another one changed, and its status alone: it answers for itself,
// and a parent of a thousand would be looked at for each step of each.
func statusOfAnApplication(old, new any) bool {
	o, okOld := old.(*unstructured.Unstructured)
	n, okNew := new.(*unstructured.Unstructured)
	return okOld && okNew && n.GroupVersionKind().Group == v1alpha1.GroupVersion.Group &&
		o.GetUID() == n.GetUID() && n.GetDeletionTimestamp() == nil && reflect.DeepEqual(diff.Declared(o), diff.Declared(n))
}

// get is the object as the watch last saw it, or nil.
func (l *live) get(o apply.Object) *unstructured.Unstructured {
	l.mu.Lock()
	informer := l.kinds[o.GroupVersionKind()]
	l.mu.Unlock()
	if informer == nil {
		return nil
	}
	key := o.GetName()
	if ns := o.GetNamespace(); ns != "" {
		key = ns + "/" + key
	}
	obj, found, err := informer.GetStore().GetByKey(key)
	if err != nil || !found {
		return nil
	}
	return obj.(*unstructured.Unstructured)
}

// ownerChanged brings the Applications of an owner up again.
func (e *Engine) ownerChanged(owner string) {
	for _, key := range e.apps.withOwner(owner) {
		e.queue.Add(key)
	}
}
