// Package diff tells what a revision would change: from the desired objects and the live ones it makes a Plan, a value
// that prints as text and says for every object whether it is created, updated, pruned or left alone, field by field.
//
// It is pure: no client, no clock, no log. What the API would make of a desired object (defaults, webhooks) is an
// input: the answer of a server-side dry-run. Values of Secrets never leave it; that they differ does.
package diff

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Ref names an object without its API version: the same object whichever version it is read in.
type Ref struct {
	Group, Kind, Namespace, Name string
}

// RefOf returns the name of an object.
func RefOf(u *unstructured.Unstructured) Ref {
	gk := u.GroupVersionKind().GroupKind()
	return Ref{gk.Group, gk.Kind, u.GetNamespace(), u.GetName()}
}

// GroupKind of the object.
func (r Ref) GroupKind() schema.GroupKind { return schema.GroupKind{Group: r.Group, Kind: r.Kind} }

// String is what people read: Deployment web/hello.
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// Compare orders by namespace, kind, name, group.
func (r Ref) Compare(o Ref) int {
	return cmp.Or(cmp.Compare(r.Namespace, o.Namespace), cmp.Compare(r.Kind, o.Kind),
		cmp.Compare(r.Name, o.Name), cmp.Compare(r.Group, o.Group))
}

// Action is what happens to an object.
type Action string

const (
	Create    Action = "create"
	Update    Action = "update"
	Prune     Action = "prune"
	Unchanged Action = "unchanged"
)

// Change is what a revision does to one object.
type Change struct {
	Ref      Ref
	Action   Action
	Fields   []Field // of an update, or of what is made, by path
	Deferred string  // why the API could not be asked beforehand; empty: it was
	Replaces bool    // of a create: one of the same name goes before
	Remains  string  // what of it no undo takes back; empty: nothing
}

// Plan is what a revision does, ordered by Ref.
type Plan struct {
	Application string   // namespace/name; empty where the reader knows
	Revision    string   // a commit, or what people call what was rendered
	Notes       []string // what else to know before going on
	Changes     []Change
	Remade      []Ref // what hooks delete, to be made anew
}

// Empty says that nothing would be written.
func (p Plan) Empty() bool {
	return !slices.ContainsFunc(p.Changes, func(c Change) bool { return c.Action != Unchanged })
}

// Count of changes with an action.
func (p Plan) Count(a Action) int {
	n := 0
	for _, c := range p.Changes {
		if c.Action == a {
			n++
		}
	}
	return n
}

// Sort puts the changes into their stated order.
func (p Plan) Sort() {
	slices.SortFunc(p.Changes, func(a, b Change) int { return a.Ref.Compare(b.Ref) })
}

// Summary is one line: 1 to create, 2 to update.
func (p Plan) Summary() string {
	var parts []string
	for _, a := range []Action{Create, Update, Prune} {
		if n := p.Count(a); n > 0 {
			parts = append(parts, fmt.Sprintf("%d to %s", n, a))
		}
	}
	if len(parts) == 0 {
		return "no changes"
	}
	return strings.Join(parts, ", ")
}

// Irreversible names what no later revision brings back, object by object: what is deleted or replaced, also by hooks, Jobs, which run, and
// what remains of an update.
func (p Plan) Irreversible() []string {
	var out []string
	for _, c := range p.Changes {
		isJob := c.Ref.Group == "batch" && c.Ref.Kind == "Job"
		switch {
		case c.Action == Prune:
			out = append(out, c.Ref.String()+" is deleted")
		case c.Replaces:
			out = append(out, c.Ref.String()+" is replaced")
		case c.Action == Create && isJob:
			out = append(out, c.Ref.String()+" runs")
		case c.Remains != "":
			out = append(out, c.Ref.String()+" "+c.Remains)
		}
	}
	for _, r := range p.Remade {
		out = append(out, r.String()+" is deleted, and made anew by a hook")
	}
	return out
}

// Map returns the plan with f done to every text of a value and to every note: f takes out what must not be said.
func (p Plan) Map(f func(string) string) Plan {
	p.Notes, p.Changes = slices.Clone(p.Notes), slices.Clone(p.Changes)
	for i, n := range p.Notes {
		p.Notes[i] = f(n)
	}
	for i := range p.Changes {
		c := &p.Changes[i]
		c.Fields = mapFields(c.Fields, f)
	}
	return p
}

func mapFields(fields []Field, f func(string) string) []Field {
	fields = slices.Clone(fields)
	for i := range fields {
		fields[i].Old, fields[i].New = mapTexts(fields[i].Old, f), mapTexts(fields[i].New, f)
	}
	return fields
}

func mapTexts(v any, f func(string) string) any {
	switch v := v.(type) {
	case string:
		return f(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = mapTexts(v[i], f)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[k] = mapTexts(v[k], f)
		}
		return out
	}
	return v
}
