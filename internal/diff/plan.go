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
	Fields   []Field // of an update, by path
	Deferred string  // why the API could not be asked beforehand; empty: it was
}

// Plan is what a revision does, ordered by Ref.
type Plan struct{ Changes []Change }

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

// String is the plan as text: a line for each object that changes, below it a line for each field.
func (p Plan) String() string {
	var b strings.Builder
	sign := map[Action]string{Create: "+", Update: "~", Prune: "-"}
	for _, c := range p.Changes {
		if c.Action == Unchanged {
			continue
		}
		fmt.Fprintf(&b, "%s %s", sign[c.Action], c.Ref)
		if c.Deferred != "" {
			fmt.Fprintf(&b, "  (not proven: %s)", c.Deferred)
		}
		b.WriteByte('\n')
		for _, f := range c.Fields {
			fmt.Fprintf(&b, "    %s\n", f)
		}
	}
	fmt.Fprintf(&b, "%s\n", p.Summary())
	return b.String()
}
