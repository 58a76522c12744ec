package apply

import (
	"context"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// tidy deletes of what is left the definitions without objects and the namespaces without content. It is the last thing that an undo does,
// and whatever cannot be known for certain keeps them.
func (x *undo) tidy(ctx context.Context) {
	for _, empty := range []struct {
		gk schema.GroupKind
		is func(context.Context, *unstructured.Unstructured) bool
	}{{crdKind, x.t.hasNoObjects}, {namespaceKind, x.t.hasNoContent}} {
		x.left = slices.DeleteFunc(x.left, func(h Held) bool {
			if h.Ref.GroupKind() != empty.gk || x.t.vital(h.Ref) {
				return false
			}
			m, err := x.t.mapping(h.Ref.GroupKind(), h.Version)
			if err != nil {
				return false
			}
			live, err := x.t.get(ctx, m, h.Ref)
			if err != nil || live == nil || string(live.GetUID()) != h.UID || stays(live) || !empty.is(ctx, live) {
				return false
			}
			// As it was when it was looked at, or not at all.
			gone, err := x.t.delete(ctx, m, live, func(*unstructured.Unstructured) bool { return false })
			x.t.Mapper.Reset()
			return err == nil && gone
		})
	}
}

// hasNoObjects says that a definition's kind has no objects.
func (t Target) hasNoObjects(ctx context.Context, crd *unstructured.Unstructured) bool {
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	plural, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "plural")
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, v := range versions {
		version, _ := v.(map[string]any)
		if name, _ := version["name"].(string); version["served"] == true {
			list, err := t.Dynamic.Resource(schema.GroupVersionResource{Group: group, Version: name, Resource: plural}).List(ctx, metav1.ListOptions{Limit: 1})
			return err == nil && len(list.Items) == 0
		}
	}
	return false
}

// hasNoContent says that nothing in a namespace would be there tomorrow if the namespace was.
func (t Target) hasNoContent(ctx context.Context, namespace *unstructured.Unstructured) bool {
	if t.Kinds == nil {
		return false
	}
	kinds, err := t.Kinds()
	if err != nil {
		return false
	}
	var objects []unstructured.Unstructured
	namespaced := map[schema.GroupVersionKind]bool{}
	for _, of := range kinds {
		gv, err := schema.ParseGroupVersion(of.GroupVersion)
		if err != nil {
			return false
		}
		for _, r := range of.APIResources {
			if strings.Contains(r.Name, "/") || !r.Namespaced {
				continue
			}
			namespaced[gv.WithKind(r.Kind)] = true
			if !slices.Contains(r.Verbs, "list") {
				continue
			}
			list, err := t.Dynamic.Resource(gv.WithResource(r.Name)).Namespace(namespace.GetName()).List(ctx, metav1.ListOptions{Limit: 100})
			if apierrors.IsNotFound(err) {
				continue // its definition has just been deleted
			}
			if err != nil || list.GetContinue() != "" {
				return false
			}
			objects = append(objects, list.Items...)
		}
	}
	return !anyLasts(objects, namespaced)
}

// anyLasts says whether one of the objects of a namespace would stay: it is not being deleted, was not put there by Kubernetes itself, and
// does not go with an owner that is gone.
func anyLasts(objects []unstructured.Unstructured, namespaced map[schema.GroupVersionKind]bool) bool {
	byUID := map[types.UID]*unstructured.Unstructured{}
	for n := range objects {
		byUID[objects[n].GetUID()] = &objects[n]
	}
	var lasts func(u *unstructured.Unstructured, depth int) bool
	lasts = func(u *unstructured.Unstructured, depth int) bool {
		if u.GetUID() == "" || u.GetDeletionTimestamp() != nil || everywhere(u) { // what has no UID is only computed
			return false
		}
		owners := u.GetOwnerReferences()
		return len(owners) == 0 || depth > len(objects) || slices.ContainsFunc(owners, func(o metav1.OwnerReference) bool {
			if owner := byUID[o.UID]; owner != nil {
				return lasts(owner, depth+1)
			}
			return !namespaced[schema.FromAPIVersionAndKind(o.APIVersion, o.Kind)]
		})
	}
	return slices.ContainsFunc(objects, func(u unstructured.Unstructured) bool { return lasts(&u, 0) })
}

// everywhere says that Kubernetes puts an object into each namespace, or notes with it what happens there.
func everywhere(u *unstructured.Unstructured) bool {
	switch gk := u.GroupVersionKind().GroupKind(); {
	case gk.Kind == "Event" && (gk.Group == "" || gk.Group == "events.k8s.io"):
		return true
	case gk == configMapKind:
		return u.GetName() == "kube-root-ca.crt"
	case gk == schema.GroupKind{Kind: "ServiceAccount"}:
		return u.GetName() == "default"
	}
	return false
}
