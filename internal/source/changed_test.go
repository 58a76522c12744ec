package source

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestChanged(t *testing.T) {
	r := newRepo(t)
	store, err := Open(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	at := func(change func()) Snapshot {
		t.Helper()
		change()
		r.commit("x")
		s, err := store.Snapshot(context.Background(), Spec{URL: r.dir, Ref: Ref{Branch: "main"}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	remove := func(name string) func() {
		return func() {
			if err := os.RemoveAll(filepath.Join(r.dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := at(func() {
		r.write("a/one.yaml", "1", "a/two.yaml", "2", "b/c/d.yaml", "3", "top.yaml", "4", "e.yaml", "5")
	})
	for _, c := range []struct {
		what, want string
		change     func()
	}{
		{"nothing", "", func() {}},
		{"a file differs", "a/one.yaml", func() { r.write("a/one.yaml", "other") }},
		{"a file comes", "a a/three.yaml", func() { r.write("a/three.yaml", "new") }},
		{"a file goes", ". top.yaml", remove("top.yaml")},
		{"a folder goes with all that is below", ". b b/c b/c/d.yaml", remove("b")},
		{"a folder comes deep below", "a a/x a/x/y a/x/y/z.yaml", func() { r.write("a/x/y/z.yaml", "new") }},
		{"a file becomes a folder", ". e.yaml e.yaml/f", func() { remove("e.yaml")(); r.write("e.yaml/f", "new") }},
	} {
		after := at(c.change)
		paths, ok := Changed(before, after)
		slices.Sort(paths)
		if got := strings.Join(slices.Compact(paths), " "); !ok || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.what, got, ok, c.want)
		}
		before = after
	}
	if _, ok := Changed(before, Snapshot{FS: os.DirFS(r.dir)}); ok {
		t.Error("told what changed between a commit and a folder")
	}
}

func TestDirect(t *testing.T) {
	r := newRepo(t).write("a/one.yaml", "1")
	for name, target := range map[string]string{"a/link.yaml": "one.yaml", "folder": "a"} {
		if err := os.Symlink(target, filepath.Join(r.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r.commit("x")
	store, err := Open(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Snapshot(context.Background(), Spec{URL: r.dir, Ref: Ref{Branch: "main"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{".": true, "a": true, "a/one.yaml": true, "a/absent/deep": true, "a/one.yaml/x": true,
		"a/link.yaml": false, "folder/one.yaml": false, "folder": false} {
		if got := s.Direct(name); got != want {
			t.Errorf("Direct(%q) is %v", name, got)
		}
	}
}
