package diff

import (
	"encoding/base64"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Field is a value that differs. A nil Old was absent; a nil New is removed.
type Field struct {
	Path     string // .spec.template.spec.containers[name=web].image
	Old, New any
	Secret   bool // Old and New only say that there is a value, and that another one comes
	// TakenFrom is the manager that had set Old and loses the field by force, and TakenAt when it last wrote.
	TakenFrom string
	TakenAt   time.Time
}

// What stands for values of Secrets.
const (
	secretValue   = "(secret)"
	secretChanged = "(secret, changed)"
)

// Fields compares two states of one object, without what the server keeps for itself (status, managedFields,
// versions). Items of lists are matched by their key where they have one.
func Fields(old, new *unstructured.Unstructured) []Field {
	c := comparison{}
	if old.GetKind() == "Secret" && old.GroupVersionKind().Group == "" {
		c.masks = secretTexts(old, new)
	}
	before, after := Declared(old), Declared(new)
	c.maps(spot{}, before, after)
	if len(c.fields) == 0 {
		return nil
	}
	if lost := losses(old, new); len(lost) > 0 { // walked again: most comparisons end above
		c.fields = nil
		c.maps(spot{lost: lost}, before, after)
	}
	return c.fields
}

// Made are the fields of an object that is to be made, each down to single values and lists of such.
func Made(u *unstructured.Unstructured) []Field {
	c := comparison{leaves: true}
	if u.GetKind() == "Secret" && u.GroupVersionKind().Group == "" {
		c.masks = secretTexts(u)
	}
	name := map[string]any{"name": u.GetName()}
	if u.GetNamespace() != "" {
		name["namespace"] = u.GetNamespace()
	}
	c.maps(spot{}, map[string]any{"apiVersion": u.GetAPIVersion(), "kind": u.GetKind(), "metadata": name}, Declared(u))
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
	masks  []string // of a Secret: what must not be shown; nil for other kinds
	leaves bool     // of an object that is to be made: nothing is told as a whole
	fields []Field
}

// spot is where in an object a comparison is, and who loses what there.
type spot struct {
	path string
	lost []loss
}

func (c *comparison) value(s spot, old, new any) {
	if c.masks != nil { // down to the leaves, so that no part of the tree is shown as a whole
		old, new = emptyFor(old, new), emptyFor(new, old)
	}
	if c.leaves && old == nil {
		old = beginning(new)
	}
	switch o := old.(type) {
	case map[string]any:
		if n, ok := new.(map[string]any); ok {
			c.maps(s, o, n)
			return
		}
	case []any:
		if n, ok := new.([]any); ok {
			c.lists(s, o, n)
			return
		}
	}
	if !equal(old, new) {
		c.add(s, old, new)
	}
}

// beginning is what a tree that is to be made is compared with: nothing, but of its kind.
func beginning(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if len(v) > 0 {
			return map[string]any{}
		}
	case []any:
		if slices.ContainsFunc(v, func(item any) bool { return !scalar(item) }) {
			return []any{}
		}
	}
	return nil
}

// equal takes 1 and 1.0 for the same number, as JSON does.
func equal(a, b any) bool {
	switch x := a.(type) {
	case int64:
		if y, ok := b.(float64); ok {
			return float64(x) == y
		}
	case float64:
		if y, ok := b.(int64); ok {
			return x == float64(y)
		}
	}
	return reflect.DeepEqual(a, b)
}

// emptyFor gives an absent side of a map an empty one.
func emptyFor(v, other any) any {
	if _, isMap := other.(map[string]any); v == nil && isMap {
		return map[string]any{}
	}
	return v
}

func (c *comparison) add(s spot, old, new any) {
	f := Field{Path: s.path, Old: old, New: new}
	if c.masks != nil && c.hides(f) {
		f.Secret = true
		if f.New != nil {
			f.New = secretValue
		}
		if f.Old != nil {
			f.Old = secretValue
		}
		if f.Old != nil && f.New != nil {
			f.New = secretChanged
		}
	}
	f.TakenFrom, f.TakenAt = s.taken()
	c.fields = append(c.fields, f)
}

// hides says whether a field of a Secret holds, or quotes, what must not be shown.
func (c *comparison) hides(f Field) bool {
	if strings.HasPrefix(f.Path, ".data") || strings.HasPrefix(f.Path, ".stringData") || strings.Contains(f.Path, "last-applied") {
		return true
	}
	text := compact(f.Old) + compact(f.New)
	return slices.ContainsFunc(c.masks, func(m string) bool { return strings.Contains(text, m) })
}

// secretTexts are the values of Secrets in the forms in which they may be quoted elsewhere, in an annotation for example.
func secretTexts(secrets ...*unstructured.Unstructured) []string {
	out := []string{} // not nil: that says that nothing is masked
	for _, u := range secrets {
		for _, field := range []string{"data", "stringData"} {
			values, _ := u.Object[field].(map[string]any)
			for _, v := range values {
				text, _ := v.(string)
				plain, _ := base64.StdEncoding.DecodeString(text)
				for _, t := range []string{text, strings.Trim(compact(string(plain)), `"`)} {
					if len(t) >= 4 { // less than that is in every other word
						out = append(out, t)
					}
				}
			}
		}
	}
	return out
}

func (c *comparison) maps(s spot, old, new map[string]any) {
	keys := slices.Collect(maps.Keys(old))
	for k := range new {
		if _, both := old[k]; !both {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		c.value(s.field(k), old[k], new[k])
	}
}

// step is a key as a part of a path; one with dots is quoted.
func step(key string) string {
	if strings.ContainsAny(key, "./[]") || key != printable(key) {
		return fmt.Sprintf("[%q]", key)
	}
	return "." + key
}

func (c *comparison) lists(s spot, old, new []any) {
	if asSet(s.path, old, new) {
		c.sets(s, old, new)
		return
	}
	key := mergeKey(s.path, old, new)
	if key == nil {
		c.byIndex(s, old, new)
		return
	}
	label := key.labels(old, new)
	at := map[string]any{}
	for _, item := range new {
		at[key.of(item)] = item
	}
	for _, item := range old {
		k := key.of(item)
		c.value(s.item("["+label(item)+"]", item), item, at[k])
		delete(at, k)
	}
	for _, item := range new {
		if _, left := at[key.of(item)]; left {
			c.value(s.item("["+label(item)+"]", item), nil, item)
		}
	}
	if before, after := inOrder(key, old, new), inOrder(key, new, old); ordered(s.path, old, new) && !slices.Equal(before, after) {
		c.add(s.below("[order]"), toAny(before), toAny(after))
	}
}

func (c *comparison) byIndex(s spot, old, new []any) {
	for i := range max(len(old), len(new)) {
		var o, n any
		if i < len(old) {
			o = old[i]
		}
		if i < len(new) {
			n = new[i]
		}
		c.value(s.below(fmt.Sprintf("[%d]", i)), o, n)
	}
}

// sets compares lists of which the order means nothing.
func (c *comparison) sets(s spot, old, new []any) {
	for _, v := range old {
		if !slices.Contains(new, v) {
			c.add(s.item(printable(fmt.Sprintf("[=%v]", v)), v), v, nil)
		}
	}
	for _, v := range new {
		if !slices.Contains(old, v) {
			c.add(s.item(printable(fmt.Sprintf("[=%v]", v)), v), nil, v)
		}
	}
}

func toAny(texts []string) []any {
	out := make([]any, len(texts))
	for i, t := range texts {
		out[i] = t
	}
	return out
}
