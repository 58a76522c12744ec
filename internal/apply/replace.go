package apply

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/gitopsd/gitopsd/internal/diff"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// ReplaceAnnotation on an object, with the value allowed, lets a sync delete it and make it anew where the API refuses to change
// it in place.
const ReplaceAnnotation = "gitopsd.io/replace"

var (
	claimKind       = schema.GroupKind{Kind: "PersistentVolumeClaim"}
	statefulSetKind = schema.GroupKind{Group: "apps", Kind: "StatefulSet"}
)

// outlasts says of a kind that what is in its objects goes with them: only a person, or a commit that no longer names them, deletes these.
func outlasts(gk schema.GroupKind) bool {
	return gk == crdKind || gk == namespaceKind || gk == claimKind
}

// unchangeable answers for an object that the API refuses to change. If it would take it as a new object, the object is replaced
// where that is allowed, and otherwise the refusal says how to allow it.
func (t Target) unchangeable(ctx context.Context, m *meta.RESTMapping, o Object, live *unstructured.Unstructured, why error) answer {
	refusal := refused(o, why)
	if t.dryRunAnew(ctx, m, o) != nil {
		return answer{err: refusal}
	}
	switch {
	case o.Ref().GroupKind() == claimKind:
		return answer{err: fmt.Errorf("%w; it holds data, so gitopsd never replaces it: make one of another name, move the data, and let the old one go", refusal)}
	case !replaceable(o.Unstructured):
		return answer{err: fmt.Errorf("%w; it would have to be deleted and made anew, which cannot be undone: to allow that, annotate it with %s: allowed", refusal, ReplaceAnnotation)}
	}
	return answer{diff.Change{Ref: o.Ref(), Action: diff.Create, Replaces: true, Deferred: "it cannot be changed in place: " + plain(o, why).Error()}, live, nil}
}

// dryRunAnew asks whether the API would take the object if it were not there: by a dry-run under a name that nobody uses.
func (t Target) dryRunAnew(ctx context.Context, m *meta.RESTMapping, o Object) error {
	sum := sha256.Sum256([]byte(o.GetName()))
	twin := o.DeepCopy()
	twin.SetName(hex.EncodeToString(sum[:16]))
	_, err := t.serverSideApply(ctx, m, Object{twin, o.Origin}, true, metav1.DryRunAll)
	return err
}

func replaceable(u *unstructured.Unstructured) bool {
	return u.GetAnnotations()[ReplaceAnnotation] == "allowed" && u.GroupVersionKind().GroupKind() != claimKind
}

// discard deletes an object that is about to be made anew. The pods of a StatefulSet stay, and are taken over by the next one.
func (t Target) discard(ctx context.Context, m *meta.RESTMapping, live *unstructured.Unstructured) error {
	how := metav1.DeletePropagationBackground
	if live.GroupVersionKind().GroupKind() == statefulSetKind {
		how = metav1.DeletePropagationOrphan
	}
	same := func(now *unstructured.Unstructured) bool { return now.GetDeletionTimestamp() == nil }
	_, err := t.deleteBy(ctx, m, live, how, same)
	return err
}

// rewrite writes an object back, anew if that is allowed and the API refuses to change it in place.
func (t Target) rewrite(ctx context.Context, m *meta.RESTMapping, o Object, live *unstructured.Unstructured, gone *patience) (*unstructured.Unstructured, error) {
	now, err := t.patch(ctx, m, o, live, whatever)
	if !apierrors.IsInvalid(err) || (!replaceable(o.Unstructured) && !replaceable(live)) || o.Ref().GroupKind() == claimKind {
		return now, err
	}
	if err := t.discard(ctx, m, live); err != nil {
		return nil, err
	}
	if err := t.awaitGone(ctx, gone, o, live); err != nil {
		return nil, err
	}
	return t.create(ctx, m, o)
}
