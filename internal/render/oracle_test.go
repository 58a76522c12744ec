package render_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"sort"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/render/engine"
)

// The oracles are the tools themselves, built from their modules: comparing with their libraries would prove
// nothing. They are tools of go.mod.
func oracle(name, pkg string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		dir, err := os.MkdirTemp("", "gitopsd-oracle")
		if err != nil {
			return "", err
		}
		out := filepath.Join(dir, name)
		cmd := exec.Command("go", "build", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if text, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", name, err, text)
		}
		return out, nil
	})
}

var (
	kustomizeTool = oracle("kustomize", "sigs.k8s.io/kustomize/kustomize/v5")
	helmTool      = oracle("helm", "helm.sh/helm/v3/cmd/helm")
)

// run runs an oracle with an environment in which it finds nothing of this machine.
func run(t *testing.T, tool func() (string, error), dir string, args ...string) (string, error) {
	t.Helper()
	name, err := tool()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	home := t.TempDir()
	cmd.Env = []string{"HOME=" + home, "PATH=/nonexistent", "KUBECONFIG=/nonexistent"}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%w: %s", err, errs.String())
	}
	return out.String(), nil
}

// tool renders with the tool that the kind is the work of.
func tool(t *testing.T, kind render.Kind, root, where string, o render.Options) (string, error) {
	t.Helper()
	if kind == render.Kustomize {
		helm, err := helmTool()
		if err != nil {
			t.Fatal(err)
		}
		return run(t, kustomizeTool, root, "build", "--enable-helm", "--helm-command", helm, where)
	}
	if text, err := os.ReadFile(filepath.Join(root, where, "Chart.yaml")); err == nil && bytes.Contains(text, []byte("file://")) {
		if out, err := run(t, helmTool, root, "dependency", "update", "--skip-refresh", where); err != nil {
			return out, err
		}
		defer func() { _ = os.RemoveAll(filepath.Join(root, where, "charts")) }()
	}
	h := o.Helm
	name, namespace, kube := "release-name", "default", engine.DefaultKubeVersion
	for _, ns := range []string{o.Namespace, h.Namespace} {
		if ns != "" {
			namespace = ns
		}
	}
	if h.ReleaseName != "" {
		name = h.ReleaseName
	}
	if h.KubeVersion != "" {
		kube = h.KubeVersion
	}
	args := []string{"template", name, where, "--namespace", namespace, "--kube-version", kube, "--skip-tests"}
	if !h.SkipCRDs {
		args = append(args, "--include-crds")
	}
	if h.Upgrade {
		args = append(args, "--is-upgrade")
	}
	for _, f := range h.ValuesFiles {
		args = append(args, "-f", path.Join(where, f))
	}
	for _, v := range h.APIVersions {
		args = append(args, "--api-versions", v)
	}
	if h.Values != nil {
		text, err := yaml.Marshal(h.Values)
		if err != nil {
			t.Fatal(err)
		}
		inline := filepath.Join(t.TempDir(), "inline.yaml")
		if err := os.WriteFile(inline, text, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-f", inline)
	}
	return run(t, helmTool, root, args...)
}

var separator = regexp.MustCompile(`(?m)^---[ \t]*(?:#.*)?$\n?`)

// documents cuts what a tool printed at its separators, without documents that hold comments only.
func documents(printed string) []string {
	var out []string
	for _, d := range separator.Split(printed, -1) {
		blank := true
		for _, l := range strings.Split(d, "\n") {
			if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "#") {
				blank = false
			}
		}
		if !blank {
			out = append(out, strings.TrimRight(d, "\n")+"\n")
		}
	}
	sort.Strings(out)
	return out
}

// sameAsTool renders with the pool and with the tool. It reports whether both did, and whether either differs.
func sameAsTool(t *testing.T, p *render.Pool, fsys fs.FS, root, where string, o render.Options) (objects int, ok bool) {
	t.Helper()
	result, err := p.Render(t.Context(), render.Request{FS: fsys, Path: where, Options: o})
	kind := render.Helm
	if result != nil {
		kind = result.Kind
	} else if _, statErr := fs.Stat(fsys, path.Join(where, "Chart.yaml")); statErr != nil {
		kind = render.Kustomize
	}
	if kind == render.Plain {
		return 0, false
	}
	text, toolErr := tool(t, kind, root, where, o)
	switch {
	case err != nil && toolErr != nil:
		return 0, false
	case toolErr != nil && (strings.Contains(toolErr.Error(), "missing in charts/") || strings.Contains(toolErr.Error(), "Chart.yaml file is missing")):
		t.Log("a dependency lies in a folder of the repository: helm wants it fetched beforehand")
		return 0, false
	case toolErr != nil:
		t.Errorf("only the tool fails: %v", toolErr)
		return 0, false
	case err != nil:
		if stricter(err) {
			t.Logf("refused here: %v", err)
			return 0, false
		}
		t.Errorf("only we fail: %v", err)
		return 0, false
	}
	var ours []string
	for _, o := range result.Objects {
		ours = append(ours, strings.TrimRight(string(o.YAML), "\n")+"\n")
	}
	sort.Strings(ours)
	theirs := documents(text)
	if expanded(theirs) {
		return len(ours), true // a List, which no tool takes apart
	}
	// Archived dependencies may make up passwords; random does not see into them.
	made := regexp.MustCompile(`(?m)^(\s*[\w-]*password: ).*$`)
	if got, want := made.ReplaceAllString(strings.Join(ours, "---\n"), "$1"), made.ReplaceAllString(strings.Join(theirs, "---\n"), "$1"); got != want {
		t.Errorf("ours:\n%s\ntheirs:\n%s", got, want)
	}
	return len(ours), true
}

// stricter: what is refused here and not by the tools, because the API server would, or because it is no object
// with an identity.
func stricter(err error) bool {
	for _, text := range []string{"declared twice", "generateName", "has no apiVersion", "has no kind", "has no metadata", "no object", "that is no text"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

func expanded(docs []string) bool {
	for _, d := range docs {
		if regexp.MustCompile(`(?m)^kind: *\w*List$`).MatchString(d) {
			return true
		}
	}
	return false
}

// TestOracleCases compares every case of testdata with the tool.
func TestOracleCases(t *testing.T) {
	p := pool(t, render.PoolConfig{})
	for _, name := range caseFiles(t) {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			c := loadCase(t, name)
			if strings.HasPrefix(c.path, "..") {
				t.Skip("the path is not within the repository")
			}
			root := filepath.Join(t.TempDir(), "repo")
			for file, f := range c.files {
				where := filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(where), 0o755); err != nil {
					t.Fatal(err)
				}
				if f.Mode&fs.ModeSymlink != 0 {
					if err := os.Symlink(string(f.Data), where); err != nil {
						t.Fatal(err)
					}
				} else if err := os.WriteFile(where, f.Data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if h := c.options.Helm; len(h.Layers) > 0 || h.Revision > 1 || !reflect.DeepEqual(h.Cluster, render.Cluster{}) || c.options.Decrypt != nil {
				t.Skip("helm template has no values of a cluster, no revision but the first, and no keys")
			}
			if _, isError := c.section("error"); isError {
				t.Skip("an error: what the tool says is its own business")
			}
			if n, ok := sameAsTool(t, p, os.DirFS(root), root, c.path, c.options); ok {
				t.Logf("%d objects", n)
			}
		})
	}
}

// moduleDir is where a module of go.mod lies; "" if it is not there.
func moduleDir(module string) string {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// TestOracleModules renders every chart and kustomization that the modules of go.mod carry as test data and
// examples.
func TestOracleModules(t *testing.T) {
	p := pool(t, render.PoolConfig{})
	var compared, objects, failed int
	skipped := map[string]int{}
	for _, module := range []string{"helm.sh/helm/v3", "github.com/containerd/nri", "github.com/google/cadvisor", "k8s.io/pod-security-admission",
		"sigs.k8s.io/kustomize/kustomize/v5", "sigs.k8s.io/kustomize/api", "k8s.io/cli-runtime"} {
		root := moduleDir(module)
		if root == "" {
			t.Logf("%s is not on this machine", module)
			continue
		}
		_ = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			switch filepath.Base(name) {
			case "Chart.yaml", "kustomization.yaml", "kustomization.yml", "Kustomization":
			default:
				return nil
			}
			where, _ := filepath.Rel(root, filepath.Dir(name))
			if random(name) {
				skipped["gives something else each time"]++
				return nil
			}
			for _, upgrade := range []bool{false, true} {
				if upgrade && filepath.Base(name) != "Chart.yaml" {
					continue
				}
				how := map[bool]string{false: "install", true: "upgrade"}[upgrade]
				t.Run(path.Join(filepath.Base(module), where, how), func(t *testing.T) {
					o := render.Options{Namespace: "somewhere", Helm: render.HelmOptions{ReleaseName: "some-release", Upgrade: upgrade}}
					n, ok := sameAsTool(t, p, os.DirFS(root), root, where, o)
					if ok {
						compared++
						objects += n
					} else {
						failed++
					}
				})
			}
			return nil
		})
	}
	for why, n := range skipped {
		t.Logf("skipped: %d: %s", n, why)
	}
	t.Logf("%d charts and kustomizations with %d objects compared; %d that neither renders, or that are refused here", compared, objects, failed)
	if compared < 30 {
		t.Errorf("only %d", compared)
	}
}

// random reports whether a chart calls what gives something else each time.
func random(chart string) bool {
	found := false
	_ = filepath.WalkDir(filepath.Dir(chart), func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			data, _ := os.ReadFile(name)
			found = found || regexp.MustCompile(`\b(randAlpha|randAlphaNum|genCA|genSelfSignedCert|genPrivateKey|uuidv4|now)\b`).Match(data)
		}
		return nil
	})
	return found
}
