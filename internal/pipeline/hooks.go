package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/diff"
	"github.com/gitopsd/gitopsd/internal/intent"
	"github.com/gitopsd/gitopsd/internal/ledger"
	"github.com/gitopsd/gitopsd/internal/redact"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Hooks run at the points of a sync that Helm knows, one after another. What a hook does cannot be undone, so each runs once for an intent:
// that it is about to be made is written before it is, and a newer revision waits until it has ended. docs/design/hooks.md.

// event is what a sync would be to the Application, in Helm's words. The first one of a release that Helm has deployed is an upgrade of it.
func (t *turn) event(c candidate) string {
	if _, ok := pinned(t.app); ok {
		return "rollback"
	}
	if t.app.Status.AppliedRevision == nil && t.numberOf(c) == 1 {
		return "install"
	}
	return "upgrade"
}

// hooksToRun are the hooks that a sync to this revision would run, in their order.
func (t *turn) hooksToRun(c candidate) []apply.Object {
	event := t.event(c)
	return slices.Concat(apply.HooksAt(c.hooks, "pre-"+event), apply.HooksAt(c.hooks, "post-"+event))
}

// there says that a revision is the applied one, of which no hook runs again.
func (t *turn) there(c candidate) bool {
	r := t.app.Status.AppliedRevision
	return r != nil && r.Digest == c.digest
}

// hookNotes says in a plan what hooks would run.
func (t *turn) hookNotes(c candidate) []string {
	if t.there(c) {
		return nil
	}
	event := t.event(c)
	var out []string
	for _, point := range []string{"pre-" + event, "post-" + event} {
		for _, h := range apply.HooksAt(c.hooks, point) {
			out = append(out, fmt.Sprintf("hook %s would run; what it does cannot be undone", hookName(point, h)))
		}
	}
	return out
}

// remade are the objects that these hooks would delete to take their place.
func (t *turn) remade(ctx context.Context, target apply.Target, c candidate) ([]diff.Ref, error) {
	if t.there(c) {
		return nil, nil
	}
	return target.Replaced(ctx, t.hooksToRun(c))
}

func hookName(point string, o apply.Object) string { return point + " " + o.Ref().String() }

// begun is when an intent had done with hooks before its first write; the time that a sync may take counts from there.
func begun(in *v1alpha1.Intent) time.Time {
	if in.Hooks != nil && in.Hooks.Ended != nil && in.Written == nil {
		return in.Hooks.Ended.Time
	}
	return in.Started.Time
}

// hookRuns says that an intent must not be interrupted: what a hook has half done, nobody undoes.
func hookRuns(in *v1alpha1.Intent) bool { return in.Hooks != nil && in.Hooks.Running != "" }

func hookFailed(in *v1alpha1.Intent) bool { return in.Hooks != nil && in.Hooks.Failed }

// ranHooks are the hooks of an intent that ended well, as the ledger names them.
func ranHooks(in *v1alpha1.Intent) []ledger.ObjectChange {
	var out []ledger.ObjectChange
	if in.Hooks == nil {
		return nil
	}
	for _, ran := range in.Hooks.Ran {
		if point, ref, found := strings.Cut(ran, " "); found {
			out = append(out, ledger.ObjectChange{Object: ref, Action: "ran as " + point})
		}
	}
	return out
}

// passHooks takes an intent past one point of its sync, as far as it goes without waiting. Next says that the phase has changed.
// It may have written the status, so that the intent is another object afterwards.
func (t *turn) passHooks(ctx context.Context, when string) (out outcome, next, passed bool) {
	in := t.app.Status.Intent
	if in.Hooks == nil || slices.Contains(in.Hooks.Ran, when+"-"+in.Hooks.Event) {
		return outcome{}, false, true
	}
	all, err := t.kept(in.Revision)
	if err != nil {
		return outcome{retry, v1alpha1.Phase(in.Phase), reasonStore, err.Error()}, false, false
	}
	_, hooks := apply.Split(all)
	t.live.follow(hooks)
	waits, err := t.runHooks(ctx, t.intentHooks, when, hooks)
	in = t.app.Status.Intent
	switch {
	case err != nil && ctx.Err() != nil:
		return outcome{class: retry}, false, false
	case err != nil && passesBy(err) && time.Since(waited(in)) < timeoutOf(t.app):
		return outcome{retry, v1alpha1.Phase(in.Phase), reasonHook, "tried again: " + err.Error()}, false, false
	case err != nil:
		out, next = t.failHooks(ctx, in, err)
		return out, next, false
	case waits != "":
		return outcome{soon, v1alpha1.Phase(in.Phase), reasonHook, waits}, false, false
	}
	return outcome{}, false, true
}

// waited is since when an intent waits for what its hooks need.
func waited(in *v1alpha1.Intent) time.Time {
	if in.Written != nil {
		return in.Written.Time
	}
	return begun(in)
}

// failHooks ends the way forward. One that is held already stays so, with what keeps it from arriving.
func (t *turn) failHooks(ctx context.Context, in *v1alpha1.Intent, err error) (outcome, bool) {
	in.Hooks.Failed, in.Hooks.Running = true, ""
	if intent.Phase(in.Phase) == intent.Held {
		in.Reason, in.Message = reasonHookFailed, redact.String(err.Error())
		return outcome{waiting, v1alpha1.Held, in.Reason, in.Message}, false
	}
	return t.fail(ctx, in, reasonHookFailed, err, !passesBy(err))
}

// passesBy tells errors of the API that may be over in a while from a hook that ran and failed.
func passesBy(err error) bool {
	var failure *hookFailure
	return !errors.As(err, &failure) && apply.Transient(err)
}

// progress is how far hooks have come. It is asked for anew each time: writing the status replaces what it lies in.
type progress func() *v1alpha1.HookRun

func (t *turn) intentHooks() *v1alpha1.HookRun { return t.app.Status.Intent.Hooks }

func (t *turn) deletionProgress() *v1alpha1.HookRun { return t.app.Status.Deletion }

// hookFailure is a hook that ran and failed, or did not end.
type hookFailure struct{ name, why string }

func (h *hookFailure) Error() string { return fmt.Sprintf("hook %s failed: %s", h.name, h.why) }

// runHooks runs the hooks of one point, one after another, and tidies up behind them. Waits says what is waited for, if anything.
func (t *turn) runHooks(ctx context.Context, at progress, when string, hooks []apply.Object) (waits string, err error) {
	point := when + "-" + at().Event
	list := apply.HooksAt(hooks, point)
	for n, h := range list {
		name := hookName(point, h)
		if slices.Contains(at().Ran, name) {
			continue
		}
		if waits, err := t.runHook(ctx, at, name, h); err != nil || waits != "" {
			if failure := (*hookFailure)(nil); errors.As(err, &failure) {
				err = errors.Join(err, t.target.TidyHook(ctx, h, false), t.tidyHooks(ctx, list[:n]))
			}
			return waits, err
		}
		ended, run := now(time.Now()), at()
		run.Ran, run.Running, run.Predecessor, run.UID, run.Ended = append(run.Ran, name), "", "", "", &ended
		t.cfg.Log.Info("hook ended", "app", keyOf(t.app), "hook", name)
	}
	if len(list) > 0 { // that they have run is written before anything of them goes
		if err := t.write(ctx, t.app, t.w); err != nil {
			return "", fmt.Errorf("write how far the hooks are: %w", err)
		}
	}
	if err := t.tidyHooks(ctx, list); err != nil {
		return "", err
	}
	at().Ran = append(at().Ran, point)
	return "", nil
}

// tidyHooks tidies up behind hooks that ended well.
func (t *turn) tidyHooks(ctx context.Context, ran []apply.Object) error {
	for _, h := range ran {
		if err := t.target.TidyHook(ctx, h, true); err != nil {
			return err
		}
	}
	return nil
}

// runHook takes one hook towards its end. It has ended well when there is neither an error nor anything to wait for.
func (t *turn) runHook(ctx context.Context, at progress, name string, h apply.Object) (waits string, err error) {
	live, err := t.target.Hook(ctx, h)
	if err != nil {
		return "", err
	}
	if run := at(); run.Running != name {
		run.Running, run.UID, run.Predecessor = name, "", ""
		if live != nil {
			run.Predecessor = string(live.GetUID())
		}
		if err := t.write(ctx, t.app, t.w); err != nil {
			return "", fmt.Errorf("write which hook is about to run: %w", err)
		}
	}
	run := at()
	if live == nil && run.UID != "" {
		if apply.Vanishes(h) {
			return "", nil
		}
		return "", &hookFailure{name, "it was deleted before its end was seen"}
	}
	if live == nil || string(live.GetUID()) == run.Predecessor || apply.MakerOf(live).Intent != t.target.Maker.Intent {
		if err := t.checkTurn(ctx); err != nil {
			return "", err
		}
		made, err := t.target.StartHook(ctx, h, live)
		if err != nil || made == nil {
			return "hook " + name + " waits until its predecessor is gone", err
		}
		t.cfg.Log.Info("hook begins", "app", keyOf(t.app), "hook", name)
		live = made
	}
	run.UID = string(live.GetUID())
	return t.awaitHook(live, name)
}

// awaitHook says whether a hook has ended.
func (t *turn) awaitHook(live *unstructured.Unstructured, name string) (waits string, err error) {
	how, why := apply.HookEnded(live)
	switch {
	case how == "Failed":
		return "", &hookFailure{name, why}
	case how == "" && time.Since(live.GetCreationTimestamp().Time) > timeoutOf(t.app):
		return "", &hookFailure{name, "it has not ended within " + timeoutOf(t.app).String() + "; raise spec.sync.timeout if it needs longer"}
	case how == "":
		return "hook " + name + " is running", nil
	}
	return "", nil
}

// deletionHooks runs the hooks of one point of the Application's deletion; passed says that they are over, or that a person wants none.
func (t *turn) deletionHooks(ctx context.Context, when string) (out outcome, passed bool) {
	st := &t.app.Status
	if st.AppliedRevision == nil || t.app.Annotations[v1alpha1.AnnotationSkipHooks] == "true" {
		return outcome{}, true
	}
	all, err := t.kept(*st.AppliedRevision)
	if err != nil {
		return failed(retry, reasonStore, err), false
	}
	_, hooks := apply.Split(all)
	if len(apply.HooksAt(hooks, "pre-delete"))+len(apply.HooksAt(hooks, "post-delete")) == 0 {
		return outcome{}, true
	}
	if st.Deletion == nil {
		st.Deletion = &v1alpha1.HookRun{Event: "delete"}
	}
	if slices.Contains(st.Deletion.Ran, when+"-delete") {
		return outcome{}, true
	}
	t.target.Maker.Intent = "delete"
	t.live.follow(hooks)
	waits, err := t.runHooks(ctx, t.deletionProgress, when, hooks)
	switch {
	case err != nil:
		return failed(retry, reasonHookFailed, fmt.Errorf("%w; to delete without hooks, annotate the Application with %s: \"true\"", err, v1alpha1.AnnotationSkipHooks)), false
	case waits != "":
		return outcome{soon, st.Phase, reasonHook, waits}, false
	}
	return outcome{}, true
}

// dropHooks deletes what hooks have left behind.
func (t *turn) dropHooks(ctx context.Context) error {
	r := t.app.Status.AppliedRevision
	if r == nil {
		return nil
	}
	all, err := t.kept(*r)
	if err != nil {
		return nil //nolint:nilerr // what cannot be read any more cannot be tidied up by name; nothing of it is held
	}
	_, hooks := apply.Split(all)
	var errs []error
	for _, h := range hooks {
		errs = append(errs, t.target.DropHook(ctx, h))
	}
	return errors.Join(errs...)
}
