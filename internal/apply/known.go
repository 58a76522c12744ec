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
	desired, live string // hashes
	version       uint64 // resourceVersion of the live object then
}

// NewKnown knows nothing.
func NewKnown() *Known { return &Known{seen: map[diff.Ref]agreement{}} }

// Agrees says whether the live object is known to be as desired. A live object older than the one that was compared
// is a cache that lags behind our own write: nothing follows from it.
func (k *Known) Agrees(desired Object, live *unstructured.Unstructured) bool {
	if live == nil || live.GetDeletionTimestamp() != nil {
		return false
	}
	k.mu.Lock()
	a, ok := k.seen[desired.Ref()]
	k.mu.Unlock()
	if !ok || a.desired != hash(desired.Object) {
		return false
	}
	return versionOf(live) < a.version || a.live == hash(diff.Declared(live))
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
	k.seen[desired.Ref()] = agreement{hash(desired.Object), hash(diff.Declared(live)), versionOf(live)}
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
