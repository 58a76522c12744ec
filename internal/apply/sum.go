package apply

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/diff"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// A dry-run asks about one object at a time. What only the objects of a revision together break is checked here: quotas of how
// many objects there may be, and ports of the node that two of them name.

var (
	quotaKind   = schema.GroupKind{Kind: "ResourceQuota"}
	serviceKind = schema.GroupKind{Kind: "Service"}
)

// addUp returns every refusal that the objects together would meet.
func (t Target) addUp(ctx context.Context, desired []Object, answers []answer) []error {
	errs := nodePortsTwice(desired)
	for _, c := range t.manyCreates(desired, answers) {
		errs = append(errs, t.overQuota(ctx, c)...)
	}
	return errs
}

// nodePortsTwice finds ports that two Services of the revision name.
func nodePortsTwice(desired []Object) []error {
	type port struct {
		number   int64
		protocol string
	}
	holder, errs := map[port]diff.Ref{}, []error(nil)
	for _, o := range desired {
		if o.Ref().GroupKind() != serviceKind {
			continue
		}
		ports, _, _ := unstructured.NestedSlice(o.Object, "spec", "ports")
		for _, p := range ports {
			spec, _ := p.(map[string]any)
			number, _, _ := unstructured.NestedInt64(spec, "nodePort")
			protocol, _, _ := unstructured.NestedString(spec, "protocol")
			if protocol == "" {
				protocol = "TCP"
			}
			key := port{number, protocol}
			other, taken := holder[key]
			if number != 0 && taken && other != o.Ref() {
				errs = append(errs, refused(o, fmt.Errorf("node port %d/%s is also that of %s; let only one name it", number, protocol, other)))
			}
			holder[key] = o.Ref()
		}
	}
	return errs
}

// creations are several objects of one resource that a revision makes in one namespace.
type creations struct {
	namespace string
	resource  schema.GroupResource
	objects   []Object
}

// manyCreates finds where a revision makes more than one object: one alone is the dry-run's to judge.
func (t Target) manyCreates(desired []Object, answers []answer) []creations {
	by := map[string]*creations{}
	var order []string
	for n, o := range desired {
		c := answers[n].change
		if answers[n].err != nil || c.Action != diff.Create || c.Deferred != "" || o.GetNamespace() == "" {
			continue
		}
		m, err := t.mapping(o.Ref().GroupKind(), o.GroupVersionKind().Version)
		if err != nil {
			continue
		}
		key := o.GetNamespace() + " " + m.Resource.GroupResource().String()
		if by[key] == nil {
			by[key] = &creations{namespace: o.GetNamespace(), resource: m.Resource.GroupResource()}
			order = append(order, key)
		}
		by[key].objects = append(by[key].objects, o)
	}
	var out []creations
	for _, key := range order {
		if len(by[key].objects) > 1 {
			out = append(out, *by[key])
		}
	}
	return out
}

// counted is what a quota calls the number of objects of a resource: count/NAME.GROUP, and the plain name for those of the core.
// https://kubernetes.io/docs/concepts/policy/resource-quotas/#object-count-quota
func counted(r schema.GroupResource) []string {
	if r.Group == "" {
		return []string{"count/" + r.Resource, r.Resource}
	}
	return []string{"count/" + r.String()}
}

// overQuota compares creations with the quotas of their namespace. Where those may not be read, the API will tell.
func (t Target) overQuota(ctx context.Context, c creations) []error {
	m, err := t.mapping(quotaKind, "v1")
	if err != nil {
		return nil
	}
	list, err := t.resource(m, c.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil
	}
	var errs []error
	for _, quota := range list.Items {
		if scoped(&quota) {
			continue
		}
		for _, name := range counted(c.resource) {
			hard, limited := amount(&quota, "hard", name)
			used, _ := amount(&quota, "used", name)
			if limited && used+int64(len(c.objects)) > hard {
				errs = append(errs, fmt.Errorf("ResourceQuota %s/%s allows %d %s, %d are used, and the revision makes %d more (%s); raise it, or make fewer",
					c.namespace, quota.GetName(), hard, c.resource, used, len(c.objects), namesOf(c.objects)))
			}
		}
	}
	return errs
}

func scoped(quota *unstructured.Unstructured) bool {
	scopes, _, _ := unstructured.NestedSlice(quota.Object, "spec", "scopes")
	selector, _, _ := unstructured.NestedMap(quota.Object, "spec", "scopeSelector")
	return len(scopes) > 0 || len(selector) > 0
}

// amount of a quota's status.
func amount(quota *unstructured.Unstructured, of, name string) (int64, bool) {
	all, _, _ := unstructured.NestedMap(quota.Object, "status", of)
	text, _ := all[name].(string)
	q, err := resource.ParseQuantity(text)
	return q.Value(), err == nil
}

func namesOf(objects []Object) string {
	var names []string
	for _, o := range objects {
		names = append(names, o.GetName())
	}
	slices.Sort(names)
	const told = 5
	if more := len(names) - told; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:told], ", "), more)
	}
	return strings.Join(names, ", ")
}
