package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/intent"
	"github.com/gitopsd/gitopsd/internal/ledger"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// settled says that a commit is applied as the spec wants it: there is nothing to begin.
func settled(app *v1alpha1.Application, commit string) bool {
	st := app.Status
	return st.Phase == v1alpha1.Applied && st.ObservedGeneration == app.Generation && st.AppliedRevision != nil && st.AppliedRevision.Commit == commit
}

// dependencies says whether the Applications that this one depends on are applied and healthy, and those that follow the same ref at
// the same commit. Where everything is applied already there is nothing to wait for, however they fare.
func (e *Engine) dependencies(app *v1alpha1.Application, commit string) (outcome, bool) {
	if settled(app, commit) {
		return outcome{}, true
	}
	for _, d := range app.Spec.DependsOn {
		class, waits := done, ""
		switch on := e.apps.get(types.NamespacedName{Namespace: app.Namespace, Name: d.Name}); {
		case on == nil:
			waits = fmt.Sprintf("Application %s, on which this one depends, does not exist", d.Name)
		case on.Status.Phase != v1alpha1.Applied:
			waits = fmt.Sprintf("waits for Application %s, which is %s", d.Name, phaseOf(on))
		case on.Status.Health != v1alpha1.Healthy:
			waits = fmt.Sprintf("waits for Application %s, which is not healthy: %s", d.Name, on.Status.HealthMessage)
		case sameRef(on, app) && !e.wishes.arrivedAt(keyOf(on), commit):
			class, waits = soon, fmt.Sprintf("waits until Application %s has applied commit %s", d.Name, short(commit))
		}
		if waits != "" {
			return outcome{class, v1alpha1.Waiting, reasonDependency, waits}, false
		}
	}
	return outcome{}, true
}

// wakeDependents brings up those that wait for an Application, when it came to a commit without a change of its status that tells them.
func (e *Engine) wakeDependents(on types.NamespacedName) {
	for _, key := range e.apps.waitingFor(on) {
		e.queue.Add(key)
	}
}

func phaseOf(app *v1alpha1.Application) v1alpha1.Phase {
	if app.Status.Phase == "" {
		return v1alpha1.Pending
	}
	return app.Status.Phase
}

// cycle returns the names of a circle of dependencies through app, or "".
func (e *Engine) cycle(app *v1alpha1.Application) string {
	var walk func(a *v1alpha1.Application, path []string) string
	walk = func(a *v1alpha1.Application, path []string) string {
		for _, d := range a.Spec.DependsOn {
			if d.Name == app.Name {
				return strings.Join(append(path, d.Name), " → ")
			}
			if slices.Contains(path, d.Name) {
				continue // a circle further on, which does not come back here
			}
			if next := e.apps.get(types.NamespacedName{Namespace: app.Namespace, Name: d.Name}); next != nil {
				if c := walk(next, append(slices.Clone(path), d.Name)); c != "" {
					return c
				}
			}
		}
		return ""
	}
	return walk(app, []string{app.Name})
}

// ensureFinalizer holds an Application that deletes its objects with it, and lets go of one that no longer does.
func (e *Engine) ensureFinalizer(ctx context.Context, app *v1alpha1.Application) error {
	has := slices.Contains(app.Finalizers, v1alpha1.Finalizer)
	wants := app.Spec.Sync.OnDelete == v1alpha1.Cascade
	if has == wants {
		return nil
	}
	if wants {
		app.Finalizers = append(app.Finalizers, v1alpha1.Finalizer)
	} else {
		app.Finalizers = slices.DeleteFunc(app.Finalizers, func(f string) bool { return f == v1alpha1.Finalizer })
	}
	if err := e.apps.update(ctx, app); err != nil {
		return fmt.Errorf("set the finalizer: %w", err)
	}
	return nil
}

// takeOverDeleted ends what was under way when the Application was deleted: nothing that an earlier process has on its way still counts, and
// what the unfinished revision has taken over from somebody is given back, for it never became this Application's.
func (t *turn) takeOverDeleted(ctx context.Context) (outcome, bool) {
	in := t.app.Status.Intent
	if in == nil {
		return outcome{}, true
	}
	if out, ok := t.takeOver(ctx, t.app, t.w); !ok {
		return out, false
	}
	in = t.app.Status.Intent
	images, err := t.images(in)
	if errors.Is(err, intent.ErrAbsent) {
		return outcome{}, true
	}
	if err == nil && in.Phase != string(intent.Pruning) {
		unfinished := *in
		unfinished.Base = t.app.Status.AppliedRevision
		err = t.handBack(ctx, &unfinished, images, nil)
	}
	if err != nil {
		return failed(retry, reasonUndo, fmt.Errorf("give back what the unfinished revision had taken: %w", err)), false
	}
	return outcome{}, true
}

// deleteHeld deletes what the inventory holds; false until all of it is gone, and the outcome says what holds it up.
func (t *turn) deleteHeld(ctx context.Context) (outcome, bool) {
	held := heldOf(t.app.Status.Inventory)
	if err := errors.Join(t.spareUsDeleting(ctx, held), t.checkTurn(ctx)); err != nil {
		return failed(retry, reasonApply, err), false
	}
	objects := make([]ledger.ObjectChange, 0, len(held))
	for _, h := range held {
		objects = append(objects, ledger.ObjectChange{Object: objectName(h.Ref), Action: "deleted"})
	}
	if err := t.account(ledger.Entry{Kind: ledger.Prune, ID: "cascade/" + string(t.app.UID), Outcome: "Deleted", Reason: "Cascade",
		Message: "the Application is deleted with its objects", Objects: objects}); err != nil {
		return failed(retry, reasonStore, err), false
	}
	var left []apply.Held
	var errs []error
	for _, h := range slices.Backward(held) {
		deleted, err := t.target.Delete(ctx, h)
		if err != nil {
			errs = append(errs, fmt.Errorf("delete %s: %w", h.Ref, err))
		} else if deleted {
			left = append(left, h)
		}
	}
	if len(errs) > 0 {
		return failed(retry, reasonApply, errors.Join(errs...)), false
	}
	if len(left) > 0 { // asked to go; looked at again until they are gone
		return outcome{soon, v1alpha1.Pruning, reasonPrune, "is being deleted; waits until these are gone: " + t.going(left)}, false
	}
	return outcome{}, true
}

// going names objects that are being deleted, and what holds them back.
func (t *turn) going(held []apply.Held) string {
	var words []string
	for _, o := range named(held) {
		word := o.Ref().String()
		if live := t.live.get(o); live != nil && len(live.GetFinalizers()) > 0 {
			word += fmt.Sprintf(" (finalizers: %s)", strings.Join(live.GetFinalizers(), ", "))
		}
		words = append(words, word)
	}
	if more := len(words) - toldAtMost; more > 0 {
		words = append(words[:toldAtMost], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, ", ")
}

// finalize deletes the objects of an Application that is being deleted and says Cascade; otherwise they stay.
func (e *Engine) finalize(ctx context.Context, app *v1alpha1.Application, w *work) outcome {
	if !slices.Contains(app.Finalizers, v1alpha1.Finalizer) {
		return outcome{class: done}
	}
	target, err := e.target(app)
	if err != nil {
		return e.report(ctx, app, w, failed(retry, reasonApply, err))
	}
	t := &turn{e, app, w, target, e.live.as(userOf(app))}
	if out, passed := t.takeOverDeleted(ctx); !passed {
		return e.report(ctx, app, w, out)
	}
	if out, passed := t.deletionHooks(ctx, "pre"); !passed {
		return e.report(ctx, app, w, out)
	}
	if out, passed := t.deleteHeld(ctx); !passed {
		return e.report(ctx, app, w, out)
	}
	if out, passed := t.deletionHooks(ctx, "post"); !passed {
		return e.report(ctx, app, w, out)
	}
	if err := t.dropHooks(ctx); err != nil {
		return e.report(ctx, app, w, failed(retry, reasonApply, fmt.Errorf("delete what hooks left: %w", err)))
	}
	if err := e.forgetReleases(ctx, app); err != nil {
		return e.report(ctx, app, w, failed(retry, reasonApply, err))
	}
	app.Finalizers = slices.DeleteFunc(app.Finalizers, func(f string) bool { return f == v1alpha1.Finalizer })
	if err := e.apps.update(ctx, app); err != nil && !apierrors.IsNotFound(err) {
		return e.report(ctx, app, w, failed(retry, reasonApply, fmt.Errorf("let go of the finalizer: %w", err)))
	}
	e.cfg.Log.Info("deleted with its objects", "app", keyOf(app))
	return outcome{class: done}
}
