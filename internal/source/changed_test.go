package source

import (
	"context"
	"errors"
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

// A link that comes, goes or turns shows other files under paths that no commit names, so that nothing is certain then.
func TestChangedLinks(t *testing.T) {
	r := newRepo(t).write("apps/web.yaml", "1", "common/v.yaml", "1", "other/v.yaml", "1")
	r.commit("x")
	s := openStore(t, Limits{})
	link := filepath.Join(r.dir, "apps/shared")
	before := snapshotOf(t, s, Spec{URL: r.dir})
	for _, c := range []struct {
		what    string
		certain bool
		change  func() error
	}{
		{"a link comes", false, func() error { return os.Symlink("../common", link) }},
		{"a file changes beside it", true, func() error { r.write("apps/web.yaml", "2"); return nil }},
		{"it leads elsewhere", false, func() error { return errors.Join(os.Remove(link), os.Symlink("../other", link)) }},
		{"it becomes a folder", false, func() error {
			return errors.Join(os.Remove(link), os.Mkdir(link, 0o755), os.WriteFile(link+"/v.yaml", nil, 0o644))
		}},
		{"the folder becomes a link", false, func() error { return errors.Join(os.RemoveAll(link), os.Symlink("../other", link)) }},
		{"it goes with its folder", false, func() error { return os.RemoveAll(filepath.Dir(link)) }},
	} {
		if err := c.change(); err != nil {
			t.Fatal(err)
		}
		r.commit(c.what)
		after := snapshotOf(t, s, Spec{URL: r.dir})
		if paths, ok := Changed(before, after); ok != c.certain {
			t.Errorf("%s: certain is %v, %q", c.what, ok, paths)
		}
		before = after
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
