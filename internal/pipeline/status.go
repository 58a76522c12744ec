package pipeline

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/diff"
	"github.com/gitopsd/gitopsd/internal/ledger"
	"github.com/gitopsd/gitopsd/internal/redact"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// report writes what one look found into the status, if that says anything new, and logs a failure once.
func (e *Engine) report(ctx context.Context, app *v1alpha1.Application, w *work, out outcome) outcome {
	if ctx.Err() != nil {
		return out // the daemon stops: what was found is not the Application's state
	}
	st := &app.Status
	st.ObservedGeneration = app.Generation
	st.Phase, st.Reason, st.Message = out.phase, out.reason, redact.String(out.message)
	if w.answered != "" {
		st.HandledSyncRequest = w.answered
	}
	setConditions(app)
	e.say(app, w)
	e.announce(ctx, app, w)
	e.cfg.Metrics.phase(keyOf(app), st.Phase)
	if w.holdBack(app, out) {
		return out
	}
	switch err := e.write(ctx, app, w); {
	case err == nil:
		e.sweep(app, w)
		e.offer(app)
	case apierrors.IsNotFound(err): // gone: there is nothing to say it of
	case apierrors.IsConflict(err):
		out.class = soon // somebody changed the spec meanwhile: looked at again, and said then
	default:
		e.cfg.Log.Warn("status could not be written", "app", keyOf(app), "err", err)
		out.class = retry
	}
	return out
}

// write writes the status when it differs from what the API has.
func (e *Engine) write(ctx context.Context, app *v1alpha1.Application, w *work) error {
	current := e.apps.get(keyOf(app))
	if current == nil {
		return nil
	}
	if current = w.told(current); current.ResourceVersion == app.ResourceVersion && reflect.DeepEqual(current.Status, app.Status) {
		w.untold, w.untoldSince = nil, time.Time{}
		return nil
	}
	status := app.Status.DeepCopy()
	updated, err := e.apps.writeStatus(ctx, app)
	if err != nil {
		return err
	}
	*app = *updated
	app.Status = *status // times keep what they were written with
	w.written, w.untold, w.untoldSince = app.DeepCopy(), nil, time.Time{}
	return nil
}

// holdBack keeps what a look found for the next one instead of writing it, for as long as it may be over at once. A crash
// loses nothing by that: what must not be lost is written by the step that needs it.
func (w *work) holdBack(app *v1alpha1.Application, out outcome) bool {
	if out.class != soon {
		w.untoldSince = time.Time{}
		return false
	}
	if w.untoldSince.IsZero() {
		w.untoldSince = time.Now()
	}
	if time.Since(w.untoldSince) >= lasting {
		return false
	}
	w.untold = app.DeepCopy()
	return true
}

// newest is the Application as the last look left it. What it has not told yet holds only while the Application is the one that it was
// found of: a write of ours whose answer was lost may have ended the intent that the untold status still carries.
func (w *work) newest(watched *v1alpha1.Application) *v1alpha1.Application {
	app := w.told(watched)
	if w.untold != nil && w.untold.UID == app.UID && w.untold.ResourceVersion == app.ResourceVersion {
		app.Status = *w.untold.Status.DeepCopy()
	}
	return app
}

// told is the Application as the watch has it, or as it was after our own last write when the watch lags behind.
func (w *work) told(watched *v1alpha1.Application) *v1alpha1.Application {
	if w.written != nil && w.written.UID == watched.UID && version(w.written) > version(watched) {
		return w.written.DeepCopy()
	}
	return watched
}

// version orders the states of one object; resourceVersions are comparable as numbers since Kubernetes 1.35.
func version(app *v1alpha1.Application) uint64 {
	v, _ := strconv.ParseUint(app.ResourceVersion, 10, 64)
	return v
}

// say logs a failure when it is a new one, and its end.
func (e *Engine) say(app *v1alpha1.Application, w *work) {
	st := app.Status
	now, event, words := "", "SyncFailed", "sync failed"
	switch st.Phase {
	case v1alpha1.Failed:
		now = st.Reason + ": " + st.Message
	case v1alpha1.Held, v1alpha1.Incomplete: // RolledBack is told where it ends, which a newer commit that fails may hide
		now, event = st.Reason+": "+st.Message, string(st.Phase)
		words = map[v1alpha1.Phase]string{v1alpha1.Held: "revision held", v1alpha1.Incomplete: "undo incomplete"}[st.Phase]
	default:
		if st.Source != nil {
			now = reasonSource + ": " + st.Source.Message
		}
	}
	if now == w.said {
		return
	}
	if st.Phase == v1alpha1.Failed && refusals[st.Reason] {
		sum := sha256.Sum256([]byte(now))
		e.tell(app, ledger.Entry{Kind: ledger.Refusal, ID: fmt.Sprintf("refusal/%s/%s/%x", app.UID, st.ObservedCommit, sum[:8]), To: st.ObservedCommit,
			Outcome: "Refused", Reason: st.Reason, Message: st.Message})
	}
	if now != "" {
		e.cfg.Log.Warn(words, "app", keyOf(app), "commit", short(st.ObservedCommit), "reason", now)
		e.recorder.Event(app, corev1.EventTypeWarning, event, now)
	} else if st.Phase == v1alpha1.Applied {
		e.cfg.Log.Info("recovered", "app", keyOf(app), "commit", short(st.ObservedCommit))
	}
	w.said = now
}

// synced tells of one sync that wrote something, or tried to: one line, one event, the metrics.
func (e *Engine) synced(app *v1alpha1.Application, r *v1alpha1.SyncRecord, err error) {
	e.cfg.Metrics.sync(keyOf(app), r, err)
	if err != nil {
		return // report says it
	}
	if r.Created+r.Updated+r.Pruned == 0 {
		return
	}
	summary := fmt.Sprintf("%d created, %d updated, %d pruned, %d unchanged", r.Created, r.Updated, r.Pruned, r.Unchanged)
	e.cfg.Log.Info("synced", "app", keyOf(app), "commit", short(r.Commit), "cause", r.Cause, "objects", summary, "took", r.Took.Duration)
	e.recorder.Eventf(app, corev1.EventTypeNormal, "Synced", "%s: %s", short(r.Commit), summary)
}

// cause of a sync: Drift when the revision is the one that was applied already.
func (e *Engine) cause(app *v1alpha1.Application, digest, commit string) string {
	switch a := app.Status.AppliedRevision; {
	case a != nil && a.Digest == digest:
		return causeDrift
	case a != nil && a.Commit == commit:
		return causeSpec
	}
	return causeCommit
}

// setConditions says the phase again in the form that kubectl wait and kstatus know.
func setConditions(app *v1alpha1.Application) {
	st := &app.Status
	set := func(kind string, is bool, reason, message string) {
		status := metav1.ConditionFalse
		if is {
			status = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&st.Conditions, metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message,
			ObservedGeneration: app.Generation})
	}
	isSynced := st.AppliedRevision != nil && st.AppliedRevision.Commit == st.ObservedCommit &&
		(st.Phase == v1alpha1.Applied || st.Phase == v1alpha1.Verifying || st.Phase == v1alpha1.Pruning || st.Reason == reasonUnhealthy) && st.Reason != reasonDrifted
	health := st.Health
	if health == "" {
		health = v1alpha1.Unknown
	}
	set("Synced", isSynced, st.Reason, st.Message)
	set("Healthy", health == v1alpha1.Healthy, string(health), st.HealthMessage)
	set("Ready", isSynced && health == v1alpha1.Healthy && st.Phase == v1alpha1.Applied, st.Reason, st.Message)
}

// driftOf lists what others have set on our objects: fields that they added, and, where ours are not healed, fields of
// ours that differ.
func driftOf(p *apply.Proof, desired []apply.Object, ours bool) []v1alpha1.Drift {
	var out []v1alpha1.Drift
	for _, o := range desired {
		live := p.Live(o.Ref())
		if live == nil || o.GroupVersionKind().Group == v1alpha1.GroupVersion.Group {
			continue
		}
		for _, f := range diff.AddedFields(live, o.Unstructured, v1alpha1.FieldManager) {
			at := metav1.NewTime(f.Time)
			out = append(out, v1alpha1.Drift{Object: referenceOf(apply.Held{Ref: o.Ref(), Version: o.GroupVersionKind().Version}),
				Manager: f.Manager, Fields: f.Fields, Time: &at})
		}
	}
	if !ours {
		return out
	}
	return append(out, changedByOthers(p.Plan)...)
}

func heldOf(inventory []v1alpha1.ObjectReference) []apply.Held {
	out := make([]apply.Held, 0, len(inventory))
	for _, r := range inventory {
		out = append(out, apply.Held{Ref: diff.Ref{Group: r.Group, Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}, Version: r.Version, UID: r.UID, Finished: r.Finished})
	}
	return out
}

func inventoryOf(held []apply.Held) []v1alpha1.ObjectReference {
	out := make([]v1alpha1.ObjectReference, 0, len(held))
	for _, h := range held {
		out = append(out, referenceOf(h))
	}
	slices.SortFunc(out, func(a, b v1alpha1.ObjectReference) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name), strings.Compare(a.Group, b.Group))
	})
	return out
}

func referenceOf(h apply.Held) v1alpha1.ObjectReference {
	return v1alpha1.ObjectReference{Group: h.Ref.Group, Version: h.Version, Kind: h.Ref.Kind, Namespace: h.Ref.Namespace, Name: h.Ref.Name, UID: h.UID, Finished: h.Finished}
}

func suspended(app *v1alpha1.Application) bool {
	return app.Spec.Sync.Suspend || app.Annotations[v1alpha1.AnnotationSuspend] == "true"
}

func isTrue(b *bool) bool { return b == nil || *b }

func now(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }

// short is the part of a commit's hash, or of an archive's digest, that people read.
func short(commit string) string {
	hash := strings.TrimPrefix(commit, "sha256:")
	return commit[:len(commit)-len(hash)] + hash[:min(len(hash), 8)]
}
