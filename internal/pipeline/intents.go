package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/diff"
	"github.com/gitopsd/gitopsd/internal/health"
	"github.com/gitopsd/gitopsd/internal/intent"
	"github.com/gitopsd/gitopsd/internal/ledger"
	"github.com/gitopsd/gitopsd/internal/redact"
	"github.com/gitopsd/gitopsd/internal/release"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// begin proves a new revision, opens an intent for it and carries on with that. From is the intent that it takes over
// from, or nil. Until the intent is written nothing has happened.
func (t *turn) begin(ctx context.Context, c candidate, from *v1alpha1.Intent) outcome {
	if err := checkObjects(c.all()); err != nil {
		return failed(stalled, reasonRefused, err)
	}
	hooks := t.hooksToRun(c)
	r := t.revision(c.objects)
	proof, err := t.target.Prove(ctx, r)
	if err != nil {
		return failed(retry, reasonRefused, err)
	}
	if out, ok := t.guard(proof, c); !ok {
		return out
	}
	if err := t.spareUs(ctx, proof, c.all()); err != nil {
		return failed(retry, reasonRefused, err)
	}
	if err := t.target.ProveHooks(ctx, hooks, c.objects); err != nil {
		return failed(retry, reasonRefused, err)
	}
	if proof.Plan.Empty() && from == nil && len(hooks) == 0 {
		return t.relabel(ctx, c, proof)
	}
	if out, ok := t.inWindow(c, proof.Plan.Summary()); !ok {
		return out
	}
	in := &v1alpha1.Intent{ID: string(uuid.NewUUID()), Phase: string(intent.Applying), Epoch: t.cfg.Turn.Epoch, Started: now(time.Now()),
		Revision: v1alpha1.Revision{Commit: c.commit, Digest: c.digest, Number: t.numberOf(c)}}
	in.BaseUnhealthy, in.ServiceAccountName = ill(t.app), t.app.Spec.Destination.ServiceAccountName
	if len(hooks) > 0 {
		in.Hooks = &v1alpha1.HookRun{Event: t.event(c)}
	}
	images := proof.Images(c.objects)
	var before []apply.Image
	if from != nil {
		if before, err = t.images(from); err != nil {
			return failed(retry, reasonStore, err)
		}
		images, in.Interruptions, in.BaseUnhealthy = apply.Union(before, images), from.Interruptions+1, from.BaseUnhealthy
		in.Supersedes = &v1alpha1.Superseded{ID: from.ID, Revision: from.Revision}
	}
	if in.Revision.Content, err = t.put(c.all()); err == nil {
		in.Images, err = t.putImages(images)
	}
	if err != nil {
		return failed(retry, reasonStore, err)
	}
	st := &t.app.Status
	st.Intent, st.Inventory = in, inventoryOf(apply.Intended(r))
	counted(st, in.Revision)
	st.Phase, st.Reason, st.Message = v1alpha1.Applying, reasonSyncing, proof.Plan.Summary()
	if err := t.write(ctx, t.app, t.w); err != nil {
		return failed(retry, reasonApply, fmt.Errorf("write the intent: %w", err))
	}
	t.w.owns = in.ID
	if err := t.tellSuperseded(in, touched(before, "created", "changed")); err != nil { // only now: had the write failed, the older one would go on
		return outcome{retry, v1alpha1.Applying, reasonStore, err.Error()}
	}
	t.w.started = time.Now()
	return t.carryOn(ctx, c.objects, proof)
}

// relabel makes a revision the applied one that asks for what is there already.
func (t *turn) relabel(ctx context.Context, c candidate, proof *apply.Proof) outcome {
	st := &t.app.Status
	entry := ledger.Entry{Kind: ledger.Sync, ID: "relabel/" + string(t.app.UID) + "/" + c.commit + "/" + c.digest, To: c.commit,
		Digest: t.cfg.Ledger.Keyed([]byte(c.digest)), Outcome: string(intent.Applied), Reason: "NothingToWrite"}
	if st.AppliedRevision != nil {
		entry.From = st.AppliedRevision.Commit
	}
	if err := t.account(entry); err != nil {
		return failed(retry, reasonStore, err)
	}
	revision := &v1alpha1.Revision{Commit: c.commit, Digest: c.digest, Number: t.numberOf(c), Time: now(time.Now())}
	if err := t.pin(revision, c); err != nil {
		return failed(retry, reasonStore, err)
	}
	counted(st, *revision)
	st.AppliedRevision = revision
	st.Inventory, st.Rejected = refreshed(inventoryOf(t.stays(c, proof)), proof), nil
	t.remember(*st.AppliedRevision)
	t.w.applied(c)
	st.Drift = driftOf(proof, c.objects, false)
	return t.judgeHealth(ctx, proof, c.objects, t.good())
}

// stays is the inventory of a revision that needs no write: with what left it and is not deleted, because it is never to be or because
// another Application asks for it.
func (t *turn) stays(c candidate, proof *apply.Proof) []apply.Held {
	gone := proof.Pruned() // not there any more, or there would be something to write
	return slices.DeleteFunc(apply.Intended(t.revision(c.objects)), func(h apply.Held) bool { return slices.Contains(gone, h.Ref) })
}

func (t *turn) putImages(images []apply.Image) (string, error) {
	content, err := apply.EncodeImages(images)
	if err != nil {
		return "", err
	}
	return t.cfg.Contents.Put(ownerOf(t.app), content)
}

func (t *turn) images(in *v1alpha1.Intent) ([]apply.Image, error) {
	content, err := t.cfg.Contents.Get(ownerOf(t.app), in.Images)
	if err != nil {
		return nil, fmt.Errorf("images of intent %s: %w", in.ID, err)
	}
	return apply.DecodeImages(content)
}

// overtake lets a newer revision take an open intent over, if it passes its dry-run and the open one need not finish first.
func (t *turn) overtake(ctx context.Context, c candidate) outcome {
	in := t.app.Status.Intent
	if !intent.Interruptible(intent.Phase(in.Phase), int(in.Interruptions)) || t.ended(in) != "" || hookRuns(in) {
		out := t.carryOnOpen(ctx)
		if now := t.app.Status.Intent; now != nil && now.Phase == string(intent.Pruning) && out.class == retry && out.reason == reasonPrune {
			out = t.leaveUnpruned(now, out)
		}
		if t.app.Status.Intent == nil { // it has come to its end: now the newer one
			out.class = soon
		}
		return out
	}
	if t.rejects(c) {
		return t.carryOnOpen(ctx)
	}
	intent.Next(intent.Phase(in.Phase), intent.Overtaken, t.policy())
	return t.begin(ctx, c, in)
}

// leaveUnpruned ends an intent of which the revision is the applied one, and something cannot be deleted, for the sake of a newer revision:
// that may be the one that mends it. What is left stays in the inventory, and goes as soon as it can.
func (t *turn) leaveUnpruned(in *v1alpha1.Intent, why outcome) outcome {
	images, err := t.images(in)
	if err != nil {
		return why
	}
	end := intent.Next(intent.Pruning, intent.Overtaken, t.policy())
	if err := t.sealed(in, end, in.Base, append(touched(images, "created", "changed"), ranHooks(in)...)); err != nil {
		return outcome{retry, v1alpha1.Pruning, reasonStore, err.Error()}
	}
	t.app.Status.Intent, t.w.unswept = nil, true
	return why
}

// carryOnOpen carries on with the open intent, whatever the repository says by now.
func (t *turn) carryOnOpen(ctx context.Context) outcome {
	objects, err := t.contentOf(t.app.Status.Intent.Revision)
	if err != nil {
		return failed(retry, reasonStore, err)
	}
	t.live.follow(objects)
	return t.carryOn(ctx, objects, nil)
}

// carryOn takes the open intent as far as it goes without waiting. Proof is what was proven just now, or nil.
func (t *turn) carryOn(ctx context.Context, objects []apply.Object, proof *apply.Proof) outcome {
	if err := t.actAs(t.app.Status.Intent.ServiceAccountName); err != nil {
		return failed(retry, reasonApply, err)
	}
	if err := t.tellSuperseded(t.app.Status.Intent, nil); err != nil {
		return outcome{retry, v1alpha1.Phase(t.app.Status.Intent.Phase), reasonStore, err.Error()}
	}
	if err := t.resume(ctx, t.app.Status.Intent, objects); err != nil {
		return outcome{retry, v1alpha1.Phase(t.app.Status.Intent.Phase), reasonApply, "tried again: " + err.Error()}
	}
	for {
		in := t.app.Status.Intent
		t.target.Maker.Intent = in.ID
		var out outcome
		var next bool // the phase has changed, and there is more to do
		switch intent.Phase(in.Phase) {
		case intent.Applying:
			out, next = t.applying(ctx, objects, &proof)
		case intent.Verifying, intent.Held:
			out, next = t.verifying(ctx, in, objects)
		case intent.Pruning:
			return t.pruning(ctx, in, objects)
		case intent.Undoing, intent.Incomplete:
			return t.undoing(ctx, in)
		default:
			return failed(stalled, reasonApply, fmt.Errorf("status.intent has the unknown phase %q", in.Phase))
		}
		if !next {
			return out
		}
	}
}

// actAs keeps an open intent at the account that it was begun as, whatever the spec names by now. One that was begun without an
// account gets no more rights than the spec gives now.
func (t *turn) actAs(account string) error {
	if account == "" || account == t.app.Spec.Destination.ServiceAccountName {
		return nil
	}
	then := t.app.DeepCopy()
	then.Spec.Destination.ServiceAccountName = account
	target, err := t.Engine.target(then)
	if err == nil {
		t.target, t.live = target, t.Engine.live.as(userOf(then))
	}
	return err
}

// applying writes every object of the revision.
func (t *turn) applying(ctx context.Context, objects []apply.Object, proven **apply.Proof) (outcome, bool) {
	if out, next, passed := t.passHooks(ctx, "pre"); !passed {
		return out, next
	}
	in := t.app.Status.Intent
	r, started := t.revision(objects), time.Now()
	proof := *proven
	if proof == nil {
		var err error
		if proof, err = t.target.Prove(ctx, r); err != nil {
			return t.retryOrFail(ctx, in, reasonRefused, err)
		}
		if err := t.checkTurn(ctx); err != nil {
			return t.retryOrFail(ctx, in, reasonApply, err)
		}
	}
	*proven = nil
	record := &v1alpha1.SyncRecord{Commit: in.Revision.Commit, Cause: t.cause(t.app, in.Revision.Digest, in.Revision.Commit), Started: now(started)}
	report, waits, err := t.applyWaves(ctx, r, proof)
	t.app.Status.Inventory = inventoryOf(report.Inventory)
	t.record(record, started, report, err)
	if err != nil {
		return t.retryOrFail(ctx, in, reasonApply, err)
	}
	t.sumUp(in, record)
	if waits != "" {
		return t.awaitWave(ctx, in, waits)
	}
	written := now(time.Now())
	in.Written, in.Phase = &written, string(intent.Next(intent.Applying, intent.Written, t.policy()))
	t.app.Status.LastSync = record
	if record.Created+record.Updated > 0 { // the watches tell what became of it, sooner than asking would
		return outcome{soon, v1alpha1.Verifying, reasonVerifying, "every object is written"}, false
	}
	return outcome{}, true
}

// retryOrFail tells errors that pass from those that are the revision's own, or have lasted too long.
func (t *turn) retryOrFail(ctx context.Context, in *v1alpha1.Intent, reason string, err error) (outcome, bool) {
	if ctx.Err() != nil {
		return outcome{class: retry}, false
	}
	passes := apply.Transient(err)
	if passes && time.Since(begun(in)) < timeoutOf(t.app) {
		return outcome{retry, v1alpha1.Applying, reason, "tried again: " + err.Error()}, false
	}
	return t.fail(ctx, in, reason, err, !passes)
}

// fail ends the way forward: what follows is an undo, or holding on. It is written before anything is undone.
func (t *turn) fail(ctx context.Context, in *v1alpha1.Intent, reason string, err error, remember bool) (outcome, bool) {
	in.Reason, in.Message, in.Remember = reason, redact.String(err.Error()), remember
	if in.BaseUnhealthy && t.app.Spec.Sync.OnFailure != v1alpha1.Hold {
		in.Message += " (held, not rolled back: what was there before was not healthy either)"
	}
	in.Phase = string(intent.Next(intent.Phase(in.Phase), intent.Failed, t.policy()))
	st := &t.app.Status
	st.Phase, st.Reason, st.Message = v1alpha1.Phase(in.Phase), reason, in.Message
	t.cfg.Log.Warn("revision failed", "app", keyOf(t.app), "commit", short(in.Revision.Commit), "reason", reason, "then", in.Phase, "err", in.Message)
	if err := t.write(ctx, t.app, t.w); err != nil {
		return failed(retry, reasonApply, fmt.Errorf("write the intent: %w", err)), false
	}
	return outcome{}, true
}

// verifying waits until everything is healthy. Before the revision counts as arrived, nothing may differ from it.
func (t *turn) verifying(ctx context.Context, in *v1alpha1.Intent, objects []apply.Object) (outcome, bool) {
	t.noteEnded(objects)
	r, phase := t.revision(objects), intent.Phase(in.Phase)
	proof, err := t.target.Prove(ctx, r)
	if err != nil {
		return outcome{retry, v1alpha1.Phase(phase), reasonVerifying, "tried again: " + err.Error()}, false
	}
	if n := proof.Plan.Count(diff.Create) + proof.Plan.Count(diff.Update); n > 0 && phase == intent.Verifying {
		if err := t.checkTurn(ctx); err != nil {
			return t.retryOrFail(ctx, in, reasonApply, err)
		}
		report, err := t.target.Apply(ctx, r, proof)
		t.app.Status.Inventory = inventoryOf(report.Inventory)
		if err != nil {
			return t.retryOrFail(ctx, in, reasonApply, err)
		}
	}
	t.app.Status.Inventory = refreshed(t.app.Status.Inventory, proof)
	worst := t.health(ctx, proof, objects)
	message := t.app.Status.HealthMessage
	switch {
	case worst == health.Healthy && in.Written != nil && !hookFailed(in):
		if out, next, passed := t.passHooks(ctx, "post"); !passed {
			return out, next
		}
		in = t.app.Status.Intent
		in.Phase = string(intent.Next(phase, intent.Arrived, t.policy()))
		t.arrived(in, objects)
		return outcome{}, true
	case phase == intent.Held:
		if err := t.sealed(in, intent.Held, t.app.Status.AppliedRevision, nil); err != nil {
			return outcome{retry, v1alpha1.Held, reasonStore, err.Error()}, false
		}
		return outcome{waiting, v1alpha1.Held, in.Reason, in.Message}, false
	case time.Since(in.Written.Time) > timeoutOf(t.app):
		return t.fail(ctx, in, reasonUnhealthy, errors.New(message), true)
	}
	return outcome{soon, v1alpha1.Verifying, reasonVerifying, message}, false
}

// arrived makes the revision the applied one. It counts with the next write of the status.
func (t *turn) arrived(in *v1alpha1.Intent, objects []apply.Object) {
	st := &t.app.Status
	in.Revision.Time = now(time.Now())
	revision := in.Revision
	in.Base, st.AppliedRevision, st.Rejected = st.AppliedRevision, &revision, nil
	t.remember(revision)
	t.w.applied(candidate{commit: revision.Commit, digest: revision.Digest, objects: objects})
}

// pruning deletes what left the revision. That cannot be undone, so that the revision is the applied one is written first.
func (t *turn) pruning(ctx context.Context, in *v1alpha1.Intent, objects []apply.Object) outcome {
	st := &t.app.Status
	images, err := t.images(in)
	if err != nil {
		return outcome{retry, v1alpha1.Pruning, reasonStore, err.Error()}
	}
	if err := t.handBack(ctx, in, images, objects); err != nil {
		return outcome{retry, v1alpha1.Pruning, reasonUndo, "giving back what a superseded revision had taken: " + err.Error()}
	}
	if t.letGo(objects); len(t.givenUp(objects)) > 0 {
		if out, ok := t.awaitOthers(in.Revision.Time.Time, in.Revision.Commit); !ok {
			return out
		}
	}
	r := t.revision(objects)
	proof, err := t.target.Prove(ctx, r)
	if err != nil {
		return outcome{retry, v1alpha1.Pruning, reasonPrune, "tried again: " + err.Error()}
	}
	st.Inventory = refreshed(st.Inventory, proof) // an intent that had ended before a crash comes here without having written
	written := touched(images, "created", "changed")
	if proof.Prunes() > 0 {
		st.Phase, st.Reason, st.Message = v1alpha1.Pruning, reasonPrune, proof.Plan.Summary()
		if err := t.write(ctx, t.app, t.w); err != nil {
			return failed(retry, reasonApply, fmt.Errorf("write the intent: %w", err))
		}
		if err := t.checkTurn(ctx); err != nil {
			return outcome{retry, v1alpha1.Pruning, reasonPrune, err.Error()}
		}
		entry := ledger.Entry{Kind: ledger.Prune, ID: in.ID + "/Prune", To: in.Revision.Commit, Outcome: "Deleted", Objects: changes(proof.Plan, diff.Prune)}
		if err := t.account(entry); err != nil {
			return outcome{retry, v1alpha1.Pruning, reasonStore, err.Error()}
		}
		report, err := t.target.Prune(ctx, r, proof)
		st.Inventory = inventoryOf(report.Inventory)
		if err != nil {
			return outcome{retry, v1alpha1.Pruning, reasonPrune, "tried again: " + err.Error()}
		}
		if st.LastSync != nil {
			st.LastSync.Pruned += int32(report.Pruned)
		}
		t.cfg.Log.Info("pruned", "app", keyOf(t.app), "commit", short(in.Revision.Commit), "objects", report.Pruned)
	}
	if err := t.sealed(in, intent.Applied, in.Base, append(written, ranHooks(in)...)); err != nil {
		return outcome{retry, v1alpha1.Pruning, reasonStore, err.Error()}
	}
	t.tellHelm(ctx, in, objects, release.Deployed)
	st.Intent = nil
	st.Drift = driftOf(proof, objects, false)
	t.w.unswept = true
	if err := t.putRight(ctx, objects); err != nil {
		return failed(retry, reasonPrune, err)
	}
	return t.judgeHealth(ctx, proof, objects, t.good())
}

// policy is what becomes of the open intent if it fails. Where the base was not healthy either, going back mends nothing.
func (t *turn) policy() intent.Policy {
	if in := t.app.Status.Intent; t.app.Spec.Sync.OnFailure == v1alpha1.Hold || (in != nil && in.BaseUnhealthy) {
		return intent.Hold
	}
	return intent.Rollback
}

// ill says that the applied revision is not healthy. Of the first one there is nothing to say.
func ill(app *v1alpha1.Application) bool {
	st := app.Status
	if st.AppliedRevision == nil || st.Phase == v1alpha1.RolledBack { // of the latter the health may still be that of what failed
		return false
	}
	return st.Health == v1alpha1.Degraded || st.Health == v1alpha1.Missing || st.Phase == v1alpha1.Failed && st.Reason == reasonUnhealthy
}
