package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/diff"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// parallel is how many requests of one Application are under way at once.
const parallel = 8

// Revision is what an Application asks for and what it has.
type Revision struct {
	Desired []Object
	Held    []Held
	Prune   bool
	// Wave is the one that Apply writes; nil: all of them, of which the order does not matter any more.
	Wave *int
	// Live is the watched state of an object, nil when it is not watched or absent.
	Live  func(Object) *unstructured.Unstructured
	Known *Known
}

// Proof is a plan that the API has been asked about.
type Proof struct {
	Plan    diff.Plan
	changes map[diff.Ref]diff.Change
	live    map[diff.Ref]*unstructured.Unstructured // as read for the proof; absent objects are not in it
	prune   []Held                                  // in the order in which they go
	held    []Held
}

// Live is the state of an object that the proof saw, or nil.
func (p *Proof) Live(r diff.Ref) *unstructured.Unstructured { return p.live[r] }

// Prunes is how many objects left the revision.
func (p *Proof) Prunes() int { return len(p.prune) }

// Pruned are the names of these objects.
func (p *Proof) Pruned() []diff.Ref {
	var out []diff.Ref
	for _, h := range p.prune {
		out = append(out, h.Ref)
	}
	return out
}

// Held is the inventory of a revision of which every object is there.
func (p *Proof) Held(objects []Object) []Held {
	out := make([]Held, 0, len(objects))
	for _, o := range objects {
		h := Held{Ref: o.Ref(), Version: o.GroupVersionKind().Version}
		if how := Ended(p.held, o); how != "" {
			h.Finished = how + "/" + declared(o)
		}
		if live := p.live[o.Ref()]; live != nil {
			h.UID = string(live.GetUID())
		}
		out = append(out, h)
	}
	return out
}

// Prove finds out what each object would change, by a server-side dry-run for those of which that is not known.
// Nothing is written. Every refusal is reported at once, each with the object and its file.
func (t Target) Prove(ctx context.Context, r Revision) (*Proof, error) {
	made, answers := madeHere(r.Desired), make([]answer, len(r.Desired))
	t.answers(ctx, r, made, answers, true)
	made.define(r.Desired, answers)
	t.answers(ctx, r, made, answers, false)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p := &Proof{held: r.Held, changes: map[diff.Ref]diff.Change{}, live: map[diff.Ref]*unstructured.Unstructured{}}
	var refusals []error
	for n, a := range answers {
		if a.err != nil {
			refusals = append(refusals, a.err)
		}
		if a.change.Action == diff.Update {
			a.change.Remains = storedAnew(r.Desired[n], a.live)
		}
		p.note(r.Desired[n].Ref(), a)
	}
	if refusals = append(refusals, t.addUp(ctx, r.Desired, answers)...); len(refusals) > 0 {
		slices.SortFunc(refusals, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		return nil, errors.Join(refusals...)
	}
	if err := t.planPrune(ctx, p, r); err != nil {
		return nil, err
	}
	for _, c := range p.changes {
		p.Plan.Changes = append(p.Plan.Changes, c)
	}
	p.Plan.Sort()
	return p, nil
}

// answers finds out about the objects that define kinds, or about all others: what kinds will be is known before their objects are looked at.
func (t Target) answers(ctx context.Context, r Revision, made provisions, answers []answer, definitions bool) {
	var group errgroup.Group // each goroutine writes its own answer
	group.SetLimit(parallel)
	for n, o := range r.Desired {
		if (o.Ref().GroupKind() == crdKind) != definitions {
			continue
		}
		live := r.Live(o)
		agrees := r.Known.Agrees(o, live) && made.definitions[o.Ref().GroupKind()] == nil
		if agrees && !r.Known.Lags(o, live) {
			answers[n] = answer{diff.Change{Ref: o.Ref(), Action: diff.Unchanged}, live, nil}
			continue
		}
		ended := Ended(r.Held, o) != ""
		group.Go(func() error {
			if ended && leaves(live) && t.isGone(ctx, o) {
				answers[n] = done(o)
			} else if agrees || (live == nil && r.Known.has(o)) {
				answers[n] = t.reread(ctx, o, made, r.Known)
			} else {
				answers[n] = t.prove(ctx, o, live != nil, made, r.Known)
			}
			return nil
		})
	}
	_ = group.Wait() // the goroutines return nil: refusals are in the answers
}

func leaves(live *unstructured.Unstructured) bool {
	return live == nil || live.GetDeletionTimestamp() != nil
}

// isGone says that an object is certainly not there, or about to go.
func (t Target) isGone(ctx context.Context, o Object) bool {
	m, err := t.mapping(o.Ref().GroupKind(), o.GroupVersionKind().Version)
	if err != nil {
		return false
	}
	live, err := t.get(ctx, m, o.Ref())
	return err == nil && leaves(live)
}

// answer is what the API said about one object.
type answer struct {
	change diff.Change
	live   *unstructured.Unstructured
	err    error
}

func (p *Proof) note(r diff.Ref, a answer) {
	p.changes[r] = a.change
	if a.live != nil {
		p.live[r] = a.live
	}
}

// planPrune finds what the Application held and the revision does not name, but for objects that ask to stay.
func (t Target) planPrune(ctx context.Context, p *Proof, r Revision) error {
	if !r.Prune {
		return nil
	}
	var errs []error
	waves := map[diff.Ref]int{}
	for _, h := range r.Held {
		if _, wanted := p.changes[h.Ref]; wanted || t.vital(h.Ref) || (t.Spoken != nil && t.Spoken(h.Ref)) {
			continue
		}
		live, err := t.liveOf(ctx, h, r.Live)
		if err != nil {
			errs = append(errs, fmt.Errorf("read %s, which left the revision: %w", h.Ref, err))
		}
		if err != nil || live != nil && stays(live) {
			continue
		}
		if live != nil {
			waves[h.Ref] = waveOf(live)
		}
		p.prune = append(p.prune, h)
		if h.UID != "" {
			p.Plan.Changes = append(p.Plan.Changes, diff.Change{Ref: h.Ref, Action: diff.Prune})
		}
	}
	p.prune = lastFirst(p.prune, waves)
	return errors.Join(errs...)
}

func (t Target) vital(r diff.Ref) bool { return t.Vital != nil && t.Vital(r) }

// KeepAnnotation on a live object, with the value never, keeps it when it leaves the repository. helmPolicy, with the value keep, is what charts say; it
// keeps the object also when its Application is deleted with all others.
const (
	KeepAnnotation = "gitopsd.io/prune"
	helmPolicy     = "helm.sh/resource-policy"
)

func stays(live *unstructured.Unstructured) bool {
	return live.GetAnnotations()[KeepAnnotation] == "never" || live.GetAnnotations()[helmPolicy] == "keep"
}

// liveOf is an object of the inventory as it is, or nil.
func (t Target) liveOf(ctx context.Context, h Held, watched func(Object) *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(h.Ref.GroupKind().WithVersion(h.Version))
	u.SetNamespace(h.Ref.Namespace)
	u.SetName(h.Ref.Name)
	if live := watched(Object{Unstructured: u}); live != nil {
		return live, nil
	}
	m, err := t.mapping(h.Ref.GroupKind(), h.Version)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return t.get(ctx, m, h.Ref)
}

// prove asks the API about one object. Seen says that a watch knows it.
func (t Target) prove(ctx context.Context, o Object, seen bool, made provisions, known *Known) answer {
	ref := o.Ref()
	deferred := func(live *unstructured.Unstructured, why string) answer {
		c := diff.Change{Ref: ref, Action: diff.Create, Deferred: why}
		if live != nil && live.GetDeletionTimestamp() == nil {
			c.Action = diff.Update
		}
		return answer{c, live, nil}
	}
	refuse := func(err error) answer { return answer{err: refused(o, err)} }
	if err := checkSecret(o.Unstructured); err != nil {
		return answer{err: &Refusal{Ref: ref, Origin: o.Origin, Err: err}}
	}
	unknown := func() answer { // in this version
		before, err := t.before(ctx, o, made)
		if err != nil {
			return refuse(err)
		}
		return deferred(before, "its kind is defined in the same revision")
	}
	m, err := t.mapping(ref.GroupKind(), o.GroupVersionKind().Version)
	if meta.IsNoMatchError(err) {
		return unknown()
	}
	if err != nil {
		return refuse(err)
	}
	if !seen && made.definitions[ref.GroupKind()] == nil { // probably absent, which the dry-run tells too: what it would create has no version
		if would, err := t.dryRun(ctx, m, o, nil); err == nil && would.GetResourceVersion() == "" {
			return answer{change: diff.Change{Ref: ref, Action: diff.Create}}
		}
	}
	live, err := t.get(ctx, m, ref)
	if err != nil {
		return refuse(err)
	}
	if live != nil && live.GetDeletionTimestamp() != nil {
		return deferred(live, "its predecessor is being deleted")
	}
	if err := t.allows(ctx, o, live, made); err != nil {
		return refuse(err)
	}
	live, would, err := t.compare(ctx, m, o, live)
	if noSuchPage(err) { // it has gone since the API was asked for its kinds
		t.Mapper.Reset()
		return unknown()
	}
	if why := made.excuses(o, live, err); why != "" {
		return deferred(live, why)
	}
	switch {
	case live != nil && apierrors.IsInvalid(err):
		return t.unchangeable(ctx, m, o, live, err)
	case err != nil:
		return refuse(err)
	case live == nil:
		return answer{change: diff.Change{Ref: ref, Action: diff.Create}}
	}
	fields := diff.Fields(live, would)
	if setsReplicas(fields) && t.Scaled.by(ref) == "" {
		switch left, err := t.Scaled.look(ctx, ref, made.autoscalers); {
		case err != nil:
			return refuse(err)
		case left:
			return t.prove(ctx, o, true, made, known)
		}
	}
	if len(fields) > 0 {
		return answer{diff.Change{Ref: ref, Action: diff.Update, Fields: fields}, live, nil}
	}
	known.agree(o, live)
	return answer{diff.Change{Ref: ref, Action: diff.Unchanged}, live, nil}
}

// before is what an object of a version that the revision itself defines is in another version, or nil.
func (t Target) before(ctx context.Context, o Object, made provisions) (*unstructured.Unstructured, error) {
	if err := made.defines(ctx, o); err != nil {
		return nil, err
	}
	m, err := t.Mapper.RESTMapping(o.Ref().GroupKind())
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	live, err := t.get(ctx, m, o.Ref())
	if err != nil || live == nil {
		return nil, err
	}
	return live, t.allows(ctx, o, live, made)
}

// allows says what does not need the API's word: whose the object is, and what the revision itself says of its kind.
func (t Target) allows(ctx context.Context, o Object, live *unstructured.Unstructured, made provisions) error {
	if live != nil {
		if owner := live.GetLabels()[t.Label]; owner != "" && owner != t.Owner {
			if name := t.OwnerName(owner); name != "" && (t.Takes == nil || !t.Takes(owner, o.Ref())) {
				return fmt.Errorf("it belongs to Application %s; let only one Application name it", name)
			}
		}
		if err := t.adopts(o, live); err != nil {
			return err
		}
	}
	if d := made.definitions[o.Ref().GroupKind()]; d != nil {
		return d.check(ctx, o, live != nil)
	}
	return nil
}

// compare is what the object is and what a sync would make of it, of one and the same version: a controller may write between
// the two questions, and what it wrote would count as ours to change.
func (t Target) compare(ctx context.Context, m *meta.RESTMapping, o Object, live *unstructured.Unstructured) (was, would *unstructured.Unstructured, err error) {
	const tries = 3
	for range tries {
		if would, err = t.dryRun(ctx, m, o, live); err != nil || live == nil || would.GetResourceVersion() == live.GetResourceVersion() {
			break
		}
		if live, err = t.get(ctx, m, o.Ref()); err != nil {
			break
		}
	}
	return live, would, err
}

// reread reads an object that was as desired, because the watch may not have seen our own last write of it yet.
func (t Target) reread(ctx context.Context, o Object, made provisions, known *Known) answer {
	m, err := t.mapping(o.Ref().GroupKind(), o.GroupVersionKind().Version)
	if err != nil { // it was there in another version, perhaps
		return t.prove(ctx, o, false, made, known)
	}
	live, err := t.get(ctx, m, o.Ref())
	if err != nil {
		return answer{err: refused(o, err)}
	}
	if !known.Agrees(o, live) {
		return t.prove(ctx, o, live != nil, made, known)
	}
	return answer{diff.Change{Ref: o.Ref(), Action: diff.Unchanged}, live, nil}
}

// get reads an object; nil without an error when there is none.
func (t Target) get(ctx context.Context, m *meta.RESTMapping, r diff.Ref) (*unstructured.Unstructured, error) {
	live, err := t.resource(m, r.Namespace).Get(ctx, r.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return live, err
}

// dryRun asks what an apply would make of an object as it is; at is nil when it is absent.
func (t Target) dryRun(ctx context.Context, m *meta.RESTMapping, o Object, at *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	return t.serverSideApply(ctx, m, t.with(o, at), true, metav1.DryRunAll)
}

func (t Target) serverSideApply(ctx context.Context, m *meta.RESTMapping, o Object, force bool, dryRun ...string) (*unstructured.Unstructured, error) {
	body, err := o.MarshalJSON()
	if err != nil {
		return nil, err
	}
	return t.resource(m, o.GetNamespace()).Patch(ctx, o.GetName(), types.ApplyPatchType, body,
		metav1.PatchOptions{FieldManager: t.Manager, Force: &force, DryRun: dryRun, FieldValidation: metav1.FieldValidationStrict})
}

// Refusal is an object that cannot be applied, and why.
type Refusal struct {
	Ref    diff.Ref
	Origin string
	Err    error
}

func (r *Refusal) Error() string {
	if r.Origin == "" {
		return fmt.Sprintf("%s: %v", r.Ref, r.Err)
	}
	return fmt.Sprintf("%s: %s: %v", r.Origin, r.Ref, r.Err)
}

func (r *Refusal) Unwrap() error { return r.Err }

func refused(o Object, err error) error {
	return &Refusal{Ref: o.Ref(), Origin: o.Origin, Err: plain(o, err)}
}

// plain takes from an API error what the reader knows already, and values of Secrets.
func plain(o Object, err error) error {
	var ours errTransient
	if o.Ref().GroupKind() == secretKind && !errors.As(err, &ours) && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
		if Transient(err) {
			return errTransient{"the API did not take this Secret; tried again (its words are not shown)"}
		}
		return &apiMessage{"the API refuses this Secret; look at its type and at the encoding of its data (values are not shown)", nil}
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return err
	}
	msg := status.Status().Message
	if _, after, found := strings.Cut(msg, " is invalid: "); found {
		msg = after
	}
	if apierrors.IsNotFound(err) && strings.HasPrefix(msg, "namespaces ") {
		msg = fmt.Sprintf("namespace %s does not exist; add it to the repository or create it", o.GetNamespace())
	}
	return &apiMessage{msg, err}
}

// apiMessage says an API error shorter and keeps it for errors.As.
type apiMessage struct {
	text string
	err  error
}

func (m *apiMessage) Error() string { return m.text }
func (m *apiMessage) Unwrap() error { return m.err }
