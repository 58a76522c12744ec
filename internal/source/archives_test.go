package source

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/source/sourcetest"
)

// The cache's rules hold for archives: what somebody follows stays however old it is, what nobody uses any more goes.
func TestArchivesAreForgotten(t *testing.T) {
	r := sourcetest.NewRegistry(t, nil)
	digest := r.Push("acme/web", nil, fluxLayers(t, sourcetest.File("a", "1")), "latest")
	s := openStore(t, Limits{})
	s.cfg.Keep = &Keep{Unused: time.Hour, MaxBytes: 1 << 30}
	spec := Spec{URL: r.Address("acme/web")}
	events := make(chan Event, 10)
	cancel, err := s.Subscribe(spec, time.Hour, func(e Event) { events <- e })
	if err != nil {
		t.Fatal(err)
	}
	if e := next(t, events); e.Err != nil || e.Snapshot.Commit != digest {
		t.Fatalf("heard %+v", e)
	}
	later := time.Now().Add(2 * time.Hour)
	runtime.GC()
	s.sweep(later)
	if _, err := s.At(spec, digest); err != nil {
		t.Errorf("while somebody follows it: %v", err)
	}
	cancel()
	deadline := time.Now().Add(20 * time.Second)
	for { // the loop ends some time after the last subscriber has gone, and what it held is garbage then
		runtime.GC()
		later = later.Add(2 * time.Hour)
		s.sweep(later)
		left, err := filepath.Glob(filepath.Join(s.cfg.Dir, "*"+shelfFolder))
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: %v", left)
		}
		runtime.Gosched()
	}
	if _, err := os.Stat(s.cfg.Dir); err != nil {
		t.Error(err)
	}
	if got, err := s.Snapshot(t.Context(), spec); err != nil || got.Commit != digest {
		t.Errorf("fetched again: %v", err)
	}
}
