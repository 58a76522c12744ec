package render_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

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

// No thread of a worker sleeps in a read: with Go 1.26 it can hold up the garbage collector, and with it the render, for a minute.
func TestWorkersWaitWithoutAThread(t *testing.T) {
	p := pool(t, render.PoolConfig{Workers: 1})
	if _, err := p.Render(t.Context(), render.Request{FS: files("a.yaml", good)}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second) // it may be about to find nothing
	for _, pid := range children(os.Getpid()) {
		for reading(t, pid) {
			if time.Now().After(deadline) {
				t.Fatalf("a thread of worker %d reads its pipe", pid)
			}
		}
	}
}

// reading says whether a thread of a process is in a read of its standard input.
func reading(t *testing.T, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("no threads of worker %d: %v", pid, err)
	}
	for _, name := range threads {
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrPermission) {
			t.Skip("the threads of a worker may not be looked at: ", err)
		}
		if strings.HasPrefix(string(data), fmt.Sprintf("%d 0x0 ", unix.SYS_READ)) {
			return true
		}
	}
	return false
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
