package pipeline

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/diff"
	"github.com/gitopsd/gitopsd/internal/source"
	"k8s.io/apimachinery/pkg/types"
)

// A commit may move an object from one Application to another. Whichever is looked at first, it is not deleted: the one that
// has it leaves it where another asks for it, and the other takes it as soon as the first has applied a revision without it.

// patience is how long a prune waits for the other Applications of the repository to look at the same commit.
const patience = 5 * time.Second

// wishes are what every Application asks for by the newest commit that it has looked at.
type wishes struct {
	mu      sync.Mutex
	of      map[types.NamespacedName]candidate
	who     map[diff.Ref]map[types.NamespacedName]bool
	applied map[types.NamespacedName]string // digest of the applied revision, once the status says so
}

func newWishes() *wishes {
	return &wishes{of: map[types.NamespacedName]candidate{}, who: map[diff.Ref]map[types.NamespacedName]bool{}, applied: map[types.NamespacedName]string{}}
}

// note says what an Application asks for.
func (w *wishes) note(key types.NamespacedName, c candidate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.of[key]; old.digest == c.digest {
		old.commit = c.commit
		w.of[key] = old
		return
	}
	w.drop(key)
	w.of[key] = c
	for _, o := range c.objects {
		if w.who[o.Ref()] == nil {
			w.who[o.Ref()] = map[types.NamespacedName]bool{}
		}
		w.who[o.Ref()][key] = true
	}
}

// saw says that an Application looked at a commit, which changed nothing of what it asks for.
func (w *wishes) saw(key types.NamespacedName, commit string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if wish, known := w.of[key]; known {
		wish.commit = commit
		w.of[key] = wish
	}
}

func (w *wishes) forget(key types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(key)
	delete(w.applied, key)
}

func (w *wishes) drop(key types.NamespacedName) {
	for _, o := range w.of[key].objects {
		if delete(w.who[o.Ref()], key); len(w.who[o.Ref()]) == 0 {
			delete(w.who, o.Ref())
		}
	}
	delete(w.of, key)
}

// others are the Applications beside one that ask for an object.
func (w *wishes) others(key types.NamespacedName, r diff.Ref) []types.NamespacedName {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []types.NamespacedName
	for other := range w.who[r] {
		if other != key {
			out = append(out, other)
		}
	}
	return out
}

// gaveUp says that an Application has applied a revision that does not name an object, by the newest commit that it looked at.
func (w *wishes) gaveUp(key types.NamespacedName, r diff.Ref) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	wish, known := w.of[key]
	return known && !w.who[r][key] && w.applied[key] == wish.digest
}

// arrived notes the applied revision of an Application, after its status was written.
func (w *wishes) arrived(app *v1alpha1.Application) {
	if app.Status.AppliedRevision == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.applied[keyOf(app)] = app.Status.AppliedRevision.Digest
}

// arrivedAt says that an Application has looked at a commit, and that what it asks for by it is applied.
func (w *wishes) arrivedAt(key types.NamespacedName, commit string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	wish, known := w.of[key]
	return known && wish.commit == commit && w.applied[key] == wish.digest
}

func (w *wishes) commitOf(key types.NamespacedName) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.of[key].commit
}

// takes says whether an object may be taken over from the Application that an owner stands for.
func (e *Engine) takes(owner string, r diff.Ref) bool {
	return slices.ContainsFunc(e.apps.withOwner(owner), func(key types.NamespacedName) bool { return e.wishes.gaveUp(key, r) })
}

// spoken says whether another Application asks for an object that this one gives up.
func (e *Engine) spoken(app *v1alpha1.Application) func(diff.Ref) bool {
	key := keyOf(app)
	return func(r diff.Ref) bool { return len(e.wishes.others(key, r)) > 0 }
}

// offer brings up the Applications that wait for this one, and those that ask for what it has given up. What it still names itself is no offer: two that
// name each other's objects would bring each other up for ever.
func (e *Engine) offer(app *v1alpha1.Application) {
	e.wishes.arrived(app)
	e.wakeDependents(keyOf(app))
	for _, h := range heldOf(app.Status.Inventory) {
		if !e.wishes.gaveUp(keyOf(app), h.Ref) {
			continue
		}
		for _, key := range e.wishes.others(keyOf(app), h.Ref) {
			e.queue.Add(key)
		}
	}
}

// foretell notes what an Application will ask for when what it depends on is there: an object that moves to it is not to be deleted while
// it waits. What cannot be read or rendered is told when its turn has come, and answers of the cluster are asked for again then.
func (e *Engine) foretell(ctx context.Context, app *v1alpha1.Application, w *work, s source.Snapshot) {
	if e.wishes.commitOf(keyOf(app)) == s.Commit || e.verifySignature(ctx, app, s) != nil {
		return
	}
	before := w.rendered
	desired, err := e.render(ctx, app, w, s)
	if err != nil {
		w.rendered = before
		return
	}
	if target, err := e.target(app); err == nil {
		t := &turn{e, app, w, target, e.live.as(userOf(app))}
		t.place(s.Commit, desired)
	}
	if w.rendered.inputs.Asks() {
		w.rendered = before
	}
}

// givenUp is what the inventory holds and a revision does not name.
func (t *turn) givenUp(objects []apply.Object) []apply.Held {
	named := make(map[diff.Ref]bool, len(objects))
	for _, o := range objects {
		named[o.Ref()] = true
	}
	return slices.DeleteFunc(heldOf(t.app.Status.Inventory), func(h apply.Held) bool { return named[h.Ref] })
}

// awaitOthers holds a prune back for a moment while Applications of the same repository have not looked at the commit yet: one of
// them may ask for what is about to go.
func (t *turn) awaitOthers(since time.Time, commit string) (outcome, bool) {
	if time.Since(since) > patience {
		return outcome{}, true
	}
	for _, other := range t.apps.following(t.app) {
		if t.wishes.commitOf(keyOf(other)) != commit && !suspended(other) {
			return outcome{soon, v1alpha1.Pruning, reasonPrune, fmt.Sprintf("waits until Application %s has looked at the same commit", keyOf(other))}, false
		}
	}
	return outcome{}, true
}

// letGo drops from the inventory what another Application has taken over.
func (t *turn) letGo(objects []apply.Object) {
	gone := map[diff.Ref]bool{}
	for _, h := range t.givenUp(objects) {
		if t.taken(h) {
			gone[h.Ref] = true
		}
	}
	if len(gone) > 0 {
		t.app.Status.Inventory = inventoryOf(slices.DeleteFunc(heldOf(t.app.Status.Inventory), func(h apply.Held) bool { return gone[h.Ref] }))
	}
}

// taken says that a held object carries the label of another living Application that asks for it.
func (t *turn) taken(h apply.Held) bool {
	if len(t.wishes.others(keyOf(t.app), h.Ref)) == 0 {
		return false
	}
	live := t.live.get(named([]apply.Held{h})[0])
	if live == nil {
		return false
	}
	owner := live.GetLabels()[v1alpha1.LabelApplication]
	return owner != ownerOf(t.app) && t.apps.ownerName(owner) != ""
}
