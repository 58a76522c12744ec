package source

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// When its context has ended and Wait has returned, nothing of a store is left running.
func TestStoreLeavesNothingBehind(t *testing.T) {
	r := newRepo(t)
	r.write("a", "1").commit("first")
	srv := gitHTTP(t, filepath.Dir(r.dir), nil)
	defer srv.Close()
	before := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Open(ctx, Config{Dir: t.TempDir(), KnownHosts: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan Event, 10)
	for _, url := range []string{r.dir, srv.URL + "/repo", "/nowhere"} {
		if _, err := s.Subscribe(Spec{URL: url}, time.Hour, func(e Event) { heard <- e }); err != nil {
			t.Fatal(err)
		}
		next(t, heard)
	}
	unsubscribe, err := s.Subscribe(Spec{URL: r.dir, Ref: Ref{Branch: "main"}}, time.Hour, func(Event) {})
	if err != nil {
		t.Fatal(err)
	}
	unsubscribe()
	unsubscribe()
	cancel()
	s.Wait()
	srv.CloseClientConnections()
	goleak.VerifyNone(t, before)
	if _, err := s.Snapshot(t.Context(), Spec{URL: r.dir}); err == nil {
		t.Error("a store that has ended answers")
	}
}
