package apply

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/gitopsd/gitopsd/internal/diff"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Hooks are objects that are no part of what a revision declares: they run at a point of its sync. The annotations, the events and their
// meaning are Helm's: https://helm.sh/docs/topics/charts_hooks/.
const (
	hookAnnotation       = "helm.sh/hook"
	hookWeightAnnotation = "helm.sh/hook-weight"
	hookDeleteAnnotation = "helm.sh/hook-delete-policy"
)

// When a hook is deleted. Without a policy it goes before it is made again.
const (
	beforeCreation = "before-hook-creation"
	hookSucceeded  = "hook-succeeded"
	hookFailed     = "hook-failed"
)

// Split tells what a revision declares from its hooks; both keep their order.
func Split(objects []Object) (declared, hooks []Object) {
	if !slices.ContainsFunc(objects, isHook) {
		return objects, nil
	}
	for _, o := range objects {
		if isHook(o) {
			hooks = append(hooks, o)
		} else {
			declared = append(declared, o)
		}
	}
	return declared, hooks
}

func isHook(o Object) bool {
	_, found := o.GetAnnotations()[hookAnnotation]
	return found
}

// HooksAt are the hooks of an event (pre-install, post-upgrade …) in the order in which they run: by weight, then by name.
func HooksAt(hooks []Object, event string) []Object {
	out := slices.DeleteFunc(slices.Clone(hooks), func(o Object) bool { return !slices.Contains(listOf(o, hookAnnotation), event) })
	slices.SortStableFunc(out, func(a, b Object) int {
		return cmp.Or(cmp.Compare(hookWeight(a), hookWeight(b)), cmp.Compare(a.GetName(), b.GetName()))
	})
	return out
}

// hookWeight is 0 where it is no integer, as Helm has it.
func hookWeight(o Object) int {
	n, _ := strconv.Atoi(strings.TrimSpace(o.GetAnnotations()[hookWeightAnnotation]))
	return n
}

func listOf(o Object, annotation string) []string {
	var out []string
	for part := range strings.SplitSeq(o.GetAnnotations()[annotation], ",") {
		out = append(out, strings.ToLower(strings.TrimSpace(part)))
	}
	return out
}

// deletes says whether a hook has a delete policy.
func deletes(o Object, policy string) bool {
	if o.GetAnnotations()[hookDeleteAnnotation] == "" {
		return policy == beforeCreation
	}
	return slices.Contains(listOf(o, hookDeleteAnnotation), policy)
}

// ProveHooks asks whether the API would take hooks, beside the objects of their revision. What stands on something that the revision makes
// is not asked about.
func (t Target) ProveHooks(ctx context.Context, hooks, desired []Object) error {
	made := madeHere(slices.Concat(desired, hooks))
	var errs []error
	for _, o := range hooks {
		m, err := t.mapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
		if _, comes := made.kinds[o.GroupVersionKind().GroupKind()]; meta.IsNoMatchError(err) && comes {
			continue
		}
		if err == nil {
			err = t.dryRunHook(ctx, m, o)
		}
		if err != nil && (!apierrors.IsNotFound(err) || !made.namespaces[o.GetNamespace()]) {
			if ours := (*Refusal)(nil); !errors.As(err, &ours) {
				err = refused(o, err)
			}
			errs = append(errs, fmt.Errorf("hook %w", err))
		}
	}
	return errors.Join(errs...)
}

// dryRunHook asks about a hook under its name, or, where that is taken by an earlier run, as a new object.
func (t Target) dryRunHook(ctx context.Context, m *meta.RESTMapping, o Object) error {
	live, err := t.get(ctx, m, o.Ref())
	switch {
	case err != nil:
		return err
	case live != nil:
		if deletes(o, beforeCreation) {
			if err := t.yields(o, live); err != nil {
				return err
			}
		}
		return t.dryRunAnew(ctx, m, o)
	}
	_, err = t.dryRun(ctx, m, o, nil)
	return err
}

// Hook is the state of a hook in the API, nil when it is not there.
func (t Target) Hook(ctx context.Context, o Object) (*unstructured.Unstructured, error) {
	m, err := t.mapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return t.get(ctx, m, o.Ref())
}

// StartHook makes a hook, or asks the one that an earlier run has left to go; nil while that is still there.
func (t Target) StartHook(ctx context.Context, o Object, before *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	m, err := t.mapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
	switch {
	case err != nil:
		return nil, err
	case before == nil:
		live, err := t.create(ctx, m, o)
		if err != nil {
			return nil, refused(o, err)
		}
		return live, nil
	case before.GetDeletionTimestamp() != nil:
		return nil, nil
	case !deletes(o, beforeCreation):
		return nil, &Refusal{Ref: o.Ref(), Origin: o.Origin, Err: &apiMessage{"the hook is there from before, and its delete policy keeps it; add " + beforeCreation + ", or delete it", nil}}
	}
	if err := t.yields(o, before); err != nil {
		return nil, err
	}
	_, err = t.deleteBy(ctx, m, before, metav1.DeletePropagationForeground, func(now *unstructured.Unstructured) bool { return now.GetUID() == before.GetUID() })
	return nil, err
}

// yields says why an object that has a hook's name may not be deleted for it: somebody else counts on it, or much would go with it. What Helm left of an earlier
// run of the hook has no mark by which it could be told; that goes, as with Helm.
func (t Target) yields(o Object, live *unstructured.Unstructured) error {
	owner := live.GetLabels()[t.Label]
	other := ""
	if owner != "" && owner != t.Owner {
		other = t.OwnerName(owner)
	}
	why := ""
	switch {
	case o.Ref().GroupKind() == crdKind: // Helm deletes none either
		why = "the CustomResourceDefinition is there, and a hook does not delete one: every object of its kind would go with it; make it no hook (a chart has the folder crds/), or delete it yourself"
	case owner == t.Owner:
	case other != "":
		why = fmt.Sprintf("an object of the hook's name is there that Application %s made; rename one of the two", other)
	case !isHook(Object{Unstructured: live}):
		why = "an object of the hook's name is there that is no hook of this Application; rename one of the two"
	case t.adopts(o, live) != nil:
		why = fmt.Sprintf("an object of the hook's name is there, made by %s; it would be deleted, and this Application takes nothing over (spec.sync.adopt, %s); delete it yourself, or rename one of the two",
			MadeByWhom(live), AdoptAnnotation)
	}
	if why == "" {
		return nil
	}
	return &Refusal{Ref: o.Ref(), Origin: o.Origin, Err: &apiMessage{why, nil}}
}

// Replaced names the objects that hooks would delete to take their place.
func (t Target) Replaced(ctx context.Context, hooks []Object) ([]diff.Ref, error) {
	var out []diff.Ref
	for _, o := range hooks {
		live, err := t.Hook(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("read hook %s: %w", o.Ref(), err)
		}
		if live != nil && deletes(o, beforeCreation) && t.yields(o, live) == nil {
			out = append(out, o.Ref())
		}
	}
	return out, nil
}

// HookEnded says how a live hook ended: "Complete", "Failed" with the reason, or "" while it runs. What is neither a Job nor a Pod has ended as soon as
// it is there.
func HookEnded(live *unstructured.Unstructured) (how, why string) {
	switch live.GroupVersionKind().GroupKind() {
	case jobKind:
		how := Ending(live)
		return how, conditionWords(live, how)
	case podKind:
		phase, _, _ := unstructured.NestedString(live.Object, "status", "phase")
		message, _, _ := unstructured.NestedString(live.Object, "status", "message")
		return map[string]string{"Succeeded": "Complete", "Failed": "Failed"}[phase], message
	}
	return "Complete", ""
}

func conditionWords(u *unstructured.Unstructured, kind string) string {
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range list {
		if c, ok := c.(map[string]any); ok && c["type"] == kind {
			return fmt.Sprintf("%v: %v", c["reason"], c["message"])
		}
	}
	return ""
}

// Vanishes says that a hook may go by itself once it has ended.
func Vanishes(o Object) bool {
	_, found, _ := unstructured.NestedFieldNoCopy(o.Object, "spec", "ttlSecondsAfterFinished")
	return found && o.Ref().GroupKind() == jobKind
}

// TidyHook deletes a hook that this Application made, after a run that ended well or not, where its policy says so.
func (t Target) TidyHook(ctx context.Context, o Object, succeeded bool) error {
	policy := hookFailed
	if succeeded {
		policy = hookSucceeded
	}
	if !deletes(o, policy) {
		return nil
	}
	return t.DropHook(ctx, o)
}

// DropHook deletes a hook that this Application made, unless every object of a kind would go with it.
func (t Target) DropHook(ctx context.Context, o Object) error {
	if o.Ref().GroupKind() == crdKind {
		return nil
	}
	live, err := t.Hook(ctx, o)
	if err != nil || live == nil || MakerOf(live).Application != t.Maker.Application {
		return err
	}
	_, err = t.Delete(ctx, Held{Ref: o.Ref(), Version: o.GroupVersionKind().Version, UID: string(live.GetUID())})
	return err
}
