package pipeline

import (
	"fmt"
	"slices"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/diff"
	"github.com/gitopsd/gitopsd/internal/intent"
	"github.com/gitopsd/gitopsd/internal/ledger"
	"github.com/gitopsd/gitopsd/internal/redact"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// Ledger keeps what the engine did.
type Ledger interface {
	Append(ledger.Entry) (ledger.Entry, error)
	Has(id string) bool
	Keyed(content []byte) string
	Head() ledger.Head
}

// engineActor is who acts when nobody asked.
const engineActor = "gitopsd"

// sealed puts the end of an intent into the ledger, before the status says that it has ended: an end that is not in the ledger has
// not come. Done again after a crash it adds nothing, for the intent and its end are the entry's name.
func (t *turn) sealed(in *v1alpha1.Intent, end intent.Phase, from *v1alpha1.Revision, objects []ledger.ObjectChange) error {
	e := ledger.Entry{Kind: ledger.Sync, ID: in.ID + "/" + string(end), Outcome: string(end), To: in.Revision.Commit,
		Digest: t.cfg.Ledger.Keyed([]byte(in.Revision.Digest)), Reason: in.Reason, Message: redact.String(in.Message), Objects: objects}
	if from != nil {
		e.From = from.Commit
	}
	if end == intent.RolledBack {
		e.Kind, e.From, e.To = ledger.Rollback, in.Revision.Commit, e.From
	}
	return t.account(e)
}

// tellSuperseded puts into the ledger that an intent has taken over from another one, unless it is there: a crash may have come
// in between.
func (t *turn) tellSuperseded(in *v1alpha1.Intent, objects []ledger.ObjectChange) error {
	s := in.Supersedes
	if s == nil || t.cfg.Ledger.Has(s.ID+"/"+string(intent.Superseded)) {
		return nil
	}
	return t.sealed(&v1alpha1.Intent{ID: s.ID, Revision: s.Revision}, intent.Superseded, t.app.Status.AppliedRevision, objects)
}

// accountOf appends an entry about an Application.
func (e *Engine) accountOf(app *v1alpha1.Application, entry ledger.Entry) error {
	entry.Time, entry.App = time.Now().UTC(), keyOf(app).String()
	if entry.Actor == "" {
		entry.Actor = engineActor
	}
	if entry.ID == "" {
		entry.ID = string(uuid.NewUUID())
	}
	if _, err := e.cfg.Ledger.Append(entry); err != nil {
		return fmt.Errorf("write the ledger: %w", err)
	}
	return nil
}

func (t *turn) account(entry ledger.Entry) error { return t.accountOf(t.app, entry) }

// tell appends an entry that nothing waits for; that it could not be written is logged.
func (e *Engine) tell(app *v1alpha1.Application, entry ledger.Entry) {
	if err := e.accountOf(app, entry); err != nil {
		e.cfg.Log.Warn("an entry is missing in the ledger", "app", keyOf(app), "kind", entry.Kind, "id", entry.ID, "err", err)
	}
}

// changes are the objects that a plan writes, as the ledger names them.
func changes(p diff.Plan, actions ...diff.Action) []ledger.ObjectChange {
	past := map[diff.Action]string{diff.Create: "created", diff.Update: "changed", diff.Prune: "deleted"}
	var out []ledger.ObjectChange
	for _, c := range p.Changes {
		for _, a := range actions {
			if c.Action == a {
				out = append(out, ledger.ObjectChange{Object: objectName(c.Ref), Action: past[a]})
			}
		}
	}
	return out
}

// touched are the objects of an intent by its images, which outlive a restart.
func touched(images []apply.Image, created, changed string) []ledger.ObjectChange {
	var out []ledger.ObjectChange
	for _, i := range images {
		c := ledger.ObjectChange{Object: objectName(i.Held.Ref), Action: changed}
		if i.Object == nil {
			c.Action = created
		}
		out = append(out, c)
	}
	return out
}

// undone is what an undo did, with what it has left.
func undone(images []apply.Image, left []apply.Held) []ledger.ObjectChange {
	out := touched(images, "deleted", "restored")
	for n, i := range images {
		if slices.ContainsFunc(left, func(h apply.Held) bool { return h.Ref == i.Held.Ref }) {
			out[n].Action = "left"
		}
	}
	return out
}

func objectName(r diff.Ref) string {
	kind := r.Kind
	if r.Group != "" {
		kind = r.Group + "/" + kind
	}
	if r.Namespace == "" {
		return kind + " " + r.Name
	}
	return kind + " " + r.Namespace + "/" + r.Name
}
