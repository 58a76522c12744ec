package pipeline

import (
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/diff"
)

func TestDriftNamesWhoChangedWhatAndNoValue(t *testing.T) {
	when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	secret := diff.Ref{Kind: "Secret", Namespace: "n", Name: "s"}
	p := diff.Plan{Changes: []diff.Change{
		{Ref: secret, Action: diff.Update, Fields: []diff.Field{{Path: ".data.a", Old: "hunter2", TakenFrom: "kubectl-edit", TakenAt: when},
			{Path: ".data.b", TakenFrom: "kubectl-edit", TakenAt: when}, {Path: ".type"}}},
		{Ref: diff.Ref{Group: "apps", Kind: "Deployment", Namespace: "n", Name: "d"}, Action: diff.Create},
		{Ref: diff.Ref{Kind: "ConfigMap", Namespace: "n", Name: "same"}, Action: diff.Unchanged},
		{Ref: diff.Ref{Kind: "ConfigMap", Namespace: "n", Name: "left"}, Action: diff.Prune},
	}}
	want := "Secret n/s: .type by somebody; Secret n/s: .data.a, .data.b by kubectl-edit at 2026-01-02T03:04:05Z; apps/Deployment n/d: (deleted) by somebody"
	if got := driftWords(changedByOthers(p)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
