package pipeline

import (
	"context"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/diff"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
)

// live watches every object that some Application made, kind by kind, from the moment when the first object of the kind
// appears. It answers what the object is like now and says whose it is when it changes. A kind that the engine may not watch in the
// whole cluster is watched with the rights of the Application's own account, namespace by namespace.
type live struct {
	ctx     context.Context // ends all watches
	client  func(user string) (dynamic.Interface, error)
	allowed func(schema.GroupVersionResource) bool // may the engine watch it in the whole cluster
	mapper  meta.RESTMapper
	changed func(owner string)
	log     *slog.Logger

	mu      sync.Mutex
	watches map[watched]cache.SharedIndexInformer
	cancels map[watched]context.CancelFunc
	ended   map[string]string                // how Jobs ended that are gone, by UID
	own     map[schema.GroupVersionKind]bool // what allowed has answered
	all     sync.WaitGroup
}

// watched is what one watch is of. User and namespace are empty for the engine's own, which is of all namespaces.
type watched struct {
	user, namespace string
	kind            schema.GroupVersionKind
}

func newLive(ctx context.Context, e *Engine) *live {
	l := &live{ctx: ctx, client: e.dynamicAs, allowed: e.mayWatch, mapper: e.mapper, changed: e.ownerChanged, log: e.cfg.Log}
	l.init()
	return l
}

func (l *live) init() {
	l.watches, l.cancels = map[watched]cache.SharedIndexInformer{}, map[watched]context.CancelFunc{}
	l.own, l.ended = map[schema.GroupVersionKind]bool{}, map[string]string{}
}

// wait returns when every watch has ended, after ctx has.
func (l *live) wait() { l.all.Wait() }

// end ends the watches of accounts that no Application acts as any more.
func (l *live) end(used func(user string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w, cancel := range l.cancels {
		if w.user != "" && !used(w.user) {
			cancel()
			delete(l.cancels, w)
			delete(l.watches, w)
		}
	}
}

// view is what one account sees; the empty user is the engine itself.
type view struct {
	*live
	user string
}

func (l *live) as(user string) view { return view{l, user} }

// follow starts to watch the kinds of these objects where that is not done yet, and waits a moment for the first
// listing. A kind that the API does not know, or not yet, is left out: it is asked about by other means.
func (v view) follow(objects []apply.Object) {
	var fresh []cache.SharedIndexInformer
	for _, o := range objects {
		if i := v.start(o); i != nil {
			fresh = append(fresh, i)
		}
	}
	if len(fresh) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(v.ctx, 5*time.Second)
	defer cancel()
	for _, i := range fresh {
		cache.WaitForCacheSync(ctx.Done(), func() bool { return i.HasSynced() || i.IsStopped() })
	}
}

// of is the watch that an object belongs to.
func (v view) of(o apply.Object) watched {
	kind := o.GroupVersionKind()
	if own, asked := v.own[kind]; v.user == "" || own || !asked {
		return watched{kind: kind}
	}
	return watched{v.user, o.GetNamespace(), kind}
}

// start returns the new watch of an object's kind, or nil when there is one already or the kind is unknown.
func (v view) start(o apply.Object) cache.SharedIndexInformer {
	v.mu.Lock()
	defer v.mu.Unlock()
	kind := o.GroupVersionKind()
	if v.watches[v.of(o)] != nil {
		return nil
	}
	m, err := v.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return nil
	}
	if _, asked := v.own[kind]; !asked && v.user != "" {
		v.own[kind] = v.allowed(m.Resource)
	}
	w := v.of(o)
	if v.watches[w] != nil {
		return nil
	}
	client, err := v.client(w.user)
	if err != nil {
		return nil
	}
	informer := v.informer(client, m.Resource, w)
	if informer != nil {
		ctx, cancel := context.WithCancel(v.ctx)
		v.watches[w], v.cancels[w] = informer, cancel
		v.all.Go(func() { informer.RunWithContext(ctx) })
	}
	return informer
}

func (l *live) informer(client dynamic.Interface, resource schema.GroupVersionResource, w watched) cache.SharedIndexInformer {
	informer := dynamicinformer.NewFilteredDynamicInformer(client, resource, w.namespace, 0,
		cache.Indexers{byLabel: ownerIndex}, func(o *metav1.ListOptions) { o.LabelSelector = v1alpha1.LabelApplication }).Informer()
	notify := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if u, ok := obj.(*unstructured.Unstructured); ok {
			l.changed(u.GetLabels()[v1alpha1.LabelApplication])
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: notify, DeleteFunc: func(obj any) {
			l.remember(obj)
			notify(obj)
		}, UpdateFunc: func(old, new any) {
			if !statusOfAnApplication(old, new) {
				notify(old) // it may have gone from one Application to another
				notify(new)
			}
		},
	})
	if err == nil {
		err = informer.SetWatchErrorHandlerWithContext(l.refused(w))
	}
	if err != nil {
		return nil
	}
	return informer
}

// refused tells once that an account may not watch what it may write.
func (l *live) refused(w watched) cache.WatchErrorHandlerWithContext {
	var once sync.Once
	return func(ctx context.Context, r *cache.Reflector, err error) {
		if apierrors.IsForbidden(err) {
			once.Do(func() {
				l.log.Warn("changes by others are found late: they may not be watched; allow list and watch", "kind", w.kind.Kind, "namespace", w.namespace, "as", w.user)
			})
			return
		}
		cache.DefaultWatchErrorHandler(ctx, r, err)
	}
}

// blind says that some of these objects are not watched, so that nobody tells of their changes.
func (v view) blind(objects []apply.Object) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, o := range objects {
		if i := v.watches[v.of(o)]; i != nil && !i.HasSynced() {
			return true
		}
	}
	return false
}

// statusOfAnApplication says that an Application below another one changed, and its status alone: it answers for itself,
// and a parent of a thousand would be looked at for each step of each.
func statusOfAnApplication(old, new any) bool {
	o, okOld := old.(*unstructured.Unstructured)
	n, okNew := new.(*unstructured.Unstructured)
	return okOld && okNew && n.GroupVersionKind().Group == v1alpha1.GroupVersion.Group &&
		o.GetUID() == n.GetUID() && n.GetDeletionTimestamp() == nil && reflect.DeepEqual(diff.Declared(o), diff.Declared(n))
}

// mostEnded bounds what is remembered of Jobs that are gone; most are asked about at once.
const mostEnded = 10_000

// remember keeps how a Job ended that goes before anybody has looked at its end.
func (l *live) remember(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return
	}
	if how := apply.Ending(u); how != "" {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.ended) >= mostEnded {
			clear(l.ended)
		}
		l.ended[string(u.GetUID())] = how
	}
}

// ending says how a Job of this UID ended, by what is or was watched of it.
func (v view) ending(o apply.Object, uid string) string {
	if u := v.get(o); u != nil && string(u.GetUID()) == uid {
		return apply.Ending(u)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ended[uid]
}

// get is the object as the watch last saw it, or nil.
func (v view) get(o apply.Object) *unstructured.Unstructured {
	v.mu.Lock()
	informer := v.watches[v.of(o)]
	v.mu.Unlock()
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

// mayWatch asks the API whether the engine itself may watch a resource in the whole cluster.
func (e *Engine) mayWatch(r schema.GroupVersionResource) bool {
	for _, verb := range []string{"list", "watch"} {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Group: r.Group, Version: r.Version, Resource: r.Resource, Verb: verb}}}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		answer, err := e.kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		cancel()
		if err != nil || !answer.Status.Allowed {
			return false
		}
	}
	return true
}
