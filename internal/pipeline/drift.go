package pipeline

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/diff"
	"github.com/gitopsd/gitopsd/internal/ledger"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// gone stands for the fields of an object that was deleted.
var gone = []string{"(deleted)"}

// changedByOthers are the declared fields of a plan that others have changed, by object and manager. Only names are in it, no values.
func changedByOthers(p diff.Plan) []v1alpha1.Drift {
	var out []v1alpha1.Drift
	for _, c := range p.Changes {
		object := referenceOf(apply.Held{Ref: c.Ref})
		switch c.Action {
		case diff.Create:
			out = append(out, v1alpha1.Drift{Object: object, Ours: true, Fields: gone})
		case diff.Update:
			by := map[string]*v1alpha1.Drift{}
			for _, f := range c.Fields {
				d := by[f.TakenFrom]
				if d == nil {
					d = &v1alpha1.Drift{Object: object, Ours: true, Manager: f.TakenFrom, Time: timeOf(f.TakenAt)}
					by[f.TakenFrom] = d
				}
				d.Fields = append(d.Fields, f.Path)
			}
			for _, d := range by {
				out = append(out, *d)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b v1alpha1.Drift) int {
		return cmp.Or(cmp.Compare(wordsFor(a.Object), wordsFor(b.Object)), cmp.Compare(a.Manager, b.Manager))
	})
	return out
}

func timeOf(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	out := metav1.NewTime(t)
	return &out
}

func wordsFor(o v1alpha1.ObjectReference) string {
	return objectName(diff.Ref{Group: o.Group, Kind: o.Kind, Namespace: o.Namespace, Name: o.Name})
}

// driftWords says who changed what, and when.
func driftWords(drift []v1alpha1.Drift) string {
	const atMost = 20
	var words []string
	for _, d := range drift {
		by := "by " + cmp.Or(d.Manager, "somebody")
		if d.Time != nil {
			by += " at " + d.Time.UTC().Format(time.RFC3339)
		}
		words = append(words, fmt.Sprintf("%s: %s %s", wordsFor(d.Object), strings.Join(d.Fields, ", "), by))
	}
	if more := len(words) - atMost; more > 0 {
		words = append(words[:atMost], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, "; ")
}

// lastSynced is when the last sync ended: the same change after it is another one.
func (t *turn) lastSynced() string {
	if s := t.app.Status.LastSync; s != nil {
		return s.Finished.UTC().Format(time.RFC3339)
	}
	return ""
}

// tellDrift tells of drift that is not undone: one entry, one event and one line for each change, whenever the daemon restarts. The
// ledger knows what was told: the entry's name is made from the change.
func (t *turn) tellDrift(p diff.Plan, c candidate, why string) {
	since := t.lastSynced()
	for _, d := range changedByOthers(p) {
		raw, err := json.Marshal([]any{c.digest, since, d})
		if err != nil {
			panic(fmt.Sprintf("drift is not JSON: %v", err)) // it has texts and times alone
		}
		id := fmt.Sprintf("drift/%s/%x", t.app.UID, sha256.Sum256(raw))
		if t.cfg.Ledger.Has(id) {
			continue
		}
		words, action := driftWords([]v1alpha1.Drift{d}), "changed by others"
		if slices.Equal(d.Fields, gone) {
			action = "deleted by others"
		}
		t.tell(t.app, ledger.Entry{Kind: ledger.Drift, ID: id, From: c.commit, To: c.commit, Digest: t.cfg.Ledger.Keyed([]byte(c.digest)),
			Outcome: "Told", Reason: reasonDrifted, Message: words + " (" + why + ")", Objects: []ledger.ObjectChange{{Object: wordsFor(d.Object), Action: action}}})
		t.cfg.Log.Warn("drift", "app", keyOf(t.app), "commit", short(c.commit), "what", words, "why not undone", why)
		t.recorder.Event(t.app, corev1.EventTypeWarning, reasonDrifted, words+" ("+why+")")
	}
}
