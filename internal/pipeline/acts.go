package pipeline

import (
	"fmt"
	"strings"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/ledger"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// noteActs tells the ledger what people did to an Application since the last look: suspended it, went on with it, changed its
// spec by hand. The status remembers what was told; the names of the entries make that a crash tells nothing twice.
func (e *Engine) noteActs(app *v1alpha1.Application) {
	st := app.Status
	if st.ObservedGeneration == 0 { // new
		return
	}
	was, is := st.Reason == reasonSuspended, suspended(app)
	if was != is {
		outcome := "Suspended"
		if was {
			outcome = "Resumed"
		}
		e.act(app, fmt.Sprintf("%s/%d/%s", outcome, app.Generation, app.Annotations[v1alpha1.AnnotationAskedBy]), outcome, askedBy(app), "")
	}
	if st.Reason == reasonPinned && app.Annotations[v1alpha1.AnnotationPin] == "" {
		e.act(app, "Unpinned/"+app.Annotations[v1alpha1.AnnotationAskedBy], "Resumed", askedBy(app), "no longer held at commit "+st.AppliedRevision.Commit)
	}
	if app.Generation != st.ObservedGeneration {
		if by := specWriter(app.ManagedFields); by != "" && by != v1alpha1.FieldManager {
			e.act(app, fmt.Sprintf("spec/%d", app.Generation), "SpecChanged", by, "its definition was changed outside of Git")
		}
	}
}

// act appends one manual act. Its name is unique below the Application's UID.
func (e *Engine) act(app *v1alpha1.Application, name, outcome, actor, message string) {
	e.tell(app, ledger.Entry{Kind: ledger.Manual, ID: "act/" + string(app.UID) + "/" + name, Actor: actor, To: app.Status.ObservedCommit, Outcome: outcome, Message: message})
}

// consents are what a person agreed to beforehand for the newest commit, as the ledger tells it with their request.
func consents(app *v1alpha1.Application) string {
	commit := app.Status.ObservedCommit
	var words []string
	if commit != "" && app.Annotations[v1alpha1.AnnotationAllowPrune] == commit {
		words = append(words, "agrees that commit "+commit+" deletes many objects")
	}
	if commit != "" && app.Annotations[v1alpha1.AnnotationIgnoreWindows] == commit {
		words = append(words, "lets commit "+commit+" begin outside of the sync windows")
	}
	return strings.Join(words, "; ")
}

// askedBy is who asked last by a command, as that command said.
func askedBy(app *v1alpha1.Application) string {
	if _, who, ok := strings.Cut(app.Annotations[v1alpha1.AnnotationAskedBy], " "); ok && who != "" {
		return who
	}
	return "a person"
}

// specWriter is the field manager that wrote the spec last, "" when that is not known.
func specWriter(fields []metav1.ManagedFieldsEntry) string {
	last, by := metav1.Time{}, ""
	for _, f := range fields {
		if f.Subresource != "" || f.FieldsV1 == nil || f.Time == nil || !strings.Contains(f.FieldsV1.GetRawString(), `"f:spec"`) {
			continue
		}
		if by == "" || last.Before(f.Time) {
			last, by = *f.Time, f.Manager
		}
	}
	return by
}
