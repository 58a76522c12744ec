package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	applicationResource = "applications"
	byOwner             = "owner"      // index: the value of the owner's label
	byDependency        = "dependency" // index: namespace/name of what it depends on
)

// applications is the watched set of all Applications, and the way their status is written.
type applications struct {
	client   rest.Interface
	informer cache.SharedIndexInformer
}

// RESTClient returns a client for the API group gitopsd.io.
func RESTClient(cfg *rest.Config) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	c := rest.CopyConfig(cfg)
	c.GroupVersion, c.APIPath = &v1alpha1.GroupVersion, "/apis"
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.QPS = -1
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("build client of Applications: %w", err)
	}
	return client, nil
}

func newApplications(cfg *rest.Config) (*applications, error) {
	client, err := RESTClient(cfg)
	if err != nil {
		return nil, err
	}
	lw := cache.NewListWatchFromClient(client, applicationResource, metav1.NamespaceAll, fields.Everything())
	informer := cache.NewSharedIndexInformer(lw, &v1alpha1.Application{}, 0, cache.Indexers{
		cache.NamespaceIndex: cache.MetaNamespaceIndexFunc,
		byOwner:              func(obj any) ([]string, error) { return []string{ownerOf(obj.(*v1alpha1.Application))}, nil },
		byDependency: func(obj any) ([]string, error) {
			var out []string
			app := obj.(*v1alpha1.Application)
			for _, d := range app.Spec.DependsOn {
				out = append(out, types.NamespacedName{Namespace: app.Namespace, Name: d.Name}.String())
			}
			return out, nil
		},
	})
	return &applications{client, informer}, nil
}

// follow calls changed for every Application that came, changed or went, and for those that depend on it.
func (a *applications) follow(changed func(types.NamespacedName)) error {
	notify := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		app := obj.(*v1alpha1.Application)
		changed(keyOf(app))
		for _, d := range a.indexed(byDependency, keyOf(app).String()) {
			changed(d)
		}
	}
	_, err := a.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: notify, DeleteFunc: notify,
		UpdateFunc: func(old, new any) {
			if worthALook(old.(*v1alpha1.Application), new.(*v1alpha1.Application)) {
				notify(new)
			}
		},
	})
	return err
}

// worthALook tells changes that the engine has to act on from its own writes of the status. A phase or health that
// changed concerns those who depend on it.
func worthALook(old, new *v1alpha1.Application) bool {
	return old.Generation != new.Generation || new.DeletionTimestamp != nil ||
		old.Annotations[v1alpha1.AnnotationSync] != new.Annotations[v1alpha1.AnnotationSync] ||
		old.Annotations[v1alpha1.AnnotationSuspend] != new.Annotations[v1alpha1.AnnotationSuspend] ||
		old.Annotations[v1alpha1.AnnotationPin] != new.Annotations[v1alpha1.AnnotationPin] ||
		old.Annotations[v1alpha1.AnnotationIgnoreWindows] != new.Annotations[v1alpha1.AnnotationIgnoreWindows] ||
		old.Annotations[v1alpha1.AnnotationAllowPrune] != new.Annotations[v1alpha1.AnnotationAllowPrune] ||
		old.Status.Phase != new.Status.Phase || old.Status.Health != new.Status.Health
}

func (a *applications) synced() bool { return a.informer.HasSynced() }

func (a *applications) get(key types.NamespacedName) *v1alpha1.Application {
	obj, found, err := a.informer.GetStore().GetByKey(key.String())
	if err != nil || !found {
		return nil
	}
	return obj.(*v1alpha1.Application).DeepCopy()
}

// waitingFor are the Applications that say they wait for this one.
func (a *applications) waitingFor(on types.NamespacedName) []types.NamespacedName {
	return slices.DeleteFunc(a.indexed(byDependency, on.String()), func(key types.NamespacedName) bool {
		obj, found, err := a.informer.GetStore().GetByKey(key.String())
		return err != nil || !found || obj.(*v1alpha1.Application).Status.Reason != reasonDependency
	})
}

// following are the other Applications that follow the same ref of the same repository.
func (a *applications) following(app *v1alpha1.Application) []*v1alpha1.Application {
	var out []*v1alpha1.Application
	for _, obj := range a.informer.GetStore().List() {
		other := obj.(*v1alpha1.Application)
		if other.UID != app.UID && sameRef(other, app) {
			out = append(out, other)
		}
	}
	return out
}

// sameRef says that two Applications follow the same ref of the same repository.
func sameRef(a, b *v1alpha1.Application) bool {
	return a.Spec.Source.Repo == b.Spec.Source.Repo && a.Spec.Source.Chart == b.Spec.Source.Chart && a.Spec.Source.Ref == b.Spec.Source.Ref
}

// actsAs says whether some Application acts as a user.
func (a *applications) actsAs(user string) bool {
	return slices.ContainsFunc(a.informer.GetStore().List(), func(obj any) bool { return userOf(obj.(*v1alpha1.Application)) == user })
}

// withOwner returns the Applications whose objects carry this owner.
func (a *applications) withOwner(owner string) []types.NamespacedName {
	return a.indexed(byOwner, owner)
}

func (a *applications) indexed(index, value string) []types.NamespacedName {
	objs, err := a.informer.GetIndexer().ByIndex(index, value)
	if err != nil {
		return nil
	}
	var out []types.NamespacedName
	for _, obj := range objs {
		out = append(out, keyOf(obj.(*v1alpha1.Application)))
	}
	return out
}

// ownerName names the Application that an owner stands for; "" when there is none.
func (a *applications) ownerName(owner string) string {
	for _, key := range a.withOwner(owner) {
		return key.String()
	}
	return ""
}

// writeStatus replaces the status. The engine is its only writer, so a conflict means that the spec has changed, and
// the Application comes up again by itself.
func (a *applications) writeStatus(ctx context.Context, app *v1alpha1.Application) (*v1alpha1.Application, error) {
	out := &v1alpha1.Application{}
	err := a.client.Put().Namespace(app.Namespace).Resource(applicationResource).Name(app.Name).SubResource("status").
		Body(app).Do(ctx).Into(out)
	return out, err
}

func (a *applications) update(ctx context.Context, app *v1alpha1.Application) error {
	return a.client.Put().Namespace(app.Namespace).Resource(applicationResource).Name(app.Name).Body(app).Do(ctx).Error()
}

func keyOf(app *v1alpha1.Application) types.NamespacedName {
	return types.NamespacedName{Namespace: app.Namespace, Name: app.Name}
}

// ownerOf is the value of the label by which an Application's objects are known. A label has at most 63 characters:
// a longer name is cut and ends in a hash of the whole.
func ownerOf(app *v1alpha1.Application) string {
	name := app.Namespace + "." + app.Name
	if len(name) <= 63 {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return name[:52] + "-" + hex.EncodeToString(sum[:5])
}
