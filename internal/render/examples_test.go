package render_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/render"
)

// examples are the paths of examples/repos that a newcomer is told to use.
var examples = []struct {
	repo, path string
	options    render.Options
}{
	{"hello", ".", render.Options{}},
	{"kustomize", "overlays/staging", render.Options{}},
	{"kustomize", "overlays/production", render.Options{}},
	{"helm", "charts/web", render.Options{Helm: render.HelmOptions{ReleaseName: "root"}}},
	{"helm", "charts/web", render.Options{Helm: render.HelmOptions{ReleaseName: "web", Namespace: "web", ValuesFiles: []string{"values-production.yaml"}}}},
	{"overlay", "production", render.Options{}},
	{"applications", "apps", render.Options{}},
	{"applications", "web", render.Options{}},
	{"applications", "worker", render.Options{}},
}

// TestExamples compares the examples with examples/repos/golden, which -update writes, and with the tools.
func TestExamples(t *testing.T) {
	const root = "../../examples/repos"
	p := pool(t, render.PoolConfig{})
	for _, e := range examples {
		name := strings.TrimSuffix(e.repo+"-"+strings.ReplaceAll(e.path, "/", "-"), "-.")
		if len(e.options.Helm.ValuesFiles) > 0 {
			name += "-" + strings.TrimSuffix(e.options.Helm.ValuesFiles[0], ".yaml")
		}
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(root, e.repo)
			result, err := p.Render(t.Context(), render.Request{FS: os.DirFS(dir), Path: e.path, Options: e.options})
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join(root, "golden", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(printed(result)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got := printed(result); got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if c := sameAsTool(t, p, os.DirFS(dir), dir, e.path, e.options); c.skipped == "" {
				t.Logf("%d objects as the tool prints them", c.objects)
			} else if result.Kind != render.Plain {
				t.Errorf("not compared: %s: %s", c.skipped, c.detail)
			}
		})
	}
}

// Every repository of the examples is in the list above.
func TestExamplesAreAllTested(t *testing.T) {
	entries, err := os.ReadDir("../../examples/repos")
	if err != nil {
		t.Fatal(err)
	}
	tested := map[string]bool{"golden": true}
	for _, e := range examples {
		tested[e.repo] = true
	}
	for _, e := range entries {
		if !e.IsDir() || tested[e.Name()] {
			continue
		}
		t.Errorf("%s is not tested", e.Name())
	}
}
