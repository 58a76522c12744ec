package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// settled is what an Application has arrived at: this commit, as this generation of its spec wants it.
type settled struct {
	commit     string
	generation int64
}

// dependencies says whether the Applications that this one depends on are applied and healthy, and those that follow the same ref at
// the same commit. Where everything is applied already there is nothing to wait for, however they fare.
func (e *Engine) dependencies(app *v1alpha1.Application, w *work, commit string) (outcome, bool) {
	if w.settled == (settled{commit, app.Generation}) {
		return outcome{}, true
	}
	for _, d := range app.Spec.DependsOn {
		waits := ""
		switch on := e.apps.get(types.NamespacedName{Namespace: app.Namespace, Name: d.Name}); {
		case on == nil:
			waits = fmt.Sprintf("Application %s, on which this one depends, does not exist", d.Name)
		case on.Status.Phase != v1alpha1.Applied:
			waits = fmt.Sprintf("waits for Application %s, which is %s", d.Name, phaseOf(on))
		case on.Status.Health != v1alpha1.Healthy:
			waits = fmt.Sprintf("waits for Application %s, which is not healthy: %s", d.Name, on.Status.HealthMessage)
		case sameRef(on, app) && !e.wishes.arrivedAt(keyOf(on), commit):
			waits = fmt.Sprintf("waits until Application %s has applied commit %s", d.Name, short(commit))
		}
		if waits != "" {
			return outcome{done, v1alpha1.Waiting, reasonDependency, waits}, false
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
	if out, passed := t.deletionHooks(ctx, "pre"); !passed {
		return e.report(ctx, app, w, out)
	}
	left := 0
	var errs []error
	for _, h := range slices.Backward(heldOf(app.Status.Inventory)) {
		deleted, err := target.Delete(ctx, h)
		if err != nil {
			errs = append(errs, fmt.Errorf("delete %s: %w", h.Ref, err))
		} else if deleted {
			left++
		}
	}
	if len(errs) > 0 {
		return e.report(ctx, app, w, failed(retry, reasonApply, errors.Join(errs...)))
	}
	if left > 0 { // asked to go; looked at again until they are gone
		return outcome{class: soon}
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
