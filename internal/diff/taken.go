package diff

import (
	"encoding/base64"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// TakenFields are the values that a manager had set on an object and has lost since.
type TakenFields struct {
	Manager string                     // "" of fields that nobody owned: defaults, and what kubectl scale sets
	Object  *unstructured.Unstructured // the fields alone; the caller says whose they are
}

// Taken compares who owned which field before with who owns it now, and returns what others than ours lost to us, with the
// values of before.
func Taken(before, now *unstructured.Unstructured, ours string) []TakenFields {
	own, held := owners(now, ours)
	owned, had := owners(before, ours)
	nobodys := own.Leaves().Difference(owned)
	for _, set := range had {
		nobodys = nobodys.Difference(set)
	}
	had[""] = nobodys
	var out []TakenFields
	for manager, set := range had {
		lost := set.Leaves().Intersection(own)
		if held[manager] != nil {
			lost = lost.Difference(held[manager])
		}
		object := map[string]any{}
		lost.Iterate(func(p fieldpath.Path) { copyField(object, before.Object, p) })
		if len(object) > 0 {
			out = append(out, TakenFields{manager, &unstructured.Unstructured{Object: object}})
		}
	}
	slices.SortFunc(out, func(a, b TakenFields) int { return strings.Compare(a.Manager, b.Manager) })
	return out
}

// owners are the fields that we declare, and those of every other manager. A process of Kubernetes that runs in ours writes under
// our name too; it updates and does not apply.
func owners(u *unstructured.Unstructured, ours string) (own *fieldpath.Set, others map[string]*fieldpath.Set) {
	own, others = fieldpath.NewSet(), map[string]*fieldpath.Set{}
	for _, m := range u.GetManagedFields() {
		set := fieldSet(m)
		switch {
		case set == nil || m.Subresource == "status":
		case m.Manager == ours && m.Operation == metav1.ManagedFieldsOperationApply:
			own = own.Union(set)
		default:
			others[m.Manager] = union(others[m.Manager], set)
		}
	}
	return own, others
}

// Applied is what of an object a manager had applied, with its values and in its order; empty when it had applied nothing.
func Applied(u *unstructured.Unstructured, manager string) *unstructured.Unstructured {
	set := fieldpath.NewSet()
	for _, m := range u.GetManagedFields() {
		if m.Manager != manager || m.Operation != metav1.ManagedFieldsOperationApply || m.Subresource != "" {
			continue
		}
		fields := fieldSet(m)
		if fields == nil || m.APIVersion != u.GetAPIVersion() { // of other names than the object has here: rather too much than too little
			return &unstructured.Unstructured{Object: Declared(u)}
		}
		set = set.Union(fields)
	}
	out, _ := only(withStringData(u), set).(map[string]any)
	return &unstructured.Unstructured{Object: out}
}

// Missing are the fields that a manager has applied, by the API's own account, and that the object does not have.
func Missing(u *unstructured.Unstructured, manager string) []string {
	var out []string
	for _, m := range u.GetManagedFields() {
		set := fieldSet(m)
		if set == nil || m.Manager != manager || m.Operation != metav1.ManagedFieldsOperationApply || m.Subresource != "" || m.APIVersion != u.GetAPIVersion() {
			continue
		}
		out = append(out, paths(set, func(p fieldpath.Path) bool {
			_, there := lookup(u.Object, p)
			return !there
		})...)
	}
	return out
}

// withStringData is an object in which a Secret has its texts where they may have been applied: the API moves them to data, and the
// managers with them to nowhere.
func withStringData(u *unstructured.Unstructured) map[string]any {
	data, _, _ := unstructured.NestedStringMap(u.Object, "data")
	if u.GetKind() != "Secret" || u.GetAPIVersion() != "v1" || len(data) == 0 {
		return u.Object
	}
	texts := map[string]any{}
	for key, encoded := range data {
		if text, err := base64.StdEncoding.DecodeString(encoded); err == nil {
			texts[key] = string(text)
		}
	}
	out := maps.Clone(u.Object)
	out["stringData"] = texts
	return out
}

// only is what of a value a set of fields names.
func only(v any, set *fieldpath.Set) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, field := range v {
			e := fieldpath.PathElement{FieldName: &name}
			if below, ok := set.Children.Get(e); ok {
				out[name] = only(field, below)
			} else if set.Members.Has(e) {
				out[name] = field
			}
		}
		return out
	case []any:
		out := []any{}
		for _, item := range v {
			if part, named := onlyOf(item, set); named {
				out = append(out, part)
			}
		}
		return out
	}
	return v
}

// onlyOf is what of a list's item a set of fields names, with the keys that identify it.
func onlyOf(item any, set *fieldpath.Set) (part any, named bool) {
	set.Members.Iterate(func(e fieldpath.PathElement) {
		if matches(item, e) {
			part, named = item, true
		}
	})
	set.Children.Iterate(func(e fieldpath.PathElement) {
		below, ok := set.Children.Get(e)
		if !ok || !matches(item, e) {
			return
		}
		part, named = only(item, below), true
		if m, keyed := part.(map[string]any); keyed && e.Key != nil {
			maps.Copy(m, identity(e).(map[string]any))
		}
	})
	return part, named
}

// Holds says whether an object has these values.
func Holds(live, values *unstructured.Unstructured) bool { return holds(live.Object, values.Object) }

func holds(live, values any) bool {
	switch v := values.(type) {
	case map[string]any:
		l, ok := live.(map[string]any)
		if !ok {
			return false
		}
		for key := range v {
			if !holds(l[key], v[key]) {
				return false
			}
		}
		return true
	case []any:
		l, ok := live.([]any)
		return ok && !slices.ContainsFunc(v, func(item any) bool {
			return !slices.ContainsFunc(l, func(other any) bool { return holds(other, item) })
		})
	}
	return reflect.DeepEqual(live, values)
}

func union(a, b *fieldpath.Set) *fieldpath.Set {
	if a == nil {
		return b
	}
	return a.Union(b)
}

// copyField copies the value at a path from one tree to another, with what identifies it: the keys of the list items on
// the way. A path that the tree does not have is left out.
func copyField(to, from map[string]any, p fieldpath.Path) {
	if v, ok := lookup(from, p); ok {
		place(to, p, v)
	}
}

func lookup(from any, p fieldpath.Path) (any, bool) {
	for _, e := range p {
		switch {
		case e.FieldName != nil:
			m, ok := from.(map[string]any)
			if !ok {
				return nil, false
			}
			if from, ok = m[*e.FieldName]; !ok {
				return nil, false
			}
		default:
			list, ok := from.([]any)
			if !ok {
				return nil, false
			}
			n := slices.IndexFunc(list, func(item any) bool { return matches(item, e) })
			if n < 0 {
				return nil, false
			}
			from = list[n]
		}
	}
	return from, true
}

// matches says whether an item of a list is the one that a path's element names.
func matches(item any, e fieldpath.PathElement) bool {
	switch {
	case e.Key != nil:
		m, ok := item.(map[string]any)
		if !ok {
			return false
		}
		for _, k := range *e.Key {
			if !value.Equals(k.Value, value.NewValueInterface(m[k.Name])) {
				return false
			}
		}
		return true
	case e.Value != nil:
		return value.Equals(*e.Value, value.NewValueInterface(item))
	}
	return false
}

// place puts v at p, making what is missing on the way.
func place(to any, p fieldpath.Path, v any) any {
	if len(p) == 0 {
		return v
	}
	e := p[0]
	if e.FieldName != nil {
		m, ok := to.(map[string]any)
		if !ok {
			m = map[string]any{}
		}
		m[*e.FieldName] = place(m[*e.FieldName], p[1:], v)
		return m
	}
	list, _ := to.([]any)
	n := slices.IndexFunc(list, func(item any) bool { return matches(item, e) })
	if n < 0 {
		n = len(list)
		list = append(list, identity(e))
	}
	list[n] = place(list[n], p[1:], v)
	return list
}

func identity(e fieldpath.PathElement) any {
	if e.Key == nil {
		return nil
	}
	m := map[string]any{}
	for _, k := range *e.Key {
		m[k.Name] = k.Value.Unstructured()
	}
	return m
}

// MadeBy says whether a manager was the first to write an object: none of the others that own fields wrote before it.
// The API keeps the time of each manager's last write, to the second.
func MadeBy(live *unstructured.Unstructured, manager string) bool {
	var ours, first time.Time
	for _, m := range live.GetManagedFields() {
		if m.Subresource != "" || m.Time == nil {
			continue
		}
		if m.Manager == manager && m.Operation == metav1.ManagedFieldsOperationApply {
			ours = m.Time.Time
		} else if !controllers[m.Manager] && (first.IsZero() || m.Time.Time.Before(first)) {
			first = m.Time.Time
		}
	}
	return !ours.IsZero() && (first.IsZero() || !first.Before(ours))
}
