package fakeapi

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/handlers/fieldmanager"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"         // kinds
	_ "k8s.io/kubernetes/pkg/apis/coordination/install" // kinds
	_ "k8s.io/kubernetes/pkg/apis/core/install"         // kinds
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/coordination/lease"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// kind is one resource that the server serves.
type kind struct {
	gvk        schema.GroupVersionKind
	plural     string
	namespaced bool
	rules      rules // nil: it can only be read, and there is none
	status     rules // nil: no status subresource
	codec      codec
}

func (k *kind) resource() schema.GroupResource {
	return schema.GroupResource{Group: k.gvk.Group, Resource: k.plural}
}

// rules are what an object goes through before it is stored.
type rules interface {
	create(ctx context.Context, obj runtime.Object) error
	update(ctx context.Context, obj, old runtime.Object) error
	unconditional() bool                 // an update may name no resourceVersion
	fields() *managedfields.FieldManager // nil: ownership is not kept
}

// codec turns bytes into objects as they are worked with, and back.
type codec interface {
	empty() runtime.Object
	decode(body []byte) (runtime.Object, error)
	encode(obj runtime.Object) ([]byte, error)
}

// kinds are all there are. They hold no state of a server.
var kinds = []*kind{
	builtin("v1", "ConfigMap", "configmaps", true, configmap.Strategy, nil),
	builtin("v1", "Secret", "secrets", true, secret.Strategy, nil),
	builtin("v1", "Service", "services", true, serviceRules{service.Strategy}, service.StatusStrategy),
	builtin("v1", "Namespace", "namespaces", false, namespace.Strategy, namespace.StatusStrategy),
	builtin("apps/v1", "Deployment", "deployments", true, deployment.Strategy, deployment.StatusStrategy),
	builtin("coordination.k8s.io/v1", "Lease", "leases", true, lease.Strategy, nil),
	{gvk: schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, plural: "pods", namespaced: true},
	{gvk: application, plural: "applications", namespaced: true, rules: customMain{}, status: customStatus{}, codec: custom{application}},
}

var application = schema.GroupVersionKind{Group: "gitopsd.io", Version: "v1alpha1", Kind: "Application"}

// strategy is how Kubernetes calls rules.
type strategy interface {
	rest.RESTCreateStrategy
	rest.RESTUpdateStrategy
}

func builtin(apiVersion, name, plural string, namespaced bool, main strategy, status rest.RESTUpdateStrategy) *kind {
	gvk := schema.FromAPIVersionAndKind(apiVersion, name)
	k := &kind{gvk: gvk, plural: plural, namespaced: namespaced, codec: typed{gvk}, rules: builtinRules{main, main, fieldManager(gvk, "", main)}}
	if status != nil {
		k.status = builtinRules{nil, status, fieldManager(gvk, "status", status)}
	}
	return k
}

var converter = applyconfigurations.NewTypeConverter(scheme.Scheme)

func fieldManager(gvk schema.GroupVersionKind, subresource string, s any) *managedfields.FieldManager {
	var reset map[fieldpath.APIVersion]fieldpath.Filter
	if r, ok := s.(rest.ResetFieldsStrategy); ok {
		reset = fieldpath.NewExcludeFilterSetMap(r.GetResetFields())
	}
	hub := schema.GroupVersion{Group: gvk.Group, Version: runtime.APIVersionInternal}
	m, err := managedfields.NewDefaultFieldManager(converter, legacyscheme.Scheme, legacyscheme.Scheme, legacyscheme.Scheme, gvk, hub, subresource, reset)
	if err != nil {
		panic(fmt.Sprintf("fakeapi: %s: %v", gvk, err)) // the table of kinds is wrong
	}
	return m
}

type builtinRules struct {
	onCreate rest.RESTCreateStrategy
	onUpdate rest.RESTUpdateStrategy
	manager  *managedfields.FieldManager
}

func (r builtinRules) create(ctx context.Context, obj runtime.Object) error {
	return rest.BeforeCreate(r.onCreate, ctx, obj)
}

func (r builtinRules) update(ctx context.Context, obj, old runtime.Object) error {
	if err := rest.BeforeUpdate(r.onUpdate, ctx, obj, old); err != nil {
		return err
	}
	_, err := fieldmanager.IgnoreManagedFieldsTimestampsTransformer(ctx, obj, old)
	return err
}

func (r builtinRules) unconditional() bool { return r.onUpdate.AllowUnconditionalUpdate() }

func (r builtinRules) fields() *managedfields.FieldManager { return r.manager }

// typed objects are worked with in their internal version and stored in gvk's.
type typed struct{ gvk schema.GroupVersionKind }

func (c typed) empty() runtime.Object {
	obj, err := legacyscheme.Scheme.New(c.gvk) // in its own version: an internal one has zeros where this one has nothing
	if err != nil {
		panic(fmt.Sprintf("fakeapi: %s: %v", c.gvk, err)) // the table of kinds is wrong
	}
	return obj
}

func (c typed) decode(body []byte) (runtime.Object, error) {
	obj, got, err := legacyscheme.Codecs.UniversalDeserializer().Decode(body, &c.gvk, nil)
	if err != nil {
		return nil, errors.NewBadRequest(err.Error())
	}
	if *got != c.gvk {
		return nil, errors.NewBadRequest(fmt.Sprintf("the body is a %s and the address says %s", got, c.gvk))
	}
	legacyscheme.Scheme.Default(obj)
	return legacyscheme.Scheme.UnsafeConvertToVersion(obj, schema.GroupVersion{Group: c.gvk.Group, Version: runtime.APIVersionInternal})
}

func (c typed) encode(obj runtime.Object) ([]byte, error) {
	out, err := legacyscheme.Scheme.ConvertToVersion(obj, c.gvk.GroupVersion())
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// custom objects are trees. Defaults and validation of their schema are not here, nor is ownership of fields: of Applications only the
// versions, generation and subresource matter to whoever uses this.
type custom struct{ gvk schema.GroupVersionKind }

func (c custom) empty() runtime.Object {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(c.gvk)
	return u
}

func (c custom) decode(body []byte) (runtime.Object, error) {
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(body); err != nil {
		return nil, errors.NewBadRequest(err.Error())
	}
	return u, nil
}

func (c custom) encode(obj runtime.Object) ([]byte, error) {
	return obj.(*unstructured.Unstructured).MarshalJSON()
}

type customMain struct{}

func (customMain) create(_ context.Context, obj runtime.Object) error {
	u := obj.(*unstructured.Unstructured)
	delete(u.Object, "status")
	u.SetGeneration(1)
	return nil
}

func (customMain) update(_ context.Context, obj, old runtime.Object) error {
	u, was := obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured)
	keepSystemFields(u, was)
	keep(u, was, "status")
	u.SetGeneration(was.GetGeneration())
	if !reflect.DeepEqual(u.Object["spec"], was.Object["spec"]) {
		u.SetGeneration(was.GetGeneration() + 1)
	}
	return sameUID(u, was)
}

func (customMain) unconditional() bool { return false }

func (customMain) fields() *managedfields.FieldManager { return nil }

type customStatus struct{ customMain }

func (customStatus) update(_ context.Context, obj, old runtime.Object) error {
	u, was := obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured)
	if err := sameUID(u, was); err != nil {
		return err
	}
	keep(u, was, "metadata")
	keep(u, was, "spec")
	return nil
}

func keep(u, was *unstructured.Unstructured, name string) {
	delete(u.Object, name)
	if v, found := was.Object[name]; found {
		u.Object[name] = runtime.DeepCopyJSONValue(v)
	}
}

func keepSystemFields(u, was metav1.Object) {
	u.SetCreationTimestamp(was.GetCreationTimestamp())
	u.SetDeletionTimestamp(was.GetDeletionTimestamp())
	u.SetDeletionGracePeriodSeconds(was.GetDeletionGracePeriodSeconds())
	if u.GetUID() == "" {
		u.SetUID(was.GetUID())
	}
}

func sameUID(u, was *unstructured.Unstructured) error {
	if u.GetUID() == "" || u.GetUID() == was.GetUID() {
		return nil
	}
	return errors.NewInvalid(u.GroupVersionKind().GroupKind(), u.GetName(),
		field.ErrorList{field.Invalid(field.NewPath("metadata", "uid"), u.GetUID(), "field is immutable")})
}

func metaOf(obj runtime.Object) metav1.Object {
	m, err := meta.Accessor(obj)
	if err != nil {
		panic(fmt.Sprintf("fakeapi: %T has no metadata", obj)) // every kind of the table has
	}
	return m
}
