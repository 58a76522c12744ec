package e2e

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/gitopsd/gitopsd/test/model"
	"golang.org/x/sync/errgroup"
)

// replayed is how many histories of the model are played on a real API server too; GITOPSD_HISTORIES=100 for more, in some minutes.
const replayed = 24

// What the model says of a history is what a real API server does with it: after each step the same phase, the same objects with the
// same values and owners, the same inventory, the same ends in the ledger.
func TestHistoriesOnARealAPI(t *testing.T) {
	withPlain(t)
	b, err := bare()
	if err != nil {
		t.Fatal(err)
	}
	stage, err := model.NewStage(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	group.SetLimit(24) // most of their time they wait
	for seed, n := uint64(1), 0; n < number(t, "GITOPSD_HISTORIES", replayed); seed++ {
		h := model.Calm(seed)
		var played model.Played
		synctest.Test(t, func(*testing.T) { played = stage.Play(h, fmt.Sprintf("played-%d", seed)) })
		for _, p := range played.Problems {
			t.Errorf("seed %d: %s", seed, p)
		}
		if !model.Replayable(played) {
			continue
		}
		n++
		group.Go(func() error {
			if err := stage.Replay(t.Context(), h, fmt.Sprintf("replay-%d", seed), b.config, played); err != nil {
				t.Errorf("%s\n%v", h, err)
			}
			return nil
		})
	}
	_ = group.Wait() // errors are told where they come up
}

// number is one of the environment.
func number(t testing.TB, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
