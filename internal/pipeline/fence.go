package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/diff"
	"github.com/gitopsd/gitopsd/internal/intent"
	"github.com/gitopsd/gitopsd/internal/ledger"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// epochLease counts the turns: each process that begins to write takes the next number. It is no lease that anybody holds.
const epochLease = "gitopsd-epoch"

// TakeTurn begins this process's turn: every other process's is over from here on. The number rises by at least one each time; where the
// count was lost, it goes on from the time of day, which is more.
func TakeTurn(ctx context.Context, cfg *rest.Config, namespace string) (apply.Turn, error) {
	kube, err := kubernetes.NewForConfig(unlimited(cfg))
	if err != nil {
		return apply.Turn{}, err
	}
	epoch, err := nextEpoch(ctx, kube, namespace)
	if err != nil {
		return apply.Turn{}, fmt.Errorf("count this turn in Lease %s/%s: %w", namespace, epochLease, err)
	}
	return apply.Turn{Epoch: epoch, Check: func(ctx context.Context) error {
		lease, err := kube.CoordinationV1().Leases(namespace).Get(ctx, epochLease, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil // somebody removed it: nobody has taken over
		}
		if err == nil && epochOf(lease) > epoch {
			err = apply.ErrFenced
		}
		return err
	}}, nil
}

func nextEpoch(ctx context.Context, kube kubernetes.Interface, namespace string) (int64, error) {
	leases := kube.CoordinationV1().Leases(namespace)
	for {
		lease, err := leases.Get(ctx, epochLease, metav1.GetOptions{})
		missing := apierrors.IsNotFound(err)
		if err != nil && !missing {
			return 0, err
		}
		epoch := time.Now().Unix()
		if missing {
			lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: epochLease}}
		} else {
			epoch = max(epoch, epochOf(lease)+1)
		}
		metav1.SetMetaDataAnnotation(&lease.ObjectMeta, apply.EpochAnnotation, strconv.FormatInt(epoch, 10))
		if missing {
			_, err = leases.Create(ctx, lease, metav1.CreateOptions{FieldManager: installer})
		} else {
			_, err = leases.Update(ctx, lease, metav1.UpdateOptions{FieldManager: installer})
		}
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			return epoch, err
		}
	}
}

func epochOf(lease *coordinationv1.Lease) int64 {
	epoch, _ := strconv.ParseInt(lease.Annotations[apply.EpochAnnotation], 10, 64)
	return epoch
}

// checkTurn asks whether this is still our turn. When it is not, the engine ends: nothing of it may be written any more.
func (e *Engine) checkTurn(ctx context.Context) error {
	err := e.cfg.Turn.Valid(ctx)
	if errors.Is(err, apply.ErrFenced) {
		e.end(err)
	}
	return err
}

// takeOver makes an open intent this process's own before anything is done about it. First the intent says so, by compare-and-swap, then
// every object that it is about gets this turn's epoch: what an earlier process still has on its way is refused from here on. Only then
// is the cluster looked at.
func (e *Engine) takeOver(ctx context.Context, app *v1alpha1.Application, w *work) (outcome, bool) {
	in := app.Status.Intent
	if in == nil || in.ID == w.owns {
		return outcome{}, true
	}
	again := func(err error) (outcome, bool) {
		return outcome{retry, v1alpha1.Phase(in.Phase), reasonTakeOver, "taking over what another process began: " + err.Error()}, false
	}
	if in.Epoch > e.cfg.Turn.Epoch {
		if err := e.checkTurn(ctx); err != nil {
			return again(err)
		}
	}
	in.Epoch = e.cfg.Turn.Epoch
	if err := e.write(ctx, app, w); err != nil {
		return again(err)
	}
	target, err := e.target(app)
	if err != nil {
		return again(err)
	}
	images, err := (&turn{Engine: e, app: app, w: w}).images(in)
	if err != nil && !errors.Is(err, intent.ErrAbsent) { // a content that is lost is told by who needs it
		return again(err)
	}
	objects := about(heldOf(app.Status.Inventory), images)
	e.live.as(userOf(app)).follow(named(objects)) // a late creation may be of a kind that nobody asks for any more
	if err := target.Seize(ctx, objects); err != nil {
		return again(err)
	}
	w.owns = in.ID
	return outcome{}, true
}

// about are the objects that an intent may write: those of the inventory, which names what it makes, and those that it has images of.
func about(held []apply.Held, images []apply.Image) []apply.Held {
	out := slices.Clone(held)
	for _, i := range images {
		if !slices.ContainsFunc(out, func(h apply.Held) bool { return h.Ref == i.Held.Ref }) {
			out = append(out, i.Held)
		}
	}
	return out
}

// named are objects of which nothing is known but what they are called.
func named(held []apply.Held) []apply.Object {
	out := make([]apply.Object, 0, len(held))
	for _, h := range held {
		u := &unstructured.Unstructured{Object: map[string]any{}}
		u.SetGroupVersionKind(h.Ref.GroupKind().WithVersion(h.Version))
		u.SetNamespace(h.Ref.Namespace)
		u.SetName(h.Ref.Name)
		out = append(out, apply.Object{Unstructured: u})
	}
	return out
}

// byLabel is the index of watched objects by their owner.
const byLabel = "application"

func ownerIndex(obj any) ([]string, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return []string{u.GetLabels()[v1alpha1.LabelApplication]}, nil
	}
	return nil, nil
}

// owned are the watched objects of an owner.
func (l *live) owned(owner string) []*unstructured.Unstructured {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*unstructured.Unstructured
	for _, informer := range l.watches {
		found, err := informer.GetIndexer().ByIndex(byLabel, owner)
		if err != nil {
			continue
		}
		for _, obj := range found {
			if u, ok := obj.(*unstructured.Unstructured); ok {
				out = append(out, u)
			}
		}
	}
	return out
}

// putRight deletes what came into being by a creation that was late: a request of an intent that has ended since, or of a process whose
// turn is over. Such an object carries the mark of this very Application and is neither declared nor in the inventory. Nothing else has
// both: what leaves the repository and stays stays in the inventory, or says that it is never to be pruned. What another Application asks for is
// on its way there.
func (t *turn) putRight(ctx context.Context, objects []apply.Object) error {
	if t.app.Status.Intent != nil || !isTrue(t.app.Spec.Sync.Prune) {
		return nil
	}
	known := map[diff.Ref]bool{}
	for _, o := range objects {
		known[o.Ref()] = true
	}
	for _, h := range heldOf(t.app.Status.Inventory) {
		known[h.Ref] = true
	}
	var errs []error
	for _, u := range t.live.owned(ownerOf(t.app)) {
		if known[diff.RefOf(u)] || !t.target.Stray(u) || len(t.wishes.others(keyOf(t.app), diff.RefOf(u))) > 0 {
			continue
		}
		if err := t.checkTurn(ctx); err != nil {
			return err
		}
		gone, err := t.target.Delete(ctx, apply.Held{Ref: diff.RefOf(u), Version: u.GroupVersionKind().Version, UID: string(u.GetUID())})
		if err != nil {
			errs = append(errs, fmt.Errorf("delete %s, which a late request made: %w", diff.RefOf(u), err))
		}
		if !gone {
			continue
		}
		t.cfg.Log.Warn("an object that a late request made is deleted", "app", keyOf(t.app), "object", diff.RefOf(u).String(), "intent", apply.MakerOf(u).Intent)
		t.tell(t.app, ledger.Entry{Kind: ledger.Prune, ID: "late/" + string(u.GetUID()), Outcome: "Deleted", Reason: "LateCreation",
			Objects: []ledger.ObjectChange{{Object: objectName(diff.RefOf(u)), Action: "deleted"}}})
	}
	return errors.Join(errs...)
}
