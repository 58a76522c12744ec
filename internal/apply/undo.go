package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gitopsd/gitopsd/internal/diff"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// Undoing is what an undo works with.
type Undoing struct {
	Images []Image  // every object that was touched, as it was before
	Base   []Object // the last applied revision; empty when there was none
	Held   []Held   // the inventory: the UIDs of what was made
}

// Undo brings every touched object back: to the base where the base has it, away where it was absent, and to what it was
// where it belonged to somebody else. Doing it again changes nothing. Left are definitions of kinds and namespaces that the
// revision made: what others have put into them meanwhile is not ours to delete.
//
// All errors are reported at once, each with its object.
func (t Target) Undo(ctx context.Context, u Undoing) (left []Held, err error) {
	x := &undo{Undoing: u, t: t, base: map[diff.Ref]Object{}, uids: map[diff.Ref]string{}}
	for _, o := range u.Base {
		x.base[o.Ref()] = o
	}
	for _, h := range u.Held {
		x.uids[h.Ref] = h.UID
	}
	// What changes how the API answers comes first: a webhook of the bad revision may refuse the undo itself.
	x.each(func(s stage) bool { return s == extensions }, func(i Image) error { return errors.Join(x.restore(ctx, i), x.remove(ctx, i)) })
	for s := range extensions {
		x.each(func(of stage) bool { return of == s }, func(i Image) error { return x.restore(ctx, i) })
	}
	for s := extensions - 1; s >= 0; s-- {
		x.each(func(of stage) bool { return of == s }, func(i Image) error { return x.remove(ctx, i) })
	}
	return x.left, errors.Join(x.errs...)
}

type undo struct {
	Undoing
	t    Target
	base map[diff.Ref]Object
	uids map[diff.Ref]string
	left []Held
	errs []error
}

func (x *undo) each(of func(stage) bool, f func(Image) error) {
	for _, i := range x.Images {
		if !of(stageOf(i.Held.Ref.GroupKind())) {
			continue
		}
		if err := f(i); err != nil {
			x.errs = append(x.errs, &Refusal{Ref: i.Held.Ref, Origin: x.base[i.Held.Ref].Origin, Err: fmt.Errorf("undo: %w", err)})
		}
	}
}

// restore writes an object that the base has, or that was somebody else's.
func (x *undo) restore(ctx context.Context, i Image) error {
	o, inBase := x.base[i.Held.Ref]
	if !inBase && i.Object == nil {
		return nil // remove does it
	}
	m, err := x.t.mapping(i.Held.Ref.GroupKind(), i.Held.Version)
	if err != nil {
		return err
	}
	live, err := x.t.get(ctx, m, i.Held.Ref)
	if err != nil {
		return err
	}
	var taken []diff.TakenFields
	same := live != nil && i.Object != nil && string(live.GetUID()) == i.Held.UID
	if same {
		taken = diff.Taken(&unstructured.Unstructured{Object: i.Object}, live, x.t.Manager)
	}
	for _, f := range taken {
		if f.Manager != "" {
			if err := x.giveBack(ctx, m, live, f.Manager, f.Object); err != nil {
				return err
			}
		}
	}
	now := live
	switch {
	case inBase:
		now, err = x.t.patch(ctx, m, o)
	case same:
		now, err = x.release(ctx, m, live)
	}
	if err != nil {
		return err
	}
	for _, f := range taken {
		if f.Manager == "" && !diff.Holds(now, f.Object) {
			return x.giveBack(ctx, m, live, restorer, f.Object)
		}
	}
	return nil
}

// restorer is the field manager of values that nobody owned and that our giving them up has changed.
const restorer = "gitopsd-undo"

// giveBack writes values under the name of the manager that had set them. Otherwise the fields would vanish with our
// giving them up: a Deployment scaled to 10 would come back with 1.
func (x *undo) giveBack(ctx context.Context, m *meta.RESTMapping, live *unstructured.Unstructured, manager string, fields *unstructured.Unstructured) error {
	identify(fields, live)
	if _, err := x.t.as(manager).patch(ctx, m, Object{Unstructured: fields}); err != nil {
		return fmt.Errorf("give fields back to %s: %w", manager, err)
	}
	return nil
}

func identify(u, as *unstructured.Unstructured) {
	u.SetAPIVersion(as.GetAPIVersion())
	u.SetKind(as.GetKind())
	u.SetName(as.GetName())
	u.SetNamespace(as.GetNamespace())
}

// release ends our ownership of an object's fields: those that nobody else owns go.
func (x *undo) release(ctx context.Context, m *meta.RESTMapping, live *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	nothing := &unstructured.Unstructured{Object: map[string]any{}}
	identify(nothing, live)
	nothing.SetUID(live.GetUID()) // of this very object: an apply would make another one
	return x.t.patch(ctx, m, Object{Unstructured: nothing})
}

// remove deletes an object that was absent and is not in the base, if it is the one that was made.
func (x *undo) remove(ctx context.Context, i Image) error {
	if _, inBase := x.base[i.Held.Ref]; inBase || i.Object != nil {
		return nil
	}
	m, err := x.t.mapping(i.Held.Ref.GroupKind(), i.Held.Version)
	if meta.IsNoMatchError(err) {
		return nil // its kind is gone, or never came
	}
	if err != nil {
		return err
	}
	live, err := x.t.get(ctx, m, i.Held.Ref)
	if err != nil || live == nil || live.GetDeletionTimestamp() != nil {
		return err
	}
	if uid := x.uids[i.Held.Ref]; uid != "" && uid != string(live.GetUID()) {
		return nil // another one of that name
	} else if uid == "" && !diff.MadeBy(live, x.t.Manager) {
		return nil // the answer to our create was lost, and somebody else's was first
	}
	if gk := i.Held.Ref.GroupKind(); gk == crdKind || gk == namespaceKind {
		x.left = append(x.left, Held{Ref: i.Held.Ref, Version: i.Held.Version, UID: string(live.GetUID())})
		return nil
	}
	uid, background := types.UID(live.GetUID()), metav1.DeletePropagationBackground
	err = x.t.resource(m, i.Held.Ref.Namespace).Delete(ctx, i.Held.Ref.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &uid}, PropagationPolicy: &background})
	return ignoreGone(err)
}

// as is the target under another field manager's name.
func (t Target) as(manager string) Target {
	t.Manager = manager
	return t
}

// Restored is the inventory after an undo: what the base has, with the UIDs that are known.
func Restored(base []Object, held []Held) []Held {
	out := make([]Held, 0, len(base))
	for _, o := range base {
		h := Held{Ref: o.Ref(), Version: o.GroupVersionKind().Version}
		if n := slices.IndexFunc(held, func(h Held) bool { return h.Ref == o.Ref() }); n >= 0 {
			h = held[n]
		}
		out = append(out, h)
	}
	return out
}
