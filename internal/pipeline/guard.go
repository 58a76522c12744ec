package pipeline

import (
	"fmt"
	"strings"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
)

// A revision that deletes this many objects, and more than half of all, is more often a mistake (a renamed folder, another
// history) than a wish.
const manyPrunes = 5

// guard stops before a mass deletion until a person agrees to it, for this commit.
func (t *turn) guard(proof *apply.Proof, c candidate) (outcome, bool) {
	n, all := proof.Prunes(), len(t.app.Status.Inventory)
	if n < manyPrunes || n*2 <= all || t.app.Annotations[v1alpha1.AnnotationAllowPrune] == c.commit {
		return outcome{}, true
	}
	var names []string
	for _, r := range proof.Pruned() {
		names = append(names, r.String())
	}
	return failed(stalled, reasonMassPrune, fmt.Errorf("commit %s would delete %d of %d objects (%s); if that is meant: gitopsd sync %s --allow-prune",
		short(c.commit), n, all, strings.Join(names, ", "), t.app.Name)), false
}
