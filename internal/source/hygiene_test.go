package source

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestExcess(t *testing.T) {
	now := time.Unix(1e9, 0)
	ago := func(h int) time.Time { return now.Add(-time.Duration(h) * time.Hour) }
	all := []cached{
		{name: "fresh", bytes: 30, used: ago(1)},
		{name: "old", bytes: 10, used: ago(30)},
		{name: "followed", bytes: 60, used: ago(40), busy: true},
		{name: "older", bytes: 20, used: ago(23)},
		{name: "same", bytes: 5, used: ago(23)},
	}
	for _, c := range []struct {
		most int64
		want string
	}{
		{1000, "old"},
		{100, "old older"},
		{91, "old older same"},
		{1, "old older same fresh"},
	} {
		var names []string
		for _, gone := range excess(all, Keep{Unused: 24 * time.Hour, MaxBytes: c.most}, now) {
			names = append(names, gone.name)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("at most %d: %q, want %q", c.most, got, c.want)
		}
	}
}

// What nobody follows goes after a day, and at once when there is too much; what somebody follows or holds stays. In virtual time.
func TestUnusedMirrorsAreDeleted(t *testing.T) {
	root := t.TempDir()
	var repos []*repo
	for i := range 4 {
		r := repoIn(t, root, fmt.Sprintf("r%d", i))
		r.write("x", fmt.Sprint(i), "big", strings.Repeat("incompressible?", 100)).commit("x")
		repos = append(repos, r)
	}
	dir := t.TempDir()
	for _, leftover := range []string{goneFolder + "x.git", ".tmp-123"} {
		if err := os.MkdirAll(filepath.Join(dir, leftover, "objects"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var bytes int64
		var entries int
		s, err := Open(t.Context(), Config{Dir: dir, Keep: &Keep{Measured: func(b int64, n int) {
			mu.Lock()
			defer mu.Unlock()
			bytes, entries = b, n
		}}})
		if err != nil {
			t.Fatal(err)
		}
		measured := func() (int64, int) {
			mu.Lock()
			defer mu.Unlock()
			return bytes, entries
		}
		there := func() string {
			list, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, e := range list {
				i := slices.IndexFunc(repos, func(r *repo) bool { return (address{scheme: "file", path: r.dir}).folder() == e.Name() })
				names = append(names, map[bool]string{true: fmt.Sprint("r", i), false: e.Name()}[i >= 0])
			}
			slices.Sort(names)
			return strings.Join(names, " ")
		}
		read := func(i int) Snapshot {
			snap, err := s.Snapshot(t.Context(), Spec{URL: repos[i].dir})
			if err != nil {
				t.Fatal(err)
			}
			return snap
		}
		if got := there(); got != "" {
			t.Fatalf("leftovers of a crash: %s", got)
		}
		held := read(1)
		read(2)
		runtime.GC() // what is read and not held is let go of
		time.Sleep(time.Minute)
		if b, n := measured(); n != 2 || b < 100 {
			t.Errorf("measured %d bytes of %d repositories after a fetch", b, n)
		}
		time.Sleep(20 * time.Hour)
		read(3)
		time.Sleep(5 * time.Hour)
		if got := there(); got != "r1 r3" {
			t.Errorf("after 25 hours: %s", got)
		}
		if data, err := held.FS.(*tree).ReadFile("x"); err != nil || string(data) != "1" {
			t.Errorf("what is held: %q %v", data, err)
		}
		runtime.GC()
		synctest.Wait()
		s.cfg.Keep.MaxBytes = 1
		s.sweep(time.Now())
		if got := there(); got != "r1" {
			t.Errorf("when there is too much: %s", got)
		}
		runtime.KeepAlive(held)
		if again := read(3); again.Commit == "" {
			t.Error("what was deleted cannot be had again")
		}
	})
}

// A mirror that another process works with is not deleted, and a command beside the daemon deletes nothing.
func TestMirrorOfAnotherProcessStays(t *testing.T) {
	r := newRepo(t)
	r.write("x", "1").commit("x")
	dir := t.TempDir()
	owner, err := Open(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	snapshotOf(t, owner, Spec{URL: r.dir})
	other, err := Open(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	other.cfg.Keep = &Keep{Unused: time.Hour, MaxBytes: 1}
	name := (address{scheme: "file", path: r.dir}).folder()
	for range 2 { // unknown to it, and then opened to read
		other.sweep(time.Now().Add(48 * time.Hour))
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Fatalf("deleted under its owner: %v", err)
		}
		if _, err := other.mirror(address{scheme: "file", path: r.dir}); err != nil {
			t.Fatal(err)
		}
	}
	owner.cfg.Keep = &Keep{Unused: time.Hour, MaxBytes: 1 << 30}
	runtime.GC()
	owner.sweep(time.Now().Add(48 * time.Hour))
	if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
		t.Error("the owner does not delete what nobody uses")
	}
}
