package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// repo is a local Git repository that a test pushes to.
type repo struct {
	dir  string
	path string // of the manifests inside it
}

func newRepo(t testing.TB, files map[string]string) *repo {
	t.Helper()
	r := &repo{dir: t.TempDir()}
	r.git(t, "init", "-q", "-b", "main", ".")
	r.commit(t, "one", files)
	return r
}

// commit writes files, removes those that are empty, and commits; it returns the commit.
func (r *repo) commit(t testing.TB, message string, files map[string]string) string {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(r.dir, name)
		if text == "" {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r.git(t, "add", "-A")
	r.git(t, "commit", "-q", "--allow-empty", "-m", message)
	return r.head(t)
}

// revert reverts the last commit.
func (r *repo) revert(t testing.TB) string {
	t.Helper()
	r.git(t, "revert", "--no-edit", "HEAD")
	return r.head(t)
}

func (r *repo) head(t testing.TB) string { return strings.TrimSpace(r.git(t, "rev-parse", "HEAD")) }

func (r *repo) git(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"}, args...)...)
	cmd.Dir = r.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func writeFile(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
