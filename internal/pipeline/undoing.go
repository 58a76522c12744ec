package pipeline

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/intent"
	"github.com/gitopsd/gitopsd/internal/ledger"
	"github.com/gitopsd/gitopsd/internal/release"
	corev1 "k8s.io/api/core/v1"
)

// undoing brings back what the intent has touched.
func (t *turn) undoing(ctx context.Context, in *v1alpha1.Intent) outcome {
	st := &t.app.Status
	images, err := t.images(in)
	if err != nil {
		return outcome{retry, v1alpha1.Phase(in.Phase), reasonStore, err.Error()}
	}
	var left []apply.Held
	var base []apply.Object
	if err = t.checkTurn(ctx); err == nil {
		left, base, err = t.undo(ctx, in, images)
	}
	if err != nil {
		if ctx.Err() == nil && !apply.Transient(err) {
			in.Phase = string(intent.Next(intent.Phase(in.Phase), intent.Stuck, t.policy()))
		}
		return outcome{retry, v1alpha1.Phase(in.Phase), reasonUndo, fmt.Sprintf("%s: %s; undoing it: %s", in.Reason, in.Message, err)}
	}
	end := intent.Next(intent.Phase(in.Phase), intent.Undone, t.policy())
	if err := t.sealed(in, end, st.AppliedRevision, append(undone(images, left), ranHooks(in)...)); err != nil {
		return outcome{retry, v1alpha1.Phase(in.Phase), reasonStore, err.Error()}
	}
	if objects, err := t.contentOf(in.Revision); err == nil {
		t.tellHelm(ctx, in, objects, release.Failed)
	}
	st.Inventory, st.Intent = inventoryOf(apply.Restored(base, heldOf(st.Inventory))), nil
	rejected := &v1alpha1.Rejected{Revision: in.Revision, Generation: t.app.Generation, Reason: in.Reason, Message: in.Message}
	for _, h := range left {
		rejected.Residue = append(rejected.Residue, referenceOf(h))
	}
	class := retry
	if in.Remember {
		st.Rejected, class = rejected, done
	}
	t.w.unswept = true
	if err := t.putRight(ctx, base); err != nil {
		class = retry
	}
	words := rolledBack(rejected)
	t.cfg.Log.Warn("rolled back", "app", keyOf(t.app), "commit", short(in.Revision.Commit), "reason", in.Reason+": "+words)
	t.recorder.Event(t.app, corev1.EventTypeWarning, string(v1alpha1.RolledBack), in.Reason+": "+words)
	return outcome{class, v1alpha1.RolledBack, in.Reason, words}
}

// undo writes the base back and asks the API whether that is what it has.
func (t *turn) undo(ctx context.Context, in *v1alpha1.Intent, images []apply.Image) (left []apply.Held, base []apply.Object, err error) {
	if r := t.app.Status.AppliedRevision; r != nil {
		if base, err = t.contentOf(*r); err != nil {
			return nil, nil, err
		}
	}
	held := heldOf(t.app.Status.Inventory)
	if left, err = t.target.Undo(ctx, apply.Undoing{Images: images, Base: base, Held: held, Intent: in.ID, Since: in.Started.Time}); err != nil {
		return nil, nil, err
	}
	t.w.known.Forget()
	r := t.revision(base)
	r.Held = apply.Restored(base, held)
	proof, err := t.target.Prove(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	if !proof.Plan.Empty() {
		return nil, nil, errNotYet{proof.Plan.Summary()}
	}
	return left, base, nil
}

// errNotYet says that somebody else wrote while the base was written back.
type errNotYet struct{ what string }

func (e errNotYet) Error() string { return "the base is not wholly back: " + e.what }

func rolledBack(r *v1alpha1.Rejected) string {
	message := fmt.Sprintf("commit %s failed: %s", short(r.Revision.Commit), r.Message)
	for _, o := range r.Residue {
		message += fmt.Sprintf("; %s %s was made by it and is left", o.Kind, o.Name)
	}
	return message
}

// rejects says whether a revision is the one that failed, and nothing has changed since.
func (t *turn) rejects(c candidate) bool {
	r := t.app.Status.Rejected
	return r != nil && r.Revision.Digest == c.digest && r.Generation == t.app.Generation
}

// standBy looks after the applied revision while the newest one is the rejected one.
func (t *turn) standBy(ctx context.Context) outcome {
	r := t.app.Status.Rejected
	return t.keep(ctx, t.app, t.w, outcome{done, v1alpha1.RolledBack, r.Reason, rolledBack(r)})
}

// tryAgain forgets that a revision failed, and lets one that is held or half undone start over.
func (e *Engine) tryAgain(app *v1alpha1.Application, request string) {
	st := &app.Status
	e.tell(app, ledger.Entry{Kind: ledger.Manual, ID: "retry/" + string(app.UID) + "/" + request, Actor: askedBy(app), To: st.ObservedCommit, Outcome: "Retry"})
	st.Rejected = nil
	if in := st.Intent; in != nil && (&turn{Engine: e, app: app}).ended(in) == "" && (in.Phase == string(intent.Held) || in.Phase == string(intent.Incomplete)) {
		in.Phase = string(intent.Next(intent.Phase(in.Phase), intent.Retried, ""))
		in.Started, in.Written = now(time.Now()), nil
		in.Reason, in.Message, in.Remember = "", "", false
		if in.Hooks != nil {
			in.Hooks = &v1alpha1.HookRun{Event: in.Hooks.Event}
		}
	}
}

// pinned returns the revision that a person holds the Application at, if no newer commit has come since.
func pinned(app *v1alpha1.Application) (v1alpha1.Revision, bool) {
	digest, rest, _ := strings.Cut(app.Annotations[v1alpha1.AnnotationPin], "@")
	if commit, _, _ := strings.Cut(rest, "@"); commit == "" || commit != app.Status.ObservedCommit {
		return v1alpha1.Revision{}, false
	}
	for _, r := range app.Status.History {
		if r.Digest == digest {
			return r, true
		}
	}
	return v1alpha1.Revision{}, false
}

// syncPinned brings an Application to the revision that it is held at.
func (e *Engine) syncPinned(ctx context.Context, app *v1alpha1.Application, w *work, r v1alpha1.Revision) outcome {
	e.tell(app, ledger.Entry{Kind: ledger.Manual, ID: "pin/" + string(app.UID) + "/" + app.Annotations[v1alpha1.AnnotationPin], Actor: askedBy(app),
		From: app.Status.ObservedCommit, To: r.Commit, Outcome: "Pinned"})
	objects, err := (&turn{Engine: e, app: app, w: w}).kept(r)
	if err != nil {
		return failed(stalled, reasonStore, err)
	}
	out := e.sync(ctx, app, w, r.Commit, objects)
	if out.phase == v1alpha1.Applied && out.reason == reasonApplied {
		out.reason = reasonPinned
		out.message = fmt.Sprintf("held at commit %s by hand until a newer commit comes; go on now with: gitopsd resume %s", short(r.Commit), app.Name)
	}
	return out
}
