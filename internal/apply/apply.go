package apply

import (
	"context"
	"errors"
	"fmt"

	"github.com/gitopsd/gitopsd/internal/diff"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Report is what was done.
type Report struct {
	Plan      diff.Plan
	Inventory []Held // complete also after an error: everything that may exist
	Pruned    int
}

// Intended is the inventory before a sync: what is held, and what is about to be made. Kept durably before the first
// write, it makes that no object is lost sight of, whenever the process dies.
func Intended(r Revision) []Held {
	seen := map[diff.Ref]bool{}
	out := make([]Held, 0, len(r.Held)+len(r.Desired))
	for _, h := range r.Held {
		seen[h.Ref] = true
		out = append(out, h)
	}
	for _, o := range r.Desired {
		if !seen[o.Ref()] {
			out = append(out, Held{Ref: o.Ref(), Version: o.GroupVersionKind().Version})
		}
	}
	return out
}

// Apply writes the objects of a proven plan, or of one wave of it, stage by stage. It stops before the next stage when an object of one was
// refused. It deletes nothing: Prune does, once the revision has arrived.
func (t Target) Apply(ctx context.Context, r Revision, p *Proof) (Report, error) {
	run := newRun(t, r, p)
	err := run.stages(ctx)
	return run.report(0), err
}

// Prune deletes what the Application held and the revision does not name.
func (t Target) Prune(ctx context.Context, r Revision, p *Proof) (Report, error) {
	run := newRun(t, r, p)
	pruned, err := run.prune(ctx)
	return run.report(pruned), err
}

func newRun(t Target, r Revision, p *Proof) *run {
	x := &run{t: t, r: r, p: p, held: map[diff.Ref]Held{}, restored: p.restored(r.Desired)}
	for _, h := range Intended(r) {
		x.held[h.Ref] = h
	}
	return x
}

func (x *run) report(pruned int) Report {
	report := Report{Plan: x.r.planned(x.p.Plan), Pruned: pruned}
	for _, h := range Intended(x.r) {
		if now, left := x.held[h.Ref]; left {
			report.Inventory = append(report.Inventory, now)
		}
	}
	return report
}

type run struct {
	t    Target
	r    Revision
	p    *Proof
	held map[diff.Ref]Held
	gone patience // for predecessors to go

	restored map[schema.GroupKind]string // kinds that are stored in another version from now on
}

func (x *run) stages(ctx context.Context) error {
	for s := range stages {
		var objects []Object
		for _, o := range x.r.Desired {
			if stageOf(o.GroupVersionKind().GroupKind()) == s && x.r.inWave(o) {
				objects = append(objects, o)
			}
		}
		if err := x.proveDeferred(ctx, objects); err != nil {
			return err
		}
		if err := x.stage(ctx, objects); err != nil {
			return err
		}
	}
	return nil
}

// proveDeferred asks about the objects of a stage that could not be asked about before what they stand on was there,
// so that a stage is written as a whole or not begun.
func (x *run) proveDeferred(ctx context.Context, objects []Object) error {
	var errs []error
	var seen patience // until the API has seen itself what was just written: a kind that has changed, a role
	for _, o := range objects {
		change := x.p.changes[o.Ref()]
		if change.Deferred == "" {
			continue
		}
		if err := x.clear(ctx, o, change); err != nil {
			errs = append(errs, refused(o, err))
			continue
		}
		var a answer
		_ = seen.await(ctx, func() (bool, error) { // what is wrong is in the last answer
			if a = x.t.prove(ctx, o, false, provisions{}, x.r.Known); a.change.Deferred == appliedBefore {
				if a.err = x.t.turnTo(ctx, o.Ref(), o.GroupVersionKind().Version); a.err == nil {
					a = x.t.prove(ctx, o, true, provisions{}, x.r.Known)
				}
			}
			return a.err == nil, nil
		})
		if a.err != nil {
			errs = append(errs, a.err)
			continue
		}
		x.p.note(o.Ref(), a)
	}
	return errors.Join(errs...)
}

func (x *run) stage(ctx context.Context, objects []Object) error {
	applied := make([]answer, len(objects)) // each goroutine writes its own
	var group errgroup.Group
	group.SetLimit(parallel)
	for n, o := range objects {
		if live := x.p.live[o.Ref()]; x.p.changes[o.Ref()].Action == diff.Unchanged && !unserved(live) {
			applied[n].live = live
			continue
		}
		group.Go(func() error {
			live, err := x.object(ctx, o)
			applied[n] = answer{live: live, err: err}
			return nil
		})
	}
	_ = group.Wait() // the goroutines return nil: errors are in what they wrote
	var errs []error
	for n, o := range objects {
		if err := applied[n].err; err != nil {
			errs = append(errs, refused(o, err))
			continue
		}
		if applied[n].live == nil {
			continue // a Job that ended and is gone
		}
		h := Held{Ref: o.Ref(), Version: o.GroupVersionKind().Version, UID: string(applied[n].live.GetUID())}
		if before := x.held[o.Ref()]; before.UID == h.UID {
			h.Finished = before.Finished
		}
		x.held[o.Ref()] = h
		x.p.live[o.Ref()] = applied[n].live
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.Join(errs...)
}

// object applies one object and, when it defines a kind, waits until the API serves that.
func (x *run) object(ctx context.Context, o Object) (*unstructured.Unstructured, error) {
	m, err := x.t.mapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
	if err != nil {
		return nil, err
	}
	live := x.p.live[o.Ref()]
	if x.p.changes[o.Ref()].Action != diff.Unchanged {
		live, err = x.write(ctx, m, o)
		if gvk := o.GroupVersionKind(); err == nil && x.restored[gvk.GroupKind()] == gvk.Version {
			live, err = x.stored(ctx, m, o, live)
		}
	}
	if err == nil && o.GroupVersionKind().GroupKind() == crdKind {
		live, err = x.established(ctx, m, o)
	}
	if err != nil {
		return nil, err
	}
	x.r.Known.agree(o, live)
	return live, nil
}

// write creates what was not there, and changes what was as it was.
func (x *run) write(ctx context.Context, m *meta.RESTMapping, o Object) (*unstructured.Unstructured, error) {
	change, live := x.p.changes[o.Ref()], x.p.live[o.Ref()]
	if change.Action == diff.Create {
		return x.t.create(ctx, m, o)
	}
	if err := x.t.guard(ctx, live); err != nil {
		return nil, err
	}
	return x.t.update(ctx, m, o, live, change)
}

// clear sees to it that a predecessor of the same name is gone.
func (x *run) clear(ctx context.Context, o Object, change diff.Change) error {
	live := x.p.live[o.Ref()]
	if live == nil || (!change.Replaces && live.GetDeletionTimestamp() == nil) {
		return nil
	}
	if change.Replaces {
		m, err := x.t.mapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
		if err != nil {
			return err
		}
		if err := x.t.discard(ctx, m, live); err != nil {
			return err
		}
	}
	return x.t.awaitGone(ctx, &x.gone, o, live)
}

// awaitGone waits for a predecessor of the same name that is being deleted: an apply onto it would succeed and vanish
// with it. One that does not go at once is waited for by coming back.
func (t Target) awaitGone(ctx context.Context, p *patience, o Object, live *unstructured.Unstructured) error {
	m, err := t.mapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
	if err != nil {
		return err
	}
	now := live
	err = p.await(ctx, func() (bool, error) {
		now, err = t.get(ctx, m, o.Ref())
		return err == nil && (now == nil || now.GetUID() != live.GetUID()), err
	})
	if errors.Is(err, errPatience) {
		return errTransient{"its predecessor is being deleted and has not gone yet" + heldBy(now) + "; tried again"}
	}
	return err
}

// heldBy says what keeps an object that is being deleted.
func heldBy(live *unstructured.Unstructured) string {
	switch {
	case len(live.GetFinalizers()) > 0:
		return fmt.Sprintf(" (finalizers: %v)", live.GetFinalizers())
	case condition(live, "NamespaceContentRemaining") == "True":
		return fmt.Sprintf(" (%s)", conditionWords(live, "NamespaceContentRemaining"))
	}
	return ""
}

// established waits until the API serves a custom resource definition.
func (x *run) established(ctx context.Context, m *meta.RESTMapping, o Object) (live *unstructured.Unstructured, err error) {
	var p patience
	err = p.await(ctx, func() (bool, error) {
		live, err = x.t.get(ctx, m, o.Ref())
		return live != nil && !unserved(live), err
	})
	if errors.Is(err, errPatience) {
		err = errTransient{"the API does not serve it yet; tried again"}
		if live != nil && condition(live, "NamesAccepted") == "False" {
			err = errTransient{fmt.Sprintf("the API does not serve it (%s); tried again", conditionWords(live, "NamesAccepted"))}
		}
	}
	if err != nil {
		return nil, err
	}
	x.t.Mapper.Reset()
	return live, nil
}

// unserved says of a live object that it defines a kind and the API does not serve that yet.
func unserved(live *unstructured.Unstructured) bool {
	return live != nil && live.GroupVersionKind().GroupKind() == crdKind && condition(live, "Established") != "True"
}

func condition(u *unstructured.Unstructured, kind string) string {
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range list {
		if c, ok := c.(map[string]any); ok && c["type"] == kind {
			s, _ := c["status"].(string)
			return s
		}
	}
	return ""
}

// prune deletes what left the revision, users of things before the things. Only the very object that was made is
// deleted: one of the same name with another UID is somebody else's.
func (x *run) prune(ctx context.Context) (int, error) {
	var errs []error
	pruned := 0
	for _, h := range x.p.prune {
		deleted, err := x.t.Delete(ctx, h)
		if err != nil {
			errs = append(errs, fmt.Errorf("prune %s: %w", h.Ref, err))
			continue
		}
		delete(x.held, h.Ref)
		if deleted {
			pruned++
		}
	}
	return pruned, errors.Join(errs...)
}

// Delete removes an object that an Application made. It is no error when the object is gone, belongs to another
// Application by now, is another one of that name, or is to stay by Helm's policy; false says that nothing was deleted.
func (t Target) Delete(ctx context.Context, h Held) (bool, error) {
	m, err := t.mapping(h.Ref.GroupKind(), h.Version)
	if t.vital(h.Ref) || meta.IsNoMatchError(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	live, err := t.get(ctx, m, h.Ref)
	if still := t.heldAs(h); err != nil || live == nil || !still(live) || live.GetAnnotations()[helmPolicy] == "keep" {
		return false, err
	}
	return t.delete(ctx, m, live, t.heldAs(h))
}
