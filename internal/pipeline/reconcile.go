package pipeline

import (
	"context"
	"errors"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/source"
	"k8s.io/apimachinery/pkg/types"
)

// reconcile looks at one Application once: source, render, diff, apply, health, status.
func (e *Engine) reconcile(ctx context.Context, key types.NamespacedName) outcome {
	app := e.apps.get(key)
	if app == nil {
		e.forget(key)
		return outcome{class: done}
	}
	w := e.workOf(key)
	app = w.newest(app)
	w.answers()
	if app.DeletionTimestamp != nil {
		return e.finalize(ctx, app, w)
	}
	e.noteActs(app)
	if err := e.ensureFinalizer(ctx, app); err != nil {
		return e.report(ctx, app, w, failed(retry, reasonApply, err))
	}
	if out, ok := e.takeOver(ctx, app, w); !ok {
		return e.report(ctx, app, w, out)
	}
	return e.report(ctx, app, w, e.advance(ctx, app, w))
}

// advance is the pipeline. It changes app.Status in memory, and in the API only where a later step must not be lost.
func (e *Engine) advance(ctx context.Context, app *v1alpha1.Application, w *work) outcome {
	w.wake = time.Time{}
	if err := w.declare(app); err != nil {
		w.decline(app)
		return e.refuseSpec(ctx, app, w, err)
	}
	if suspended(app) {
		w.decline(app)
		if app.Status.Intent != nil { // what was begun is brought to its end
			return e.keep(ctx, app, w, outcome{done, v1alpha1.Phase(app.Status.Intent.Phase), reasonSuspended, "suspended; what was begun is brought to its end"})
		}
		e.observe(ctx, app, w)
		return outcome{done, v1alpha1.Suspended, reasonSuspended, "suspended; go on with: gitopsd resume " + app.Name}
	}
	if err := e.refuseWithoutAccount(app); err != nil {
		w.decline(app)
		return failed(stalled, reasonAccount, err)
	}
	if cycle := e.cycle(app); cycle != "" {
		w.decline(app)
		return e.keep(ctx, app, w, failed(stalled, reasonCycle, errors.New("spec.dependsOn goes round in a circle: "+cycle)))
	}
	if err := e.refuseFiles(app); err != nil {
		w.decline(app)
		return e.keep(ctx, app, w, failed(stalled, reasonFiles, err))
	}
	snapshot, out, ok := e.source(ctx, app, w)
	if r, held := pinned(app); held { // what was applied before needs no repository
		return e.orKeep(ctx, app, w, e.syncPinned(ctx, app, w, r))
	}
	if !ok && out.phase == v1alpha1.Failed {
		return e.keep(ctx, app, w, out)
	}
	if !ok { // it has not answered yet
		return out
	}
	if out, ok := e.dependencies(app, snapshot.Commit); !ok {
		e.foretell(ctx, app, w, snapshot)
		return e.keep(ctx, app, w, out)
	}
	if err := e.verifySignature(ctx, app, snapshot); err != nil {
		return e.keep(ctx, app, w, failed(retry, reasonSignature, err))
	}
	desired, err := e.render(ctx, app, w, snapshot)
	if out, ok := ofCharts(err); ok {
		return e.keep(ctx, app, w, out)
	}
	if err != nil {
		class := stalled
		if w.rendered.err == nil { // not remembered: it may go better the next time
			class = retry
		}
		return e.keep(ctx, app, w, failed(class, reasonRender, err))
	}
	return e.orKeep(ctx, app, w, e.sync(ctx, app, w, snapshot.Commit, desired))
}

// orKeep looks after what is there where a new revision was not begun.
func (e *Engine) orKeep(ctx context.Context, app *v1alpha1.Application, w *work, out outcome) outcome {
	switch out.reason {
	case reasonRefused, reasonWindow, reasonEmpty, reasonMassPrune:
		return e.keep(ctx, app, w, out)
	}
	return out
}

// source subscribes to the repository and returns the newest commit that is known. Without a repository that answers,
// the commit seen last is read from the mirror, so that what runs is looked after all the same.
func (e *Engine) source(ctx context.Context, app *v1alpha1.Application, w *work) (source.Snapshot, outcome, bool) {
	spec, err := e.sourceSpec(ctx, app)
	if err != nil {
		w.decline(app)
		return source.Snapshot{}, failed(retry, reasonSource, err), false
	}
	if err := e.subscribe(app, w, spec); err != nil {
		w.decline(app)
		return source.Snapshot{}, failed(stalled, reasonSource, err), false
	}
	e.honourSyncRequest(ctx, app, w, spec)
	heard := w.event()
	app.Status.Source = troubleOf(heard)
	snapshot := heard.Snapshot
	if snapshot.Commit == "" && heard.Err != nil && app.Status.ObservedCommit != "" {
		if old, err := e.cfg.Sources.At(spec, app.Status.ObservedCommit); err == nil {
			snapshot = old
		}
	}
	if snapshot.Commit == "" {
		if heard.Err != nil {
			return snapshot, failed(done, reasonSource, heard.Err), false
		}
		if st := app.Status; st.ObservedCommit != "" { // the engine has just begun: what was found before still stands
			return snapshot, outcome{done, st.Phase, st.Reason, st.Message}, false
		}
		return snapshot, outcome{soon, v1alpha1.Pending, reasonFetching, "reading " + app.Spec.Source.Repo}, false
	}
	app.Status.ObservedCommit, app.Status.ObservedVersion = snapshot.Commit, ""
	if spec.Archived() || spec.Ref.Semver != "" {
		app.Status.ObservedVersion = snapshot.Ref
	}
	return snapshot, outcome{}, true
}
