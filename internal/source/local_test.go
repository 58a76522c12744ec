package source

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
)

func openStore(t *testing.T, limits Limits) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Dir: t.TempDir() + "/git", Limits: limits, KnownHosts: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func read(t *testing.T, f fs.FS, name string) string {
	t.Helper()
	data, err := fs.ReadFile(f, name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestLocalRefs(t *testing.T) {
	r := newRepo(t)
	first := r.write("a.yaml", "one", "dir/b.yaml", "b").commit("first\n\nbody")
	r.git("tag", "light")
	r.git("tag", "-a", "-m", "x", "v1")
	second := r.write("a.yaml", "two").commit("second")
	r.git("branch", "feature/x", first)
	r.write("a.yaml", "not committed")
	s := openStore(t, Limits{})
	for _, c := range []struct {
		ref          Ref
		name, commit string
	}{
		{Ref{}, "main", second},
		{Ref{Branch: "main"}, "main", second},
		{Ref{Branch: "feature/x"}, "feature/x", first},
		{Ref{Tag: "light"}, "light", first},
		{Ref{Tag: "v1"}, "v1", first},
		{Ref{Commit: first}, first, first},
	} {
		for _, url := range []string{r.dir, "file://" + r.dir, r.dir + "/.git"} {
			snap, err := s.Snapshot(t.Context(), Spec{URL: url, Ref: c.ref})
			if err != nil {
				t.Fatalf("%s at %+v: %v", url, c.ref, err)
			}
			if snap.Commit != c.commit || snap.Ref != c.name {
				t.Errorf("%+v: got %s at %s, want %s at %s", c.ref, snap.Ref, snap.Commit, c.name, c.commit)
			}
			want := "two"
			if c.commit == first {
				want = "one"
			}
			if got := read(t, snap.FS, "a.yaml"); got != want {
				t.Errorf("%+v: a.yaml is %q, want %q", c.ref, got, want)
			}
			if err := fstest.TestFS(snap.FS, "a.yaml", "dir/b.yaml"); err != nil {
				t.Error(err)
			}
		}
	}
	snap, err := s.At(Spec{URL: r.dir}, first)
	if err != nil || snap.Subject != "first" || snap.Author != "Ann <ann@example.org>" {
		t.Errorf("At: %+v, %v", snap, err)
	}
}

// Of a repository in which branches come and go no other branch is missing, and it is at no time empty.
func TestLocalRefsWhileBranchesVanish(t *testing.T) {
	r := newRepo(t)
	r.write("a", "1").commit("first")
	done := make(chan struct{})
	go func() {
		defer close(done)
		refs := filepath.Join(r.dir, ".git/refs/heads")
		hash, err := os.ReadFile(filepath.Join(refs, "main"))
		if err != nil {
			t.Error(err)
			return
		}
		for i := range 3000 { // as git does, but faster
			name := filepath.Join(refs, fmt.Sprintf("b%d", i%7))
			err := errors.Join(os.WriteFile(name+".lock", hash, 0o644), os.Rename(name+".lock", name), os.Remove(name))
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for n := 0; ; n++ {
		session, err := openLocal(r.dir, Limits{}.withDefaults())
		if err != nil {
			t.Fatal(err)
		}
		list, err := session.refs(t.Context())
		session.close()
		if err != nil || list.hashes["refs/heads/main"].IsZero() {
			<-done
			t.Fatalf("look %d: %v %+v", n, err, list)
		}
		select {
		case <-done:
			t.Logf("%d looks", n)
			return
		default:
		}
	}
}
