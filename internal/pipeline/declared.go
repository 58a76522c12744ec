package pipeline

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/diff"
	"github.com/gitopsd/gitopsd/internal/health"
	"github.com/gitopsd/gitopsd/internal/window"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// declared is what a spec says in languages of its own, compiled.
type declared struct {
	from   *v1alpha1.HealthPolicy
	health *health.Rules
	ignore []v1alpha1.Ignored

	windows window.Windows
	closed  bool // the windows cannot be read: nothing begins by itself
}

// declare compiles what the spec declares, where it has changed. A mistake in it is told before anything is done by it.
func (w *work) declare(app *v1alpha1.Application) error {
	if !reflect.DeepEqual(w.declared.ignore, app.Spec.Ignore) { // what was found equal was so by other rules
		w.known.Forget()
		w.declared.ignore = app.DeepCopy().Spec.Ignore
	}
	if _, err := ignoredOf(app); err != nil {
		return err
	}
	windows, err := windowsOf(app)
	if w.declared.windows, w.declared.closed = windows, err != nil; err != nil {
		return err
	}
	if d := w.declared; d.from != nil && reflect.DeepEqual(*d.from, app.Spec.Health) {
		return nil
	}
	var rules []health.Rule
	for _, r := range app.Spec.Health.Rules {
		rules = append(rules, health.Rule(r))
	}
	compiled, err := health.Compile(rules)
	if err != nil {
		return fmt.Errorf("spec.health of Application %s: %w", keyOf(app), err)
	}
	w.declared.from, w.declared.health = app.Spec.Health.DeepCopy(), compiled
	return nil
}

// ignoredOf are the fields that an Application leaves to others.
func ignoredOf(app *v1alpha1.Application) ([]apply.Ignored, error) {
	var out []apply.Ignored
	var errs []error
	for n, i := range app.Spec.Ignore {
		if len(i.JSONPointers)+len(i.Managers) == 0 {
			errs = append(errs, fmt.Errorf("spec.ignore[%d] of Application %s names no field; give it jsonPointers or managers", n, keyOf(app)))
		}
		ignored := apply.Ignored{Group: i.Group, Kind: i.Kind, Namespace: i.Namespace, Name: i.Name, Managers: i.Managers}
		for _, text := range i.JSONPointers {
			p, err := diff.ParsePointer(text)
			if err != nil {
				errs = append(errs, fmt.Errorf("spec.ignore[%d].jsonPointers of Application %s: %w", n, keyOf(app), err))
				continue
			}
			ignored.Pointers = append(ignored.Pointers, p)
		}
		out = append(out, ignored)
	}
	return out, errors.Join(errs...)
}

// refuseSpec says that a spec cannot be acted on. What runs is looked after by the rules that are built in, but an open intent
// stays where it is: by which rules it is to be judged is not known.
func (e *Engine) refuseSpec(ctx context.Context, app *v1alpha1.Application, w *work, err error) outcome {
	out := failed(stalled, reasonInvalid, err)
	if app.Status.Intent != nil || suspended(app) {
		return out
	}
	builtIn, err := health.Compile(nil)
	if err != nil {
		panic(err) // there is nothing in it
	}
	w.declared.from, w.declared.health = nil, builtIn
	return e.keep(ctx, app, w, out)
}

// checkObjects tells mistakes in the annotations by which objects speak to the engine, all at once.
func checkObjects(objects []apply.Object) error {
	var errs []error
	for _, o := range objects {
		if err := errors.Join(health.CheckAnnotation(o.Unstructured), apply.CheckWave(o.Unstructured), apply.CheckAdopt(o.Unstructured)); err != nil {
			errs = append(errs, &apply.Refusal{Ref: o.Ref(), Origin: o.Origin, Err: err})
		}
	}
	return errors.Join(errs...)
}

// observe tells the health of what a suspended Application has applied. It asks the watches alone and writes no object.
func (e *Engine) observe(ctx context.Context, app *v1alpha1.Application, w *work) {
	r := app.Status.AppliedRevision
	if r == nil {
		return
	}
	t := &turn{Engine: e, app: app, w: w, live: e.live.as(userOf(app))}
	objects, err := t.contentOf(*r)
	if err != nil {
		e.cfg.Log.Warn("the health of a suspended Application cannot be told", "app", keyOf(app), "err", err)
		return
	}
	t.live.follow(objects)
	t.health(ctx, nil, objects)
}

// awaitsConsumer says that an object is a claim whose volume is made with the first pod that uses it.
func (t *turn) awaitsConsumer(ctx context.Context, live *unstructured.Unstructured) bool {
	name, ok := health.ClassOf(live)
	if !ok {
		return false
	}
	class, err := t.kube.StorageV1().StorageClasses().Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
	return err == nil && health.AwaitsConsumer(live, class)
}
