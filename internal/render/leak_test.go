package render_test

import (
	"errors"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/gitopsd/gitopsd/internal/render"
)

// A closed pool leaves no process, no goroutine and no handle behind, and says that it is closed.
func TestPoolLeavesNothingBehind(t *testing.T) {
	program, err := worker()
	if err != nil {
		t.Fatal(err)
	}
	before, handles := goleak.IgnoreCurrent(), openFiles(t)
	p, err := render.NewPool(render.PoolConfig{Program: program, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := p.Render(t.Context(), render.Request{FS: files("a.yaml", good)}); err != nil {
			t.Fatal(err)
		}
	}
	p.Close()
	p.Close()
	goleak.VerifyNone(t, before)
	if n := openFiles(t); n > handles {
		t.Errorf("%d handles, %d before", n, handles)
	}
	if _, err := p.Render(t.Context(), render.Request{FS: files("a.yaml", good)}); !errors.Is(err, render.ErrInternal) {
		t.Errorf("a closed pool: %v", err)
	}
	for _, pid := range children(os.Getpid()) {
		if alive(pid) {
			t.Errorf("process %d is left", pid)
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
