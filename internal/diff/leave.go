package diff

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// Pointer is a JSON pointer (RFC 6901) to a field of objects. A step * stands for every item of a list, or every field of a map.
type Pointer []string

// ParsePointer reads a pointer, and refuses one to what an object is known by.
func ParsePointer(text string) (Pointer, error) {
	if !strings.HasPrefix(text, "/") {
		return nil, fmt.Errorf("%q is no JSON pointer; write it as /spec/replicas", text)
	}
	p := Pointer(strings.Split(text[1:], "/"))
	for i, step := range p {
		if strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(step), "~") {
			return nil, fmt.Errorf("%q is no JSON pointer: ~ is written as ~0 and / as ~1", text)
		}
		p[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
	}
	for _, known := range [][]string{{"apiVersion"}, {"kind"}, {"metadata", "name"}, {"metadata", "namespace"}, {"metadata", "labels", "gitopsd.io/application"}} {
		if p.covers(known) {
			return nil, fmt.Errorf("%q cannot be ignored: by %s an object is known", text, strings.Join(known, "."))
		}
	}
	if p[0] == "" {
		return nil, errors.New("a JSON pointer needs the name of a field, such as /spec/replicas")
	}
	return p, nil
}

// covers says whether a field lies at the pointer or below it.
func (p Pointer) covers(field []string) bool {
	if len(p) > len(field) {
		return false
	}
	for i, step := range p {
		if step != "*" && step != field[i] {
			return false
		}
	}
	return true
}

// Leave is a desired object without the fields that are left to others, as it is applied to a live one. What of these fields we own is
// kept with the value that it has: to give it up would let it fall to its default. Left are the declared fields that were left, sorted.
func Leave(desired, live *unstructured.Unstructured, ours string, pointers []Pointer, managers []string) (out *unstructured.Unstructured, left []string) {
	own, all := fieldpath.NewSet(), fieldpath.NewSet()
	for _, m := range live.GetManagedFields() {
		set := fieldSet(m)
		switch {
		case set == nil || m.Subresource == "status":
		case m.Manager == ours && m.Operation == "Apply":
			own = set.Leaves()
		case slices.Contains(managers, m.Manager):
			all = all.Union(set.Leaves())
		}
	}
	found := map[string]bool{}
	l := leaving{live: live.Object, own: own, found: found}
	tree := runtime.DeepCopyJSON(desired.Object)
	for _, p := range pointers {
		l.pointer(tree, live.Object, p, nil)
	}
	all.Iterate(func(p fieldpath.Path) {
		if _, declared := lookup(tree, p); declared && removable(p) {
			found[p.String()] = true
			remove(tree, p)
		}
	})
	own.Iterate(func(p fieldpath.Path) { // what we own of it stays as it is
		if covered(pointers, p, desired.Object) || (all.Has(p) && removable(p)) {
			copyField(tree, live.Object, p)
		}
	})
	for path := range found {
		left = append(left, path)
	}
	slices.Sort(left)
	return &unstructured.Unstructured{Object: tree}, left
}

// removable says that a path leads to a field, and not to an item of a list by which it would be known.
func removable(p fieldpath.Path) bool {
	last := p[len(p)-1]
	if last.FieldName == nil || (len(p) < 3 && *p[0].FieldName == "metadata") {
		return false
	}
	if item := p[max(len(p)-2, 0)]; item.Key != nil {
		return !slices.ContainsFunc(*item.Key, func(k value.Field) bool { return k.Name == *last.FieldName })
	}
	return true
}

type leaving struct {
	live  map[string]any
	own   *fieldpath.Set
	found map[string]bool
}

// pointer takes what a pointer leads to out of a tree. Inside a list that is ours as one nothing can be left out without
// removing it, so the live value takes its place.
func (l leaving) pointer(at, live any, p Pointer, path []string) (empty bool) {
	switch v := at.(type) {
	case map[string]any:
		m, _ := live.(map[string]any)
		had := len(v) > 0
		for name := range v {
			if p[0] != "*" && p[0] != name {
				continue
			}
			here := append(slices.Clone(path), step(name))
			if len(p) > 1 {
				if l.pointer(v[name], m[name], p[1:], here) {
					delete(v, name)
				}
				continue
			}
			l.found[strings.Join(here, "")] = true
			delete(v, name)
			if now, there := m[name]; there && l.inOurs(path) {
				v[name] = runtime.DeepCopyJSONValue(now)
			}
		}
		return had && len(v) == 0
	case []any:
		if len(p) == 1 {
			return false // items are known by what they are; their fields can be left, they cannot
		}
		theirs, _ := live.([]any)
		for n, item := range v {
			if p[0] == "*" || p[0] == strconv.Itoa(n) {
				l.pointer(item, counterpart(item, n, v, theirs), p[1:], append(slices.Clone(path), "["+strconv.Itoa(n)+"]"))
			}
		}
	}
	return false
}

// inOurs says that a path lies in a value that we own as a whole: a list without keys.
func (l leaving) inOurs(path []string) bool {
	where := strings.Join(path, "")
	inside := false
	l.own.Iterate(func(p fieldpath.Path) {
		if prefix := p.String(); strings.HasPrefix(where, prefix+"[") {
			inside = true
		}
	})
	return inside
}

// counterpart is the live item that a desired one stands for.
func counterpart(item any, n int, desired, live []any) any {
	if k := mergeKey("", desired, live); k != nil {
		for _, l := range live {
			if k.of(l) == k.of(item) {
				return l
			}
		}
		return nil
	}
	if n < len(live) {
		return live[n]
	}
	return nil
}

// covered says whether a path of an object lies at one of the pointers, or below. A number is the place of an item in the
// manifest; in the live object it may be at another one.
func covered(pointers []Pointer, p fieldpath.Path, desired map[string]any) bool {
	return slices.ContainsFunc(pointers, func(pointer Pointer) bool {
		if len(pointer) > len(p) {
			return false
		}
		var at any = desired
		for i, step := range pointer {
			if !stepIs(step, p[i], at) {
				return false
			}
			at, _ = lookup(at, p[i:i+1])
		}
		return true
	})
}

func stepIs(step string, e fieldpath.PathElement, in any) bool {
	if step == "*" {
		return true
	}
	if e.FieldName != nil {
		return *e.FieldName == step
	}
	list, _ := in.([]any)
	n, err := strconv.Atoi(step)
	return err == nil && n >= 0 && n < len(list) && matches(list[n], e)
}

// remove takes a field out of a tree, and maps that are empty without it.
func remove(at any, p fieldpath.Path) (empty bool) {
	if m, ok := at.(map[string]any); ok {
		name := *p[0].FieldName
		if len(p) == 1 || remove(m[name], p[1:]) {
			delete(m, name)
		}
		return len(m) == 0
	}
	if item, ok := lookup(at, p[:1]); ok {
		remove(item, p[1:])
	}
	return false
}
