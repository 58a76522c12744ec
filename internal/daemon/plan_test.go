package daemon

import (
	"os"
	"path/filepath"
	"testing"
)

// What a person means by --dir: the folder that has the Application's path below it, or the checkout around it.
func TestWorkingCopy(t *testing.T) {
	top := t.TempDir()
	for _, d := range []string{"checkout/.git", "checkout/apps/web", "checkout/other", "export/apps/web", "empty"} {
		if err := os.MkdirAll(filepath.Join(top, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ dir, path, want string }{
		{"checkout", "apps/web", "checkout"},
		{"checkout/apps/web", "apps/web", "checkout"},
		{"checkout/other", "", "checkout"},
		{"checkout/other", "./", "checkout"},
		{"export", "apps/web", "export"},
		{"export/apps", "apps/web", ""},
		{"empty", "", "empty"},
		{"empty", "apps/web", ""},
		{"missing", "", ""},
	} {
		got, err := WorkingCopy(filepath.Join(top, c.dir), c.path)
		if c.want == "" && err == nil || c.want != "" && (err != nil || got != filepath.Join(top, c.want)) {
			t.Errorf("%s with path %q: %s, %v; want %s", c.dir, c.path, got, err, c.want)
		}
	}
}
