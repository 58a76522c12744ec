package pipeline

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/source"
	"k8s.io/apimachinery/pkg/types"
)

// TestReaders tells which commits an Application passes over.
func TestReaders(t *testing.T) {
	dir := t.TempDir()
	store, err := source.Open(t.Context(), source.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@example.org"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	git("init", "-q", "-b", "main", ".")
	commit := func(name, content string) source.Snapshot {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		git("add", "-A")
		git("commit", "-qm", name)
		s, err := store.Snapshot(context.Background(), source.Spec{URL: dir})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := commit("web/app.yaml", "1")
	other := commit("db/app.yaml", "1")
	mine := commit("web/app.yaml", "2")
	back := commit("web/app.yaml", "1")
	beside := commit("web/more.yaml", "1")

	r, web := newReaders(), types.NamespacedName{Name: "web"}
	read := render.Inputs{"web": {Names: "x"}, "web/app.yaml": {Content: "x"}, "web/kustomization.yaml": {Type: "absent"}}
	expect := func(from, to source.Snapshot, want bool, why string) {
		t.Helper()
		if got := r.passOver(web, from, to); got != want {
			t.Errorf("%s: passed over is %v", why, got)
		}
	}
	expect(first, other, false, "nothing is known yet")
	r.note(web, first, read)
	expect(first, other, true, "another folder")
	expect(first, other, false, "it has gone on since")
	expect(other, mine, false, "a file that was read")
	r.note(web, mine, read)
	expect(mine, back, false, "a file that was read goes back")
	r.note(web, back, read)
	expect(back, beside, false, "a folder that was listed has one file more")
	r.note(web, beside, read)
	expect(beside, commit("web/kustomization.yaml", "x"), false, "a file that was looked for in vain has come")
	linked := commit("common/v.yaml", "1")
	r.note(web, linked, render.Inputs{"web": {Names: "x"}, "web/shared/v.yaml": {Type: "absent"}})
	if err := os.Symlink("../common", filepath.Join(dir, "web/shared")); err != nil {
		t.Fatal(err)
	}
	expect(linked, commit("db/app.yaml", "2"), false, "a link has come on the way to what was looked for in vain")
	r.drop(web)
	expect(first, other, false, "it was dropped")
}
