package pipeline

import (
	"fmt"
	"strings"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/diff"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// A revision that deletes this many objects, and more than half of all, is more often a mistake (a renamed folder, another
// history) than a wish. spec.sync.pruneLimit says it otherwise.
const manyPrunes = 5

// guard stops before a mass deletion until a person agrees to it, for this commit.
func (t *turn) guard(proof *apply.Proof, c candidate) (outcome, bool) {
	n, all := proof.Prunes(), len(t.app.Status.Inventory)
	for _, r := range proof.Pruned() {
		n += t.below(r)
	}
	for _, r := range t.app.Status.Inventory {
		all += t.below(diff.Ref{Group: r.Group, Kind: r.Kind, Namespace: r.Namespace, Name: r.Name})
	}
	if !tooMany(n, all, t.app.Spec.Sync.PruneLimit) || t.agreed(v1alpha1.AnnotationAllowPrune, c) {
		return outcome{}, true
	}
	var names []string
	for _, r := range proof.Pruned() {
		names = append(names, r.String())
	}
	return failed(stalled, reasonMassPrune, fmt.Errorf("commit %s would delete %d of %d objects (%s); if that is meant: gitopsd sync %s --allow-prune",
		short(c.commit), n, all, strings.Join(names, ", "), t.app.Name)), false
}

// agreed says that a person's consent speaks of a revision: it names the newest commit that they had seen, also where they went back to an
// earlier one by hand.
func (t *turn) agreed(annotation string, c candidate) bool {
	commit := c.commit
	if _, held := pinned(t.app); held {
		commit = t.app.Status.ObservedCommit
	}
	return commit != "" && t.app.Annotations[annotation] == commit
}

// tooMany says whether so many deletions of all objects need a person's consent.
func tooMany(n, all int, limit *intstr.IntOrString) bool {
	if limit == nil {
		return n >= manyPrunes && n*2 > all
	}
	most, err := intstr.GetScaledValueFromIntOrPercent(limit, all, false)
	return err != nil || n > most
}

// below counts what goes with an object: the objects of an Application that deletes them with itself, and what is below those.
func (t *turn) below(r diff.Ref) int {
	if r.Group != v1alpha1.GroupVersion.Group || t.Engine == nil || t.apps == nil {
		return 0
	}
	n, seen := 0, map[types.NamespacedName]bool{}
	todo := []types.NamespacedName{{Namespace: r.Namespace, Name: r.Name}}
	for len(todo) > 0 {
		key := todo[0]
		todo = todo[1:]
		app := t.apps.get(key)
		if seen[key] || app == nil || app.Spec.Sync.OnDelete != v1alpha1.Cascade {
			continue
		}
		seen[key] = true
		n += len(app.Status.Inventory)
		for _, o := range app.Status.Inventory {
			if o.Group == v1alpha1.GroupVersion.Group {
				todo = append(todo, types.NamespacedName{Namespace: o.Namespace, Name: o.Name})
			}
		}
	}
	return n
}
