package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/internal/diff"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Undoing is what an undo works with.
type Undoing struct {
	Images []Image  // every object that was touched, as it was before
	Base   []Object // the last applied revision; empty when there was none
	Held   []Held   // the inventory: the UIDs of what was made
	// Intent that is undone, and when it began.
	Intent string
	Since  time.Time
}

// Undo brings every touched object back: to the base where the base has it, away where it was absent, and to what it was
// where it belonged to somebody else. Doing it again changes nothing. Left are definitions of kinds, namespaces and claims of
// volumes that the revision made: what was put into them meanwhile would go with them. Definitions and namespaces that are empty go.
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
	waves := u.waves()
	for _, w := range waves {
		for s := range extensions {
			x.each(w, s, func(i Image) error { return x.returnToVersion(ctx, i) })
		}
	}
	// What changes how the API answers comes first: a webhook of the bad revision may refuse the undo itself.
	for _, w := range waves {
		x.each(w, extensions, func(i Image) error { return errors.Join(x.restore(ctx, i), x.remove(ctx, i)) })
	}
	for _, w := range waves {
		for s := range extensions {
			x.each(w, s, func(i Image) error { return x.restore(ctx, i) })
		}
	}
	for _, w := range waves {
		for s := extensions - 1; s >= 0; s-- {
			x.each(w, s, func(i Image) error { return x.remove(ctx, i) })
		}
	}
	x.restart(ctx)
	if len(x.errs) == 0 {
		x.tidy(ctx)
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
	gone patience // for predecessors to go
}

// waves of what was touched, the last one first: what was written last may stand on what was written before.
func (u Undoing) waves() []int {
	var out []int
	for _, i := range u.Images {
		out = append(out, -i.Wave)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	for n := range out {
		out[n] = -out[n]
	}
	return out
}

func (x *undo) each(wave int, s stage, f func(Image) error) {
	for _, i := range x.Images {
		if i.Wave != wave || stageOf(i.Held.Ref.GroupKind()) != s {
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
	m, err := x.t.mapping(i.Held.Ref.GroupKind(), x.version(i))
	if err != nil {
		return err
	}
	live, err := x.t.get(ctx, m, i.Held.Ref)
	if err == nil && live != nil {
		err = x.t.guard(ctx, live)
	}
	if err != nil {
		return err
	}
	var taken []diff.TakenFields
	same := live != nil && i.Object != nil && string(live.GetUID()) == i.Held.UID
	if same {
		taken = diff.Taken(&unstructured.Unstructured{Object: i.Object}, live, x.t.Manager)
	}
	now := live
	for _, f := range taken {
		if f.Manager != "" {
			if now, err = x.giveBack(ctx, m, now, f.Manager, f.Object); err != nil {
				return err
			}
		}
	}
	switch {
	case inBase && now == nil && Ended(x.Held, o) != "":
		return nil
	case inBase && now == nil:
		now, err = x.t.create(ctx, m, o)
	case inBase:
		if err := x.t.lookForScaler(ctx, o, now); err != nil {
			return err
		}
		now, err = x.t.rewrite(ctx, m, o, now, &x.gone)
	case same:
		now, err = x.release(ctx, m, now, i)
	}
	if err == nil && inBase {
		err = x.unstick(ctx, now)
	}
	if err != nil {
		return err
	}
	for _, f := range taken {
		if f.Manager == "" && !diff.Holds(now, f.Object) {
			_, err = x.giveBack(ctx, m, now, restorer, f.Object)
			return err
		}
	}
	return nil
}

// returnToVersion restores an object that was moved to another version while that version is still served: a definition that is undone too may be
// about to lose it, and the API refuses an object of which the managed fields name a version that is gone. What fails here is tried once more in its turn.
func (x *undo) returnToVersion(ctx context.Context, i Image) error {
	version := x.version(i)
	if version == i.Held.Version || !x.definesIn(i.Held.Ref.Group) {
		return nil
	}
	if x.restore(ctx, i) == nil && x.t.turnTo(ctx, i.Held.Ref, version) == nil {
		return nil
	}
	if x.t.turnTo(ctx, i.Held.Ref, version) == nil {
		_ = x.restore(ctx, i)
	}
	return nil
}

// definesIn says whether a definition of a kind of this group is undone. It is named after its group.
func (x *undo) definesIn(group string) bool {
	return slices.ContainsFunc(x.Images, func(i Image) bool {
		return i.Held.Ref.GroupKind() == crdKind && strings.HasSuffix(i.Held.Ref.Name, "."+group)
	})
}

// version is the one that an object is brought back to; one that came with what is undone may be gone.
func (x *undo) version(i Image) string {
	if o, inBase := x.base[i.Held.Ref]; inBase {
		return o.GroupVersionKind().Version
	}
	if i.Object != nil {
		return (&unstructured.Unstructured{Object: i.Object}).GroupVersionKind().Version
	}
	return i.Held.Version
}

// restorer is the field manager of values that nobody owned and that our giving them up has changed.
const restorer = "gitopsd-undo"

// giveBack writes values under the name of the manager that had set them. Otherwise the fields would vanish with our
// giving them up: a Deployment scaled to 10 would come back with 1.
func (x *undo) giveBack(ctx context.Context, m *meta.RESTMapping, live *unstructured.Unstructured, manager string, fields *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	identify(fields, live)
	now, err := x.t.as(manager).patch(ctx, m, Object{Unstructured: fields}, live, whatever)
	if err != nil {
		return nil, fmt.Errorf("give fields back to %s: %w", manager, err)
	}
	return now, nil
}

func identify(u, as *unstructured.Unstructured) {
	u.SetAPIVersion(as.GetAPIVersion())
	u.SetKind(as.GetKind())
	u.SetName(as.GetName())
	u.SetNamespace(as.GetNamespace())
}

// release ends our ownership of the fields of an object that the base does not have: those that nobody else owns go. What an earlier
// Application, or an earlier life of this one, had applied under our name is applied again as it was: to let go of it would empty the object.
func (x *undo) release(ctx context.Context, m *meta.RESTMapping, live *unstructured.Unstructured, i Image) (*unstructured.Unstructured, error) {
	before := diff.Applied(&unstructured.Unstructured{Object: i.Object}, x.t.Manager)
	identify(before, live)
	return x.t.as(x.t.Manager).patch(ctx, m, Object{Unstructured: before}, live, whatever)
}

// remove deletes an object that was absent and is not in the base, if it is the one that was made; also where somebody's object had been
// deleted and was made again.
func (x *undo) remove(ctx context.Context, i Image) error {
	if _, inBase := x.base[i.Held.Ref]; inBase {
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
	if err != nil || live == nil || live.GetDeletionTimestamp() != nil || i.Object != nil && string(live.GetUID()) == i.Held.UID {
		return err
	}
	if !x.made(live) {
		return nil
	}
	if outlasts(i.Held.Ref.GroupKind()) {
		x.left = append(x.left, Held{Ref: i.Held.Ref, Version: i.Held.Version, UID: string(live.GetUID())})
		return nil
	}
	_, err = x.t.delete(ctx, m, live, x.made)
	return err
}

// made says that a live object is the one that the intent made, and not another one of that name.
func (x *undo) made(live *unstructured.Unstructured) bool {
	if maker := MakerOf(live).Application; maker != "" && maker != x.t.Maker.Application {
		return false // whatever the inventory says
	}
	if uid := x.uids[diff.RefOf(live)]; uid != "" {
		return uid == string(live.GetUID())
	}
	// The answer to our create was lost; somebody else's may have been first.
	return MakerOf(live).Application == x.t.Maker.Application && x.t.Maker.Application != "" || diff.MadeBy(live, x.t.Manager)
}

// as is the target under another field manager's name, which puts no marks of ours on objects.
func (t Target) as(manager string) Target {
	t.Manager, t.Maker, t.Ignored, t.Scaled = manager, Maker{}, nil, nil
	return t
}

// Restored is the inventory after an undo: what the base has, with the UIDs that are known.
func Restored(base []Object, held []Held) []Held {
	out := make([]Held, 0, len(base))
	for _, o := range base {
		h := Held{Ref: o.Ref(), Version: o.GroupVersionKind().Version}
		if n := slices.IndexFunc(held, func(h Held) bool { return h.Ref == o.Ref() }); n >= 0 {
			h.UID, h.Finished = held[n].UID, held[n].Finished
		}
		out = append(out, h)
	}
	return out
}
