package pipeline

import (
	"fmt"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/window"
)

// windowsOf are the sync windows of an Application.
func windowsOf(app *v1alpha1.Application) (window.Windows, error) {
	var list []window.Window
	for _, w := range app.Spec.Sync.Windows {
		list = append(list, window.Window{Kind: window.Kind(w.Kind), Schedule: w.Schedule, Duration: w.Duration.Duration, Zone: w.TimeZone})
	}
	windows, err := window.Parse(list)
	if err != nil {
		return windows, fmt.Errorf("spec.sync of Application %s: %w", keyOf(app), err)
	}
	return windows, nil
}

// inWindow says whether something may begin now for a commit. If not, the Application is looked at again when that may be otherwise.
func (t *turn) inWindow(c candidate, what string) (outcome, bool) {
	if t.agreed(v1alpha1.AnnotationIgnoreWindows, c) {
		return outcome{}, true
	}
	may, until, why := t.w.declared.windows.At(time.Now())
	if may {
		return outcome{}, true
	}
	t.w.wake = until
	message := fmt.Sprintf("commit %s (%s) waits: %s; it may begin %s, or now with: gitopsd sync %s --ignore-windows",
		short(c.commit), what, why, atOrNever(until), t.app.Name)
	return outcome{done, v1alpha1.Waiting, reasonWindow, message}, false
}

func atOrNever(t time.Time) string {
	if t.IsZero() {
		return "at no time that can be foreseen"
	}
	return "at " + t.UTC().Format(time.RFC3339)
}

// tellsOnly says why drift is told and not undone; empty when it is undone.
func (t *turn) tellsOnly() string {
	if !isTrue(t.app.Spec.Sync.Heal) {
		return "heal is off"
	}
	if t.w.declared.closed {
		return "the sync windows cannot be read"
	}
	if may, until, _ := t.w.declared.windows.At(time.Now()); !may { // whoever lets a commit begin speaks of that alone
		t.w.wake = until
		return "outside of the sync windows; it may be undone " + atOrNever(until)
	}
	return ""
}
