package pipeline

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/diff"
	"github.com/gitopsd/gitopsd/internal/ledger"
	"github.com/gitopsd/gitopsd/internal/redact"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// turn is one look at an Application with everything that writing its objects takes.
type turn struct {
	*Engine
	app    *v1alpha1.Application
	w      *work
	target apply.Target
	live   view
}

// candidate is a revision as the cluster would be asked for it.
type candidate struct {
	commit, digest string
	objects        []apply.Object // placed: what is declared
	hooks          []apply.Object // placed: what runs at points of a sync
	revision       int64          // as which a chart was rendered; 0 for what knows no releases
}

func newCandidate(commit string, placed []apply.Object) candidate {
	c := candidate{commit: commit}
	c.objects, c.hooks = apply.Split(placed)
	c.digest = apply.Digest(c.all())
	return c
}

// all is what is kept of the revision.
func (c candidate) all() []apply.Object { return slices.Concat(c.objects, c.hooks) }

// sync brings the cluster to a revision: it begins one that is new, carries on with one that was begun, and looks after
// the one that is there.
func (e *Engine) sync(ctx context.Context, app *v1alpha1.Application, w *work, commit string, desired []apply.Object) outcome {
	target, err := e.target(app)
	if err != nil {
		return failed(retry, reasonApply, err)
	}
	t := &turn{e, app, w, target, e.live.as(userOf(app))}
	c := t.place(commit, desired)
	if held := len(app.Status.Inventory); len(c.objects) == 0 && held > 0 && isTrue(app.Spec.Sync.Prune) {
		return failed(stalled, reasonEmpty, fmt.Errorf("%s holds no manifests any more; all %d objects would be deleted, and are kept; "+
			"to delete them, delete the Application with spec.sync.onDelete: Cascade", pathOf(app), held))
	}
	t.live.follow(c.all())
	st := &app.Status
	switch {
	case st.Intent != nil && st.Intent.Revision.Digest == c.digest:
		return t.carryOn(ctx, c.objects, nil)
	case st.Intent != nil:
		return t.overtake(ctx, c)
	case t.rejects(c):
		return t.standBy(ctx)
	case st.AppliedRevision == nil || st.AppliedRevision.Digest != c.digest:
		return t.begin(ctx, c, nil)
	}
	st.Rejected = nil
	return t.tend(ctx, c)
}

// place makes what was rendered ready for the API, once for each rendering, as soon as the API knows all its kinds.
func (t *turn) place(commit string, desired []apply.Object) candidate {
	p := &t.w.placed
	if namespace := namespaceFor(t.app)(schema.GroupKind{}); p.namespace != namespace || !sameSlice(p.of, desired) {
		c := newCandidate(commit, t.target.Place(desired, namespaceFor(t.app)))
		if *p = (placed{desired, namespace, c}); !t.target.Knows(desired) {
			p.of = nil
		}
	}
	c := p.candidate
	c.commit = commit
	if r, held := pinned(t.app); held {
		c.revision = r.Number
	} else if t.w.rendered.commit == commit {
		c.revision = t.w.rendered.revision
	}
	t.wishes.note(keyOf(t.app), c)
	return c
}

func sameSlice[T any](a, b []T) bool {
	return len(a) == len(b) && len(a) > 0 && &a[0] == &b[0]
}

// keep holds in place what is there while a newer revision cannot be: an intent that was begun goes on, the applied
// revision is looked after, and the status says why the newer one is not there.
func (e *Engine) keep(ctx context.Context, app *v1alpha1.Application, w *work, why outcome) outcome {
	target, err := e.target(app)
	if err != nil {
		return why
	}
	t := &turn{e, app, w, target, e.live.as(userOf(app))}
	var out outcome
	switch st := &app.Status; {
	case st.Intent != nil:
		out = t.carryOnOpen(ctx)
	case st.AppliedRevision != nil:
		objects, err := t.contentOf(*st.AppliedRevision)
		if err != nil {
			return why
		}
		t.live.follow(objects)
		out = t.tend(ctx, candidate{commit: st.AppliedRevision.Commit, digest: st.AppliedRevision.Digest, objects: objects})
	default: // there is nothing to look after, but for what comes late
		if err := t.putRight(ctx, nil); err != nil {
			why.class = retry
		}
	}
	if out.class == retry || out.class == soon {
		why.class = out.class
	}
	return why
}

// revision is what the API is asked to become, from what it is.
func (t *turn) revision(objects []apply.Object) apply.Revision {
	return apply.Revision{Desired: objects, Held: heldOf(t.app.Status.Inventory), Prune: isTrue(t.app.Spec.Sync.Prune), Live: t.live.get, Known: t.w.known}
}

// noteEnded notes which Jobs have ended, of objects that were written.
func (t *turn) noteEnded(objects []apply.Object) {
	if held := heldOf(t.app.Status.Inventory); apply.Finishes(held, objects, t.live.ending) {
		t.app.Status.Inventory = inventoryOf(held)
	}
}

// tend looks after the applied revision: drift is healed or told, health is told.
func (t *turn) tend(ctx context.Context, c candidate) outcome {
	app := t.app
	t.noteEnded(c.objects)
	t.letGo(c.objects)
	r := t.revision(c.objects)
	proof, err := t.target.Prove(ctx, r)
	if err != nil {
		return failed(retry, reasonRefused, err)
	}
	if err := t.pin(app.Status.AppliedRevision, c); err != nil {
		return failed(retry, reasonApply, err)
	}
	if why := t.tellsOnly(); why != "" && !proof.Plan.Empty() {
		app.Status.Drift = driftOf(proof, c.objects, true)
		t.tellDrift(proof.Plan, c, why)
		return t.judgeHealth(ctx, proof, c.objects, outcome{done, v1alpha1.Applied, reasonDrifted, proof.Plan.Summary() + " (" + why + ")"})
	}
	if err := t.putRight(ctx, c.objects); err != nil {
		return failed(retry, reasonPrune, err)
	}
	if proof.Plan.Count(diff.Create)+proof.Plan.Count(diff.Update) > 0 {
		if out, ok := t.heal(ctx, r, proof, c); !ok {
			return out
		}
	}
	app.Status.Inventory = refreshed(app.Status.Inventory, proof)
	t.w.applied(c)
	app.Status.AppliedRevision.Commit = c.commit // another one, perhaps, that renders to the same
	app.Status.Drift = driftOf(proof, c.objects, false)
	left, gone := t.pruneLeft(ctx, proof, c)
	if out := t.judgeHealth(ctx, proof, c.objects, t.good()); gone {
		return out
	}
	return left
}

// good is the end of a sync. What was deleted and is held back by finalizers holds nothing up, and is told.
func (t *turn) good() outcome {
	out := outcome{done, v1alpha1.Applied, reasonApplied, ""}
	var held []apply.Held
	for _, u := range t.live.owned(ownerOf(t.app)) {
		if u.GetDeletionTimestamp() != nil && len(u.GetFinalizers()) > 0 {
			held = append(held, apply.Held{Ref: diff.RefOf(u), Version: u.GroupVersionKind().Version})
		}
	}
	if len(held) > 0 {
		out.message = "deleted, and not gone yet: " + t.going(held)
	}
	return out
}

// heal writes what differs from the applied revision. It needs no intent: writing it again is all that a crash asks for.
func (t *turn) heal(ctx context.Context, r apply.Revision, proof *apply.Proof, c candidate) (outcome, bool) {
	started := time.Now()
	record := &v1alpha1.SyncRecord{Commit: c.commit, Cause: causeDrift, Started: now(started)}
	changed, words := changes(proof.Plan, diff.Create, diff.Update), driftWords(changedByOthers(proof.Plan))
	if err := t.checkTurn(ctx); err != nil {
		return failed(retry, reasonApply, err), false
	}
	report, err := t.target.Apply(ctx, r, proof)
	drift := ledger.Entry{Kind: ledger.Drift, From: c.commit, To: c.commit, Digest: t.cfg.Ledger.Keyed([]byte(c.digest)), Outcome: "Healed", Message: words, Objects: changed}
	if err != nil { // the same failure is told once, however often it is tried
		drift.Outcome, drift.Message = "HealFailed", redact.String(words+"; "+err.Error())
		drift.ID = fmt.Sprintf("unhealed/%s/%x", t.app.UID, sha256.Sum256([]byte(c.digest+t.lastSynced()+drift.Message)))
	}
	t.tell(t.app, drift)
	if words != "" {
		t.cfg.Log.Info("drift", "app", keyOf(t.app), "commit", short(c.commit), "what", words, "then", drift.Outcome)
	}
	t.app.Status.Inventory = inventoryOf(report.Inventory)
	t.record(record, started, report, err)
	if err != nil {
		return failed(retry, reasonApply, err), false
	}
	t.app.Status.LastSync, t.w.started = record, started
	return outcome{}, true
}

// pruneLeft deletes what the applied revision does not name and is still there, because it was to stay or could not be deleted when the
// revision came. It asks for the same consent as a commit that deletes. False: it is not done, and the outcome says why.
func (t *turn) pruneLeft(ctx context.Context, proof *apply.Proof, c candidate) (outcome, bool) {
	if proof.Prunes() == 0 {
		t.w.leftSince = time.Time{}
		return outcome{}, true
	}
	if out, ok := t.guard(proof, c); !ok {
		return out, false
	}
	if t.w.leftSince.IsZero() {
		t.w.leftSince = time.Now()
	}
	if out, ok := t.awaitOthers(t.w.leftSince, c.commit); !ok {
		return out, false
	}
	if err := t.checkTurn(ctx); err != nil {
		return failed(retry, reasonPrune, err), false
	}
	objects := changes(proof.Plan, diff.Prune)
	id := fmt.Sprintf("left/%s/%s/%x", t.app.UID, c.commit, sha256.Sum256(fmt.Append(nil, proof.Pruned())))
	if err := t.account(ledger.Entry{Kind: ledger.Prune, ID: id, To: c.commit, Outcome: "Deleted", Reason: "LeftBefore", Objects: objects}); err != nil {
		return failed(retry, reasonStore, err), false
	}
	report, err := t.target.Prune(ctx, t.revision(c.objects), proof)
	t.app.Status.Inventory = refreshed(inventoryOf(report.Inventory), proof)
	if s := t.app.Status.LastSync; s != nil {
		s.Pruned += int32(report.Pruned)
	}
	if err != nil {
		return failed(retry, reasonPrune, err), false
	}
	t.cfg.Log.Info("pruned", "app", keyOf(t.app), "commit", short(c.commit), "objects", report.Pruned)
	return outcome{}, true
}

// record completes the account of a sync and tells of it.
func (t *turn) record(r *v1alpha1.SyncRecord, started time.Time, report apply.Report, err error) {
	r.Created, r.Updated = int32(report.Plan.Count(diff.Create)), int32(report.Plan.Count(diff.Update))
	r.Unchanged, r.Pruned = int32(report.Plan.Count(diff.Unchanged)), int32(report.Pruned)
	r.Finished, r.Took = now(time.Now()), metav1.Duration{Duration: time.Since(started).Round(time.Millisecond)}
	t.synced(t.app, r, err)
}

// pin keeps the content of a revision that has none kept yet.
func (t *turn) pin(r *v1alpha1.Revision, c candidate) error {
	if r == nil || r.Content != "" {
		return nil
	}
	name, err := t.put(c.all())
	if err == nil {
		r.Content = name
	}
	return err
}

func (t *turn) put(objects []apply.Object) (string, error) {
	content, err := apply.Encode(objects)
	if err != nil {
		return "", err
	}
	return t.cfg.Contents.Put(ownerOf(t.app), content)
}

// contentOf are the objects that a revision declares, as they were rendered then.
func (t *turn) contentOf(r v1alpha1.Revision) ([]apply.Object, error) {
	if c := t.w.last; c.digest == r.Digest && len(c.objects) > 0 {
		return c.objects, nil
	}
	all, err := t.kept(r)
	declared, _ := apply.Split(all)
	return declared, err
}

// kept is all that was rendered of a revision, hooks too.
func (t *turn) kept(r v1alpha1.Revision) ([]apply.Object, error) {
	content, err := t.cfg.Contents.Get(ownerOf(t.app), r.Content)
	if err != nil {
		return nil, fmt.Errorf("content of commit %s: %w", short(r.Commit), err)
	}
	return apply.Decode(content)
}

// sweep removes contents that nothing names any more, after the status that ceased to name them is written: until then a
// crash may ask for them. One that stays costs disk, nothing else.
func (e *Engine) sweep(app *v1alpha1.Application, w *work) {
	if !w.unswept {
		return
	}
	w.unswept = false
	st := app.Status
	named := map[string]bool{}
	for _, r := range st.History {
		named[r.Content] = true
	}
	if st.AppliedRevision != nil {
		named[st.AppliedRevision.Content] = true
	}
	if st.Intent != nil {
		named[st.Intent.Revision.Content], named[st.Intent.Images] = true, true
	}
	if err := e.cfg.Contents.Keep(ownerOf(app), named); err != nil {
		e.cfg.Log.Warn("old revisions could not be removed", "app", keyOf(app), "err", err)
	}
}

// remembered is how many applied revisions can be gone back to.
const remembered = 10

// remember puts a revision on top of the history.
func (t *turn) remember(r v1alpha1.Revision) {
	st := &t.app.Status
	st.History = slices.DeleteFunc(st.History, func(h v1alpha1.Revision) bool { return h.Digest == r.Digest })
	st.History = slices.Insert(st.History, 0, r)
	st.History = st.History[:min(len(st.History), remembered)]
}

func pathOf(app *v1alpha1.Application) string {
	if p := app.Spec.Source.Path; p != "" && p != "." {
		return p
	}
	return "the repository"
}
