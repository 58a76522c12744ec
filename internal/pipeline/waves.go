package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/health"
)

// applyWaves writes wave after wave as far as it goes without waiting: a wave begins when those before it are written and healthy.
// Waits says which wave is awaited and why; it is empty when every object is written. Nothing is remembered of the waves that are
// done: to write them again changes nothing, and to find them healthy again is what the next one may rely on.
func (t *turn) applyWaves(ctx context.Context, r apply.Revision, proof *apply.Proof) (all apply.Report, waits string, err error) {
	waves := apply.Waves(r.Desired)
	if len(waves) < 2 {
		all, err = t.target.Apply(ctx, r, proof)
		return all, "", err
	}
	for n, wave := range waves {
		r.Wave = &wave
		report, err := t.target.Apply(ctx, r, proof)
		all.Plan.Changes, all.Inventory = append(all.Plan.Changes, report.Plan.Changes...), report.Inventory
		if err != nil || n == len(waves)-1 {
			return all, "", err
		}
		r.Held = report.Inventory
		if t.health(ctx, proof, apply.Until(wave, r.Desired)) != health.Healthy {
			return all, fmt.Sprintf("wave %d waits for wave %d: %s", waves[n+1], wave, t.app.Status.HealthMessage), nil
		}
	}
	return all, "", nil
}

// awaitWave says that the next wave has to wait. Waiting counts towards the time that a revision may take to be written.
func (t *turn) awaitWave(ctx context.Context, in *v1alpha1.Intent, waits string) (outcome, bool) {
	if time.Since(begun(in)) > timeoutOf(t.app) {
		return t.fail(ctx, in, reasonUnhealthy, errors.New(waits), true)
	}
	return outcome{soon, v1alpha1.Applying, reasonWave, waits}, false
}

// sumUp adds to the account of a look what earlier looks have written of the same intent, and keeps it.
func (t *turn) sumUp(in *v1alpha1.Intent, r *v1alpha1.SyncRecord) {
	if s := t.app.Status.LastSync; s != nil && s.Commit == r.Commit && !s.Started.Before(&in.Started) {
		r.Started, r.Created, r.Updated = s.Started, r.Created+s.Created, r.Updated+s.Updated
	}
	if r.Created+r.Updated > 0 {
		t.app.Status.LastSync = r
	}
}

// wavesOf says in which order objects would be applied, where there is one.
func wavesOf(objects []apply.Object) []string {
	waves := apply.Waves(objects)
	if len(waves) < 2 {
		return nil
	}
	return []string{"waves " + strings.Join(strings.Fields(strings.Trim(fmt.Sprint(waves), "[]")), ", ") + ": each begins when the one before it is healthy"}
}
