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
	"github.com/gitopsd/gitopsd/internal/redact"
	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/source"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Preview finds out, from beside the engine, what the engine would do: by the same steps up to the first write, with the
// rights of the same accounts. It writes nothing.
type Preview struct {
	engine *Engine
	all    []v1alpha1.Application
}

// NewPreview looks with a client that may read and impersonate. All are the Applications of the instance.
func NewPreview(cfg *rest.Config, all []v1alpha1.Application) (*Preview, error) {
	cfg = unlimited(cfg)
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("build client: %w", err)
	}
	return &Preview{&Engine{cfg: Config{Client: cfg}, kube: kube, mapper: newMapper(kube), dyn: map[string]dynamic.Interface{}}, all}, nil
}

// Source is where an Application is read from, with the credentials that it names.
func (p *Preview) Source(ctx context.Context, app *v1alpha1.Application) (source.Spec, error) {
	return p.engine.sourceSpec(ctx, app)
}

// Signed says why the engine would not render a snapshot; nil when the Application wants no signatures, or it has one that counts.
func (p *Preview) Signed(ctx context.Context, app *v1alpha1.Application, s source.Snapshot) error {
	_, err := p.engine.signerOf(ctx, app, s)
	return err
}

// Request is what an Application asks to be rendered of a snapshot, as the engine would: the applied commit as the revision that
// it is, and any other as the next.
func (p *Preview) Request(ctx context.Context, app *v1alpha1.Application, s source.Snapshot) (render.Request, error) {
	req, err := p.engine.request(ctx, app, s)
	if r := app.Status.AppliedRevision; err == nil && r != nil && r.Commit == s.Commit {
		req.Helm.Revision = max(r.Number, 1)
		req.Helm.Upgrade = req.Helm.Revision > 1
	}
	return req, err
}

// Plan says what a sync of these objects would change. Revision is what they are called: a commit, or a folder.
func (p *Preview) Plan(ctx context.Context, app *v1alpha1.Application, revision string, rendered []render.Object) (diff.Plan, error) {
	held := heldOf(app.Status.Inventory)
	declared, _ := apply.Split(desiredOf(rendered))
	if len(declared) == 0 && len(held) > 0 && isTrue(app.Spec.Sync.Prune) {
		return diff.Plan{}, fmt.Errorf("%s holds no manifests; gitopsd refuses to delete all %d objects by that", pathOf(app), len(held))
	}
	target, err := p.target(app)
	if err != nil {
		return diff.Plan{}, err
	}
	c := newCandidate(revision, target.Place(desiredOf(rendered), namespaceFor(app)))
	if err := errors.Join((&work{known: apply.NewKnown()}).declare(app), checkObjects(c.all())); err != nil {
		return diff.Plan{}, err
	}
	proof, err := target.Prove(ctx, apply.Revision{Desired: c.objects, Held: held, Prune: isTrue(app.Spec.Sync.Prune), Live: unseen, Known: apply.NewKnown()})
	if err != nil {
		return diff.Plan{}, err
	}
	t := &turn{app: app, w: &work{}}
	if t.w.first, err = p.engine.nextRevision(ctx, app, true); err != nil {
		return diff.Plan{}, err
	}
	hooks := t.hooksToRun(c)
	if err := target.ProveHooks(ctx, hooks, c.objects); err != nil {
		return diff.Plan{}, err
	}
	plan := proof.Plan
	if plan.Remade, err = t.remade(ctx, target, c); err != nil {
		return diff.Plan{}, err
	}
	plan.Application, plan.Revision, plan.Notes = keyOf(app).String(), revision, slices.Concat(notesOf(app, proof, c), target.Left(c.objects, proof), target.Adopted(c.objects, proof), wavesOf(c.objects), t.hookNotes(c))
	made := map[diff.Ref]*unstructured.Unstructured{}
	for _, o := range c.objects {
		made[o.Ref()] = unlabelled(o.Unstructured)
	}
	for i, change := range plan.Changes {
		if change.Action == diff.Create {
			plan.Changes[i].Replaces = proof.Live(change.Ref) != nil
			plan.Changes[i].Fields = diff.Made(made[change.Ref])
		}
	}
	return plan.Map(redact.String), nil
}

// unlabelled is an object without the label that every one of ours has.
func unlabelled(u *unstructured.Unstructured) *unstructured.Unstructured {
	out := u.DeepCopy()
	unstructured.RemoveNestedField(out.Object, "metadata", "labels", v1alpha1.LabelApplication)
	if len(out.GetLabels()) == 0 {
		unstructured.RemoveNestedField(out.Object, "metadata", "labels")
	}
	return out
}

// notesOf says what would keep a sync from doing what is planned.
func notesOf(app *v1alpha1.Application, proof *apply.Proof, c candidate) []string {
	var out []string
	if _, ok := (&turn{app: app}).guard(proof, c); !ok {
		out = append(out, fmt.Sprintf("it would delete %d of %d objects, which gitopsd does only after: gitopsd sync %s --allow-prune", proof.Prunes(), len(app.Status.Inventory), app.Name))
	}
	st := app.Status
	if suspended(app) {
		out = append(out, "suspended: nothing is synced until gitopsd resume "+app.Name)
	}
	if windows, err := windowsOf(app); err == nil {
		if may, until, why := windows.At(time.Now()); !may {
			out = append(out, fmt.Sprintf("%s: it may begin %s, or now with: gitopsd sync %s --ignore-windows", why, atOrNever(until), app.Name))
		}
	}
	if r := st.Rejected; r != nil && r.Revision.Digest == c.digest && r.Generation == app.Generation {
		out = append(out, fmt.Sprintf("this was tried as commit %s and rolled back; it is not tried again by itself: gitopsd sync %s --retry", short(r.Revision.Commit), app.Name))
	}
	if r, ok := pinned(app); ok {
		out = append(out, fmt.Sprintf("held at commit %s by hand until a newer commit comes; go on now with: gitopsd resume %s", short(r.Commit), app.Name))
	}
	if in := st.Intent; in != nil {
		out = append(out, fmt.Sprintf("a sync of commit %s is under way (%s); what it has written so far counts as there", short(in.Revision.Commit), in.Phase))
	}
	return out
}

// Drift compares the applied revision with what is there. Content is that revision as it is kept; nil: rendered is it,
// rendered again.
func (p *Preview) Drift(ctx context.Context, app *v1alpha1.Application, content []byte, rendered []render.Object) (diff.Drift, error) {
	target, err := p.target(app)
	if err != nil {
		return diff.Drift{}, err
	}
	objects := target.Place(desiredOf(rendered), namespaceFor(app))
	if content != nil {
		if objects, err = apply.Decode(content); err != nil {
			return diff.Drift{}, err
		}
	}
	objects, _ = apply.Split(objects)
	proof, err := target.Prove(ctx, apply.Revision{Desired: objects, Held: heldOf(app.Status.Inventory), Live: unseen, Known: apply.NewKnown()})
	if err != nil {
		return diff.Drift{}, err
	}
	d := diff.Drift{Application: keyOf(app).String(), Revision: app.Status.AppliedRevision.Commit, Ours: proof.Plan.Changes}
	d.Healed, d.Fate = fateOf(app)
	d.Left = target.Left(objects, proof)
	for _, o := range objects {
		if live := proof.Live(o.Ref()); live != nil && o.GroupVersionKind().Group != v1alpha1.GroupVersion.Group {
			for _, f := range diff.AddedFields(live, o.Unstructured, v1alpha1.FieldManager) {
				d.Theirs = append(d.Theirs, diff.TheirFields{Ref: o.Ref(), Foreign: f})
			}
		}
	}
	slices.SortStableFunc(d.Theirs, func(a, b diff.TheirFields) int { return a.Ref.Compare(b.Ref) })
	return d.Map(redact.String), nil
}

// fateOf says whether drift is undone by itself, or why not.
func fateOf(app *v1alpha1.Application) (healed bool, words string) {
	switch in := app.Status.Intent; {
	case in != nil:
		return false, fmt.Sprintf("a sync of commit %s is under way (%s)", short(in.Revision.Commit), in.Phase)
	case suspended(app):
		return false, "told only, because the Application is suspended"
	case !isTrue(app.Spec.Sync.Heal):
		return false, "told only, because spec.sync.heal is false"
	}
	if windows, err := windowsOf(app); err == nil {
		if may, until, _ := windows.At(time.Now()); !may {
			return false, "told only, because it is outside of the sync windows; it may be undone " + atOrNever(until)
		}
	}
	return true, "undone by itself within seconds"
}

func (p *Preview) target(app *v1alpha1.Application) (apply.Target, error) {
	target, err := p.engine.target(app)
	target.OwnerName = func(owner string) string {
		for i := range p.all {
			if ownerOf(&p.all[i]) == owner {
				return keyOf(&p.all[i]).String()
			}
		}
		return ""
	}
	return target, err
}

// unseen has every object read anew: there is no watch.
func unseen(apply.Object) *unstructured.Unstructured { return nil }

func desiredOf(rendered []render.Object) []apply.Object {
	out := make([]apply.Object, 0, len(rendered))
	for _, o := range rendered {
		out = append(out, apply.Object{Unstructured: o.Object, Origin: o.Origin})
	}
	return out
}

// OwnerOf is the value of the label by which an Application's objects are known, and the name of its kept contents.
func OwnerOf(app *v1alpha1.Application) string { return ownerOf(app) }
