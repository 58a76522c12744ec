package apply

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/internal/diff"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// Fencing. A process that lost its turn may have writes on their way, and may not know yet. So every write says what it was decided on: an
// update and a deletion name UID and resourceVersion, a creation that nothing is there. Whoever takes over moves the version of every
// object of an open intent (Seize). All of this was tried on Kubernetes 1.36.3: docs/design/atomicity.md.

const (
	// EpochAnnotation on an object is the turn of the process that last took over an intent about it.
	EpochAnnotation = "gitopsd.io/epoch"
	// MadeAnnotation on an object says what made it: UID of the Application, intent, and epoch. It comes with the object and stays.
	MadeAnnotation = "gitopsd.io/made-by"

	epochManager = "gitopsd-epoch"
	// mustBeAbsent as the resourceVersion of an apply: it creates, or conflicts with whatever is there.
	mustBeAbsent = "1"
	// conflicts is how often a write is tried again at once because its object had moved.
	conflicts = 5
)

// ErrFenced says that another process has taken over. Nothing may be written any more.
var ErrFenced = errors.New("another gitopsd has taken over")

// Turn is a process's right to write. The zero Turn is that of a process that has the cluster for itself.
type Turn struct {
	Epoch int64
	// Check asks the API whether the turn is still this process's; ErrFenced if not.
	Check func(context.Context) error
}

// Valid is Check, where there is one.
func (t Turn) Valid(ctx context.Context) error {
	if t.Check == nil {
		return nil
	}
	return t.Check(ctx)
}

// Maker is what a creation is marked with.
type Maker struct{ Application, Intent string }

// MakerOf reads the mark of a live object; the zero Maker when there is none.
func MakerOf(live *unstructured.Unstructured) Maker {
	m, _ := markOf(live)
	return m
}

func markOf(live *unstructured.Unstructured) (Maker, int64) {
	parts := strings.Split(live.GetAnnotations()[MadeAnnotation], "/")
	if len(parts) != 3 {
		return Maker{}, 0
	}
	epoch, _ := strconv.ParseInt(parts[2], 10, 64)
	return Maker{parts[0], parts[1]}, epoch
}

func (t Target) mark() string {
	return fmt.Sprintf("%s/%s/%d", t.Maker.Application, t.Maker.Intent, t.Turn.Epoch)
}

// guard asks whether this is still our turn if the object says that a later one has begun.
func (t Target) guard(ctx context.Context, live *unstructured.Unstructured) error {
	_, made := markOf(live)
	seized, _ := strconv.ParseInt(live.GetAnnotations()[EpochAnnotation], 10, 64)
	if max(made, seized) > t.Turn.Epoch {
		return t.Turn.Valid(ctx)
	}
	return nil
}

// with is a desired object as it is sent: at nil as it is to be created, otherwise with the mark that the live object has, and without
// what is left to others.
func (t Target) with(o Object, at *unstructured.Unstructured) Object {
	if at != nil {
		o, _ = t.leave(o, at)
	}
	if t.Maker.Application == "" {
		return o
	}
	mark := t.mark()
	if at != nil {
		mark = at.GetAnnotations()[MadeAnnotation]
	}
	if mark == "" {
		return o
	}
	u := shallow(o.Unstructured)
	annotations := u.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[MadeAnnotation] = mark
	u.SetAnnotations(annotations)
	return Object{u, o.Origin}
}

// shallow is a copy of which metadata may be changed.
func shallow(u *unstructured.Unstructured) *unstructured.Unstructured {
	out := &unstructured.Unstructured{Object: maps.Clone(u.Object)}
	if m, ok := out.Object["metadata"].(map[string]any); ok {
		out.Object["metadata"] = maps.Clone(m)
	}
	return out
}

func pinned(o Object, at *unstructured.Unstructured) Object {
	u := shallow(o.Unstructured)
	u.SetUID(at.GetUID())
	u.SetResourceVersion(at.GetResourceVersion())
	return Object{u, o.Origin}
}

// patch takes every field that is declared, of the object as it was at: Git wins over whoever set it. If the object has moved since, it is
// read again; still says whether the write is what was decided on all the same.
func (t Target) patch(ctx context.Context, m *meta.RESTMapping, o Object, at *unstructured.Unstructured, still func(now *unstructured.Unstructured) error) (*unstructured.Unstructured, error) {
	for try := 1; ; try++ {
		live, err := t.serverSideApply(ctx, m, pinned(t.with(o, at), at), true)
		if !apierrors.IsConflict(err) || try == conflicts {
			return live, err
		}
		now, getErr := t.reget(ctx, m, at)
		if getErr != nil {
			return nil, getErr
		}
		if now == nil {
			return nil, err // gone, or another one of that name
		}
		if err := still(now); err != nil {
			return nil, err
		}
		at = now
	}
}

// whatever is there is overwritten.
func whatever(*unstructured.Unstructured) error { return nil }

// reget reads an object that has moved, nil if it is not the same one any more, and asks whether this is still our turn.
func (t Target) reget(ctx context.Context, m *meta.RESTMapping, at *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	now, err := t.get(ctx, m, diff.RefOf(at))
	if err == nil {
		err = t.Turn.Valid(ctx)
	}
	if err != nil || now == nil || now.GetUID() != at.GetUID() {
		return nil, err
	}
	return now, nil
}

// update is patch of a proven change: it is tried again while it would still change the same.
func (t Target) update(ctx context.Context, m *meta.RESTMapping, o Object, at *unstructured.Unstructured, proven diff.Change) (*unstructured.Unstructured, error) {
	return t.patch(ctx, m, o, at, func(now *unstructured.Unstructured) error {
		would, err := t.dryRun(ctx, m, o, now)
		if err != nil {
			return err
		}
		if !reflect.DeepEqual(diff.Fields(now, would), proven.Fields) {
			return errMoved
		}
		return nil
	})
}

var errMoved = errTransient{"somebody changed it after the dry-run; tried again"}

// create makes an object that is not there. It takes no field from anybody: what somebody made since the dry-run with other values is a
// refusal. One that an earlier process made for the same Application, in a request that was late, is ours.
func (t Target) create(ctx context.Context, m *meta.RESTMapping, o Object) (*unstructured.Unstructured, error) {
	made := shallow(t.with(o, nil).Unstructured)
	made.SetResourceVersion(mustBeAbsent)
	live, err := t.serverSideApply(ctx, m, Object{made, o.Origin}, false)
	if !apierrors.IsConflict(err) {
		return live, err
	}
	there, getErr := t.get(ctx, m, o.Ref())
	if getErr == nil {
		getErr = t.Turn.Valid(ctx)
	}
	switch {
	case getErr != nil:
		return nil, getErr
	case there == nil:
		return nil, err
	case t.Maker.Application != "" && MakerOf(there).Application == t.Maker.Application:
		return t.patch(ctx, m, o, there, whatever)
	}
	live, err = t.serverSideApply(ctx, m, pinned(t.with(o, there), there), false)
	if isFieldConflict(err) {
		return nil, &apiMessage{"somebody made it after the dry-run, with other values; sync again to take it over", nil}
	}
	return live, err
}

// isFieldConflict tells a conflict over a field's manager from one over the object's version.
func isFieldConflict(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return false
	}
	for _, c := range status.Status().Details.Causes {
		if c.Type == metav1.CauseTypeFieldManagerConflict {
			return true
		}
	}
	return false
}

// delete removes a live object as it was read. If it has moved it is read again, and removed while still says so.
func (t Target) delete(ctx context.Context, m *meta.RESTMapping, live *unstructured.Unstructured, still func(*unstructured.Unstructured) bool) (bool, error) {
	return t.deleteBy(ctx, m, live, metav1.DeletePropagationBackground, still)
}

// deleteBy is delete with a word on what becomes of the objects below.
func (t Target) deleteBy(ctx context.Context, m *meta.RESTMapping, live *unstructured.Unstructured, how metav1.DeletionPropagation, still func(*unstructured.Unstructured) bool) (bool, error) {
	for try := 1; ; try++ {
		if err := t.guard(ctx, live); err != nil {
			return false, err
		}
		uid, version := live.GetUID(), live.GetResourceVersion()
		err := t.resource(m, live.GetNamespace()).Delete(ctx, live.GetName(), metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}, PropagationPolicy: &how})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		if !apierrors.IsConflict(err) || try == conflicts {
			return err == nil, err
		}
		if live, err = t.reget(ctx, m, live); err != nil || live == nil || !still(live) {
			return false, err
		}
	}
}

// Seize puts this turn's epoch on every one of these objects that exists. What an earlier process has still on its way names a version
// that no longer is, and is refused. An object that this Application may not read or write is left: neither may the earlier process.
func (t Target) Seize(ctx context.Context, objects []Held) error {
	errs := make([]error, len(objects)) // each goroutine writes its own
	var group errgroup.Group
	group.SetLimit(parallel)
	for n, h := range objects {
		group.Go(func() error {
			if err := t.seize(ctx, h); err != nil {
				errs[n] = fmt.Errorf("take over %s: %w", h.Ref, err)
			}
			return nil
		})
	}
	_ = group.Wait() // errors are in errs
	return errors.Join(errs...)
}

func (t Target) seize(ctx context.Context, h Held) error {
	m, err := t.mapping(h.Ref.GroupKind(), h.Version)
	if meta.IsNoMatchError(err) {
		return nil
	}
	if err != nil {
		return err
	}
	epoch := strconv.FormatInt(t.Turn.Epoch, 10)
	for try := 1; ; try++ {
		live, err := t.get(ctx, m, h.Ref)
		if apierrors.IsForbidden(err) {
			return nil
		}
		if err != nil || live == nil || live.GetAnnotations()[EpochAnnotation] == epoch {
			return err
		}
		if err := t.guard(ctx, live); err != nil {
			return err
		}
		u := &unstructured.Unstructured{Object: map[string]any{}}
		identify(u, live)
		u.SetAnnotations(map[string]string{EpochAnnotation: epoch})
		// Of this very object, as it was looked at: a seizing that is late is not to overtake a later one.
		_, err = t.as(epochManager).serverSideApply(ctx, m, pinned(Object{Unstructured: u}, live), true)
		switch {
		case err == nil || apierrors.IsForbidden(err):
			return nil
		case (apierrors.IsConflict(err) || apierrors.IsInvalid(err) || apierrors.IsNotFound(err)) && try < conflicts:
			continue // it went, or another one came, meanwhile
		}
		return err
	}
}

// heldAs tells whether a live object is still the one of the inventory that is to go.
func (t Target) heldAs(h Held) func(*unstructured.Unstructured) bool {
	return func(live *unstructured.Unstructured) bool {
		return live.GetLabels()[t.Label] == t.Owner && (h.UID == "" || live.GetUID() == types.UID(h.UID))
	}
}

// Stray says that a late request made a live object for this Application, by its mark, so that it may be deleted if nobody asks for it. What
// was written again since is no such thing: it left a revision, or an undo gave it back. Definitions of kinds, namespaces and claims may not be
// deleted, and neither may what is never to be pruned, nor hooks, of which their own policies say what becomes.
func (t Target) Stray(live *unstructured.Unstructured) bool {
	return MakerOf(live).Application == t.Maker.Application && live.GetDeletionTimestamp() == nil && !t.wroteAgain(live) &&
		!outlasts(live.GroupVersionKind().GroupKind()) && !stays(live) && !isHook(Object{Unstructured: live})
}

// wroteAgain says that an object was written after it was made; the API keeps both times to the second.
func (t Target) wroteAgain(live *unstructured.Unstructured) bool {
	made := live.GetCreationTimestamp().Add(time.Second)
	return slices.ContainsFunc(live.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool {
		return m.Manager == t.Manager && m.Operation == metav1.ManagedFieldsOperationApply && m.Time != nil && m.Time.After(made)
	})
}
