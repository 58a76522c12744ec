package apply

import (
	"strconv"
	"sync"

	"github.com/gitopsd/gitopsd/internal/diff"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Known remembers, for the objects of one Application, which live state was found to be what a desired object asks
// for. While both stay as they were nobody needs to ask the API again: that is why a second sync of a commit sends
// nothing, and why a watch event of a changed status costs a hash.
type Known struct {
	mu   sync.Mutex
	seen map[diff.Ref]agreement
}

type agreement struct {
	of            *unstructured.Unstructured // the desired object; the same one needs no hash
	desired, live string                     // hashes
	version       uint64                     // resourceVersion of the live object that was last found to be so
}

// NewKnown knows nothing.
func NewKnown() *Known { return &Known{seen: map[diff.Ref]agreement{}} }

// Agrees says whether the live object is known to be as desired. A live object older than the one that was compared
// is a cache that lags behind our own write: nothing follows from it.
func (k *Known) Agrees(desired Object, live *unstructured.Unstructured) bool {
	if live == nil || live.GetDeletionTimestamp() != nil {
		return false
	}
	ref := desired.Ref()
	k.mu.Lock()
	defer k.mu.Unlock()
	a, ok := k.seen[ref]
	if !ok || (a.of != desired.Unstructured && a.desired != hash(desired.Object)) {
		return false
	}
	version := versionOf(live)
	if version > a.version {
		if a.live != hash(settable(desired, live)) {
			return false
		}
		a.version = version
	}
	a.of = desired.Unstructured
	k.seen[ref] = a
	return true
}

// revisionAnnotation is how Kubernetes' Deployment controller numbers its ReplicaSets.
const revisionAnnotation = "deployment.kubernetes.io/revision"

// settable is what of a live object a sync could set. What a controller notes there each time after us is left out, unless
// it is declared.
func settable(desired Object, live *unstructured.Unstructured) map[string]any {
	out := diff.Declared(live)
	if _, ours := desired.GetAnnotations()[revisionAnnotation]; ours || live.GetAnnotations()[revisionAnnotation] == "" {
		return out
	}
	annotations := live.GetAnnotations()
	delete(annotations, revisionAnnotation)
	meta := out["metadata"].(map[string]any) // a clone, made by Declared
	delete(meta, "annotations")
	if len(annotations) > 0 {
		meta["annotations"] = annotations
	}
	return out
}

// has says whether the object was ever found, or made, as desired.
func (k *Known) has(desired Object) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.seen[desired.Ref()]
	return ok
}

// Lags says whether the live object is older than the one that was found to be as desired: what it says of its health is
// about another state.
func (k *Known) Lags(desired Object, live *unstructured.Unstructured) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return versionOf(live) < k.seen[desired.Ref()].version
}

func (k *Known) agree(desired Object, live *unstructured.Unstructured) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen[desired.Ref()] = agreement{desired.Unstructured, hash(desired.Object), hash(settable(desired, live)), versionOf(live)}
}

// Forget makes the next sync ask the API about every object again.
func (k *Known) Forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.seen)
}

// versionOf orders the states of one object; resourceVersions are comparable as numbers since Kubernetes 1.35.
func versionOf(u *unstructured.Unstructured) uint64 {
	v, _ := strconv.ParseUint(u.GetResourceVersion(), 10, 64)
	return v
}

// Newer says whether a is a later state than b of the same object.
func Newer(a, b *unstructured.Unstructured) bool { return versionOf(a) > versionOf(b) }
