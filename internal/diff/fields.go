package diff

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Field is a value that differs. A nil Old was absent; a nil New is removed.
type Field struct {
	Path     string // .spec.template.spec.containers[name=web].image
	Old, New any
}

// String is the field as people read it: path: old → new.
func (f Field) String() string {
	return fmt.Sprintf("%s: %s → %s", f.Path, show(f.Old), show(f.New))
}

func show(v any) string {
	if v == nil {
		return "(absent)"
	}
	if m, ok := v.(masked); ok {
		return string(m)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	if s := string(b); len(s) <= 120 {
		return s
	}
	return string(b[:117]) + "..."
}

// masked stands for a value that must not be shown.
type masked string

// Fields compares two states of one object, without what the server keeps for itself (status, managedFields,
// versions). Items of lists are matched by their key where they have one.
func Fields(old, new *unstructured.Unstructured) []Field {
	c := comparison{mask: old.GetKind() == "Secret" && old.GroupVersionKind().Group == ""}
	c.maps("", Declared(old), Declared(new))
	return c.fields
}

// Declared is the part of an object that people declare: everything but status and the server's own metadata. The
// object itself is not changed; the result shares its values.
func Declared(u *unstructured.Unstructured) map[string]any {
	out := maps.Clone(u.Object)
	delete(out, "status")
	if meta, ok := out["metadata"].(map[string]any); ok {
		meta = maps.Clone(meta)
		for _, k := range []string{"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink",
			"deletionTimestamp", "deletionGracePeriodSeconds"} {
			delete(meta, k)
		}
		out["metadata"] = meta
	}
	return out
}

type comparison struct {
	mask   bool
	fields []Field
}

func (c *comparison) value(path string, old, new any) {
	if c.mask { // down to the leaves, so that no part of the tree is shown as a whole
		old, new = emptyFor(old, new), emptyFor(new, old)
	}
	switch o := old.(type) {
	case map[string]any:
		if n, ok := new.(map[string]any); ok {
			c.maps(path, o, n)
			return
		}
	case []any:
		if n, ok := new.([]any); ok {
			c.lists(path, o, n)
			return
		}
	}
	if !reflect.DeepEqual(old, new) {
		c.add(path, old, new)
	}
}

// emptyFor gives an absent side of a map an empty one.
func emptyFor(v, other any) any {
	if _, isMap := other.(map[string]any); v == nil && isMap {
		return map[string]any{}
	}
	return v
}

func (c *comparison) add(path string, old, new any) {
	if c.mask && (strings.HasPrefix(path, ".data") || strings.HasPrefix(path, ".stringData") || strings.Contains(path, "last-applied")) {
		old, new = maskOf(old, "(secret)"), maskOf(new, "(another secret)")
	}
	c.fields = append(c.fields, Field{path, old, new})
}

func maskOf(v any, as masked) any {
	if v == nil {
		return nil
	}
	return as
}

func (c *comparison) maps(path string, old, new map[string]any) {
	keys := slices.Collect(maps.Keys(old))
	for k := range new {
		if _, both := old[k]; !both {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		c.value(path+step(k), old[k], new[k])
	}
}

// step is a key as a part of a path; one with dots is quoted.
func step(key string) string {
	if strings.ContainsAny(key, "./[]") {
		return fmt.Sprintf("[%q]", key)
	}
	return "." + key
}

func (c *comparison) lists(path string, old, new []any) {
	key := mergeKey(old, new)
	if key == "" {
		if !reflect.DeepEqual(old, new) {
			c.byIndex(path, old, new)
		}
		return
	}
	at := map[any]any{}
	for _, item := range new {
		at[item.(map[string]any)[key]] = item
	}
	for _, item := range old {
		k := item.(map[string]any)[key]
		c.value(fmt.Sprintf("%s[%s=%v]", path, key, k), item, at[k])
		delete(at, k)
	}
	for _, item := range new {
		k := item.(map[string]any)[key]
		if _, left := at[k]; left {
			c.add(fmt.Sprintf("%s[%s=%v]", path, key, k), nil, item)
		}
	}
}

func (c *comparison) byIndex(path string, old, new []any) {
	for i := range max(len(old), len(new)) {
		var o, n any
		if i < len(old) {
			o = old[i]
		}
		if i < len(new) {
			n = new[i]
		}
		c.value(fmt.Sprintf("%s[%d]", path, i), o, n)
	}
}

// mergeKeys are the fields by which Kubernetes tells list items apart, in the order in which they are tried.
var mergeKeys = []string{"name", "containerPort", "port", "mountPath", "key", "ip", "type", "topologyKey"}

// mergeKey is the field that every item of both lists has and that no two of one list share.
func mergeKey(lists ...[]any) string {
	for _, key := range mergeKeys {
		if slices.IndexFunc(lists, func(l []any) bool { return !keyed(l, key) }) < 0 && len(lists[0])+len(lists[1]) > 0 {
			return key
		}
	}
	return ""
}

func keyed(list []any, key string) bool {
	seen := map[any]bool{}
	for _, item := range list {
		m, ok := item.(map[string]any)
		if !ok {
			return false
		}
		v, ok := m[key]
		if !ok || seen[v] || !scalar(v) {
			return false
		}
		seen[v] = true
	}
	return true
}

func scalar(v any) bool {
	switch v.(type) {
	case string, int64, float64, bool:
		return true
	}
	return false
}
