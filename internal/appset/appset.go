// Package appset keeps ApplicationSets true: it reads what their generators name, has package generate say which Applications follow, and makes, changes and
// deletes them.
//
// Applications are made in the set's own namespace and nowhere else. When a generator cannot be read, nothing is changed and nothing deleted: a
// repository that does not answer is not an empty one. The package renders and applies nothing; what becomes of an Application is the pipeline's.
package appset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/generate"
	"github.com/gitopsd/gitopsd/internal/redact"
	"github.com/gitopsd/gitopsd/internal/source"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

const (
	setResource         = "applicationsets"
	applicationResource = "applications"
	// ClusterLabel on a ConfigMap makes it a cluster that a set may name.
	ClusterLabel = "gitopsd.io/cluster"
	// workers is how many sets are looked at at once.
	workers = 4
	// patience is how long a forge may take to answer.
	patience = 30 * time.Second
)

// Sources are the repositories.
type Sources interface {
	Subscribe(spec source.Spec, interval time.Duration, hear func(source.Event)) (cancel func(), err error)
	Branches(ctx context.Context, spec source.Spec) (map[string]string, error)
}

// Config is what Run works with.
type Config struct {
	Client *rest.Config   // may read ApplicationSets, Secrets and ConfigMaps, and write Applications
	API    rest.Interface // of the group gitopsd.io
	// Applications is a watch of all of them, with cache.NamespaceIndex, that somebody runs; Preview needs none.
	Applications cache.SharedIndexInformer
	Sources      Sources
	// Turn is asked before anything is written; an error ends the write.
	Turn func(context.Context) error
	// Allowed says whether a set of this namespace may read a repository.
	Allowed func(namespace, repo string) error
	Log     *slog.Logger
}

type controller struct {
	Config
	kube  kubernetes.Interface
	sets  cache.SharedIndexInformer
	queue workqueue.TypedRateLimitingInterface[types.NamespacedName]

	mu      sync.Mutex
	follows map[types.NamespacedName]map[followed]*follow
}

// Run works until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	kube, err := kubernetes.NewForConfig(cfg.Client)
	if err != nil {
		return fmt.Errorf("build client of ApplicationSets: %w", err)
	}
	c := &controller{Config: cfg, kube: kube, follows: map[types.NamespacedName]map[followed]*follow{},
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](time.Second, time.Minute),
			workqueue.TypedRateLimitingQueueConfig[types.NamespacedName]{Name: setResource})}
	c.sets = cache.NewSharedIndexInformer(cache.NewListWatchFromClient(c.API, setResource, metav1.NamespaceAll, fields.Everything()), &v1alpha1.ApplicationSet{}, 0, nil)
	for informer, changed := range map[cache.SharedIndexInformer]func(any){c.sets: c.setChanged, c.Applications: c.applicationChanged} {
		if _, err := informer.AddEventHandler(handler(changed)); err != nil {
			return fmt.Errorf("watch ApplicationSets: %w", err)
		}
	}
	var group sync.WaitGroup
	group.Go(func() { c.sets.RunWithContext(ctx) })
	group.Go(func() {
		<-ctx.Done()
		c.queue.ShutDown()
	})
	if cache.WaitForCacheSync(ctx.Done(), c.sets.HasSynced, c.Applications.HasSynced) {
		for range workers {
			group.Go(func() {
				for c.next(ctx) {
				}
			})
		}
	}
	group.Wait()
	c.forgetAll()
	return nil
}

// handler calls changed with what came, changed or went.
func handler(changed func(any)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{AddFunc: changed, UpdateFunc: func(_, obj any) { changed(obj) }, DeleteFunc: func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		changed(obj)
	}}
}

func (c *controller) setChanged(obj any) {
	if set, ok := obj.(*v1alpha1.ApplicationSet); ok {
		c.queue.Add(keyOf(set))
	}
}

func (c *controller) applicationChanged(obj any) {
	if app, ok := obj.(*v1alpha1.Application); ok && app.Labels[generate.SetLabel] != "" {
		c.queue.Add(types.NamespacedName{Namespace: app.Namespace, Name: app.Labels[generate.SetLabel]})
	}
}

func keyOf(set *v1alpha1.ApplicationSet) types.NamespacedName {
	return types.NamespacedName{Namespace: set.Namespace, Name: set.Name}
}

func (c *controller) next(ctx context.Context) bool {
	key, stop := c.queue.Get()
	if stop {
		return false
	}
	defer c.queue.Done(key)
	again, err := c.reconcile(ctx, key)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		c.Log.Warn("applicationset", "set", key, "err", redact.String(err.Error()))
		c.queue.AddRateLimited(key)
	default:
		c.queue.Forget(key)
		if again > 0 {
			c.queue.AddAfter(key, again)
		}
	}
	return true
}

// reconcile looks at one set once. Again is when to look anew though nothing happens; 0: never.
func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (again time.Duration, err error) {
	obj, found, err := c.sets.GetStore().GetByKey(key.String())
	if err != nil || !found {
		c.forget(key)
		return 0, err
	}
	set := obj.(*v1alpha1.ApplicationSet).DeepCopy()
	if set.DeletionTimestamp != nil {
		c.forget(key)
		return 0, nil
	}
	if set.Spec.Suspend {
		return 0, c.report(ctx, set, "Suspended", "suspended; nothing is made, changed or deleted", nil)
	}
	params, again, err := c.gather(ctx, set)
	if errors.Is(err, errNotYet) {
		if set.Status.ObservedGeneration != set.Generation { // otherwise what it says still holds
			err = c.report(ctx, set, "Reading", err.Error(), nil)
			return again, err
		}
		return again, nil
	}
	if err != nil {
		return again, errors.Join(c.report(ctx, set, "GeneratorFailed", err.Error(), nil), transient(err))
	}
	plan, err := c.plan(set, params)
	if err != nil {
		return again, c.report(ctx, set, "TemplateFailed", err.Error(), nil)
	}
	if err := c.write(ctx, set, plan); err != nil {
		return again, errors.Join(c.report(ctx, set, "WriteFailed", err.Error(), &plan), err)
	}
	reason, message := "Applied", ""
	if len(plan.Withheld) > 0 {
		reason = "DeletionWithheld"
		message = fmt.Sprintf("%d Applications are no longer asked for, and so many are not deleted at once (%s); if that is meant, raise spec.deleteLimit", len(plan.Withheld), strings.Join(plan.Withheld, ", "))
	}
	return again, c.report(ctx, set, reason, message, &plan)
}

func (c *controller) plan(set *v1alpha1.ApplicationSet, params []generate.Params) (generate.Plan, error) {
	wanted, err := generate.Wanted(set, params)
	if err != nil {
		return generate.Plan{}, err
	}
	objects, err := c.Applications.GetIndexer().ByIndex(cache.NamespaceIndex, set.Namespace)
	if err != nil {
		return generate.Plan{}, err
	}
	var there []v1alpha1.Application
	for _, o := range objects {
		there = append(there, *o.(*v1alpha1.Application))
	}
	return generate.Compare(set, wanted, there)
}

// write makes a plan true: what is new first, what goes last.
func (c *controller) write(ctx context.Context, set *v1alpha1.ApplicationSet, plan generate.Plan) error {
	if plan.Empty() {
		return nil
	}
	if err := c.Turn(ctx); err != nil {
		return err
	}
	var errs []error
	for _, app := range plan.Create {
		if set.Spec.OnRemove != v1alpha1.RemoveKeep {
			app.OwnerReferences = []metav1.OwnerReference{generate.Owner(set)}
		}
		err := c.API.Post().Namespace(app.Namespace).Resource(applicationResource).Body(app).Do(ctx).Error()
		if apierrors.IsAlreadyExists(err) { // the watch has not told of it yet: looked at again when it has
			c.queue.AddAfter(keyOf(set), time.Second)
			continue
		}
		errs = append(errs, told("create", app.Name, err))
	}
	for _, app := range plan.Change {
		errs = append(errs, told("change", app.Name, c.change(ctx, app)))
	}
	if err := errors.Join(errs...); err != nil {
		return err // nothing is deleted before what takes its place is there
	}
	for _, name := range plan.Delete {
		err := c.API.Delete().Namespace(set.Namespace).Resource(applicationResource).Name(name).Do(ctx).Error()
		if !apierrors.IsNotFound(err) {
			errs = append(errs, told("delete", name, err))
		}
	}
	c.Log.Info("applicationset", "set", keyOf(set), "created", len(plan.Create), "changed", len(plan.Change), "deleted", len(plan.Delete))
	return errors.Join(errs...)
}

// change writes what the set declares of an Application, and leaves what others have added.
func (c *controller) change(ctx context.Context, wanted *v1alpha1.Application) error {
	now := &v1alpha1.Application{}
	if err := c.API.Get().Namespace(wanted.Namespace).Resource(applicationResource).Name(wanted.Name).Do(ctx).Into(now); err != nil {
		return err
	}
	now.Spec = wanted.Spec
	for k, v := range wanted.Labels {
		metav1.SetMetaDataLabel(&now.ObjectMeta, k, v)
	}
	for k, v := range wanted.Annotations {
		metav1.SetMetaDataAnnotation(&now.ObjectMeta, k, v)
	}
	return c.API.Put().Namespace(now.Namespace).Resource(applicationResource).Name(now.Name).Body(now).Do(ctx).Error()
}

func told(verb, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s Application %s: %w", verb, name, err)
}

// report writes the status when it differs.
func (c *controller) report(ctx context.Context, set *v1alpha1.ApplicationSet, reason, message string, plan *generate.Plan) error {
	before := set.Status.DeepCopy()
	st := &set.Status
	st.ObservedGeneration, st.Reason, st.Message = set.Generation, reason, redact.String(message)
	st.Withheld = nil
	if plan != nil {
		st.Applications, st.Withheld = int32(len(plan.Create)+len(plan.Change)+plan.Unchanged+len(plan.Withheld)+len(plan.Kept)), plan.Withheld
	}
	ready := metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: reason, Message: st.Message, ObservedGeneration: set.Generation}
	if reason != "Applied" {
		ready.Status = metav1.ConditionFalse
	}
	meta.SetStatusCondition(&st.Conditions, ready)
	if reflect.DeepEqual(*before, *st) {
		return nil
	}
	err := c.API.Put().Namespace(set.Namespace).Resource(setResource).Name(set.Name).SubResource("status").Body(set).Do(ctx).Error()
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // it has changed, or gone: that comes up by itself
	}
	return err
}
