package pipeline

import (
	"context"
	"fmt"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/source"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	if app.DeletionTimestamp != nil {
		return e.finalize(ctx, app, w)
	}
	if err := e.ensureFinalizer(ctx, app); err != nil {
		return e.report(ctx, app, w, failed(retry, reasonApply, err))
	}
	return e.report(ctx, app, w, e.advance(ctx, app, w))
}

// advance is the pipeline. It changes app.Status in memory, and in the API only where a later step must not be lost.
func (e *Engine) advance(ctx context.Context, app *v1alpha1.Application, w *work) outcome {
	if suspended(app) {
		w.decline(app)
		return outcome{done, v1alpha1.Suspended, reasonSuspended, "suspended; go on with: gitopsd resume " + app.Name}
	}
	if out, ok := e.dependencies(app); !ok {
		w.decline(app)
		return out
	}
	snapshot, out, ok := e.source(ctx, app, w)
	if !ok {
		return out
	}
	desired, err := e.render(ctx, app, w, snapshot)
	if err != nil {
		class := stalled
		if w.rendered.err == nil { // not remembered: it may go better the next time
			class = retry
		}
		return e.keep(ctx, app, w, failed(class, reasonRender, err))
	}
	out = e.sync(ctx, app, w, snapshot.Commit, desired)
	if out.reason == reasonRefused {
		return e.keep(ctx, app, w, out)
	}
	return out
}

// keep holds the last applied revision in place while a newer one cannot be: what ran before goes on, drift of it is
// healed, and the status says why the newer one is not there.
func (e *Engine) keep(ctx context.Context, app *v1alpha1.Application, w *work, why outcome) outcome {
	applied := app.Status.AppliedRevision
	if applied == nil {
		return why
	}
	if len(w.last) == 0 {
		w.last = e.renderAgain(ctx, app, applied.Commit)
	}
	if len(w.last) > 0 {
		if out := e.sync(ctx, app, w, applied.Commit, w.last); out.class == retry {
			why.class = retry
		}
	}
	return why
}

// renderAgain renders a commit that was applied before this daemon started; nothing when that is not possible.
func (e *Engine) renderAgain(ctx context.Context, app *v1alpha1.Application, commit string) []apply.Object {
	spec, err := e.sourceSpec(ctx, app)
	if err != nil {
		return nil
	}
	snapshot, err := e.cfg.Sources.At(spec, commit)
	if err != nil {
		return nil
	}
	objects, err := e.render(ctx, app, &work{}, snapshot)
	if err != nil {
		return nil
	}
	return objects
}

// sync makes the cluster hold these objects and says how far that has come.
func (e *Engine) sync(ctx context.Context, app *v1alpha1.Application, w *work, commit string, desired []apply.Object) outcome {
	if held := len(app.Status.Inventory); len(desired) == 0 && held > 0 && isTrue(app.Spec.Sync.Prune) {
		return failed(stalled, reasonEmpty, fmt.Errorf("%s holds no manifests any more; all %d objects would be deleted, and are kept; "+
			"to delete them, delete the Application with spec.sync.onDelete: Cascade", pathOf(app), held))
	}
	target, err := e.target(app)
	if err != nil {
		return failed(retry, reasonApply, err)
	}
	e.live.follow(desired)
	desired = target.Place(desired, namespaceFor(app))
	revision := apply.Revision{Desired: desired, Held: heldOf(app.Status.Inventory), Prune: isTrue(app.Spec.Sync.Prune),
		Live: e.live.get, Known: w.known}
	proof, err := target.Prove(ctx, revision)
	if err != nil {
		return failed(retry, reasonRefused, err)
	}
	digest := apply.Digest(desired)
	fresh := app.Status.AppliedRevision == nil || app.Status.AppliedRevision.Digest != digest
	if !proof.Plan.Empty() && !fresh && !isTrue(app.Spec.Sync.Heal) {
		app.Status.Drift = driftOf(proof, desired, true)
		return e.verify(ctx, app, w, proof, desired, outcome{done, v1alpha1.Applied, reasonDrifted, proof.Plan.Summary() + " (heal is off)"})
	}
	if !proof.Plan.Empty() || fresh {
		if out, ok := e.apply(ctx, app, w, target, revision, proof, commit, digest); !ok {
			return out
		}
	}
	w.last = desired
	if app.Status.AppliedRevision.Commit != commit { // a commit that renders to the same
		app.Status.AppliedRevision.Commit = commit
	}
	app.Status.Drift = driftOf(proof, desired, false)
	return e.verify(ctx, app, w, proof, desired, outcome{done, v1alpha1.Applied, reasonApplied, ""})
}

func pathOf(app *v1alpha1.Application) string {
	if p := app.Spec.Source.Path; p != "" && p != "." {
		return p
	}
	return "the repository"
}

// apply writes a proven plan. The inventory that it will have is written first, so that nothing is lost sight of.
func (e *Engine) apply(ctx context.Context, app *v1alpha1.Application, w *work, target apply.Target, r apply.Revision,
	proof *apply.Proof, commit, digest string) (outcome, bool) {
	started := time.Now()
	record := &v1alpha1.SyncRecord{Commit: commit, Cause: e.cause(app, digest, commit), Started: now(started)}
	// Healing touches what the inventory holds already, and is no news to whoever waits for a revision.
	if !proof.Plan.Empty() && record.Cause != causeDrift {
		app.Status.Phase, app.Status.Reason, app.Status.Message = v1alpha1.Applying, reasonSyncing, proof.Plan.Summary()
		app.Status.Inventory = inventoryOf(apply.Intended(r))
		if err := e.write(ctx, app, w); err != nil {
			return failed(retry, reasonApply, fmt.Errorf("write the intended inventory: %w", err)), false
		}
	}
	report, err := target.Apply(ctx, r, proof)
	app.Status.Inventory = inventoryOf(report.Inventory)
	count(record, report)
	record.Finished, record.Took = now(time.Now()), metav1.Duration{Duration: time.Since(started).Round(time.Millisecond)}
	e.synced(app, record, err)
	if err != nil {
		return failed(retry, reasonApply, err), false
	}
	if !proof.Plan.Empty() {
		app.Status.LastSync, w.started = record, started
	}
	app.Status.AppliedRevision = &v1alpha1.Revision{Commit: commit, Digest: digest, Time: record.Finished}
	return outcome{}, true
}

// source subscribes to the repository and returns the newest commit that is known. Without a repository that answers,
// the commit seen last is read from the mirror, so that what runs is looked after all the same.
func (e *Engine) source(ctx context.Context, app *v1alpha1.Application, w *work) (source.Snapshot, outcome, bool) {
	spec, err := e.sourceSpec(ctx, app)
	if err != nil {
		return source.Snapshot{}, failed(retry, reasonSource, err), false
	}
	if err := e.subscribe(app, w, spec); err != nil {
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
		return snapshot, outcome{done, v1alpha1.Pending, reasonFetching, "reading " + app.Spec.Source.Repo}, false
	}
	app.Status.ObservedCommit = snapshot.Commit
	return snapshot, outcome{}, true
}
