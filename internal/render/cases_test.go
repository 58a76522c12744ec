package render_test

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/gitopsd/gitopsd/internal/render"
)

var update = flag.Bool("update", false, "write what cases give as what they should give")

// testCase is one file of testdata. Its sections are the files of a repository, and besides:
//
//	-- options --        YAML: path, and the fields of render.Options; absent: path "."
//	-- link NAME --      a symbolic link; the content is where it leads
//	-- want --           what comes out; go test -update writes it
//	-- error --          or: the error's class and text
type testCase struct {
	name    string
	archive *txtar.Archive
	files   fstest.MapFS
	path    string
	options render.Options
}

func loadCase(t *testing.T, name string) *testCase {
	t.Helper()
	a, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	c := &testCase{name: name, archive: a, files: fstest.MapFS{}, path: "."}
	for _, f := range a.Files {
		switch {
		case f.Name == "want", f.Name == "error":
		case f.Name == "options":
			o := struct {
				Path string `json:"path"`
				render.Options
			}{Path: "."}
			if err := yaml.UnmarshalStrict(f.Data, &o); err != nil {
				t.Fatal(err)
			}
			c.path, c.options = o.Path, o.Options
		case strings.HasPrefix(f.Name, "link "):
			c.files[strings.TrimPrefix(f.Name, "link ")] = &fstest.MapFile{Data: bytes.TrimSpace(f.Data), Mode: fs.ModeSymlink | 0o777}
		default:
			c.files[f.Name] = &fstest.MapFile{Data: f.Data, Mode: 0o644}
		}
	}
	return c
}

func (c *testCase) section(name string) (string, bool) {
	for _, f := range c.archive.Files {
		if f.Name == name {
			return string(f.Data), true
		}
	}
	return "", false
}

// rewrite puts what came out in place of want or error.
func (c *testCase) rewrite(t *testing.T, section, text string) {
	t.Helper()
	var files []txtar.File
	for _, f := range c.archive.Files {
		if f.Name != "want" && f.Name != "error" {
			files = append(files, f)
		}
	}
	c.archive.Files = append(files, txtar.File{Name: section, Data: []byte(text)})
	if err := os.WriteFile(c.name, txtar.Format(c.archive), 0o644); err != nil {
		t.Fatal(err)
	}
}

// printed is a result as golden files hold it.
func printed(r *render.Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", r.Kind)
	for _, o := range r.Objects {
		hooks := ""
		if len(o.Hooks) > 0 {
			hooks = " hook " + strings.Join(o.Hooks, ",")
		}
		fmt.Fprintf(&b, "\n=== %s, from %s%s\n%s", render.Name(o.Object), o.Origin, hooks, o.YAML)
	}
	return b.String()
}

func caseFiles(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	return names
}

func TestCases(t *testing.T) {
	p := pool(t, render.PoolConfig{Workers: 2})
	for _, name := range caseFiles(t) {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			c := loadCase(t, name)
			result, err := p.Render(t.Context(), render.Request{FS: c.files, Path: c.path, Options: c.options})
			section, got := "want", ""
			if err != nil {
				section, got = "error", fmt.Sprintln(err)
			} else {
				got = printed(result)
			}
			want, ok := c.section(section)
			switch {
			case *update:
				c.rewrite(t, section, got)
			case !ok:
				t.Errorf("no section %s, and this came out:\n%s", section, got)
			case got != want:
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if err == nil {
				again, err := p.Render(t.Context(), render.Request{FS: c.files, Path: c.path, Options: c.options})
				if err != nil || printed(again) != got || again.Inputs.Hash() != result.Inputs.Hash() {
					t.Errorf("the second time: %v, or another result", err)
				}
				if !result.Inputs.Match(c.files) {
					t.Error("the inputs do not match the files they were taken from")
				}
			}
		})
	}
}
