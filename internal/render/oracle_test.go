package render_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
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
		out := filepath.Join(scratch, name)
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

// comparison is what became of one case: how many objects were compared, or why none were.
type comparison struct {
	objects int
	skipped string // why, for the sum; "" when it was compared
	detail  string // what each said
}

// tally sums up comparisons by reason.
type tally struct {
	compared, objects int
	skipped           map[string]int
}

// add counts a comparison, and ends the test as skipped when it was none.
func (s *tally) add(t *testing.T, c comparison) {
	t.Helper()
	if c.skipped == "" {
		s.compared, s.objects = s.compared+1, s.objects+c.objects
		return
	}
	s.skip(c.skipped)
	t.Skipf("%s: %s", c.skipped, c.detail)
}

func (s *tally) skip(why string) {
	if s.skipped == nil {
		s.skipped = map[string]int{}
	}
	s.skipped[why]++
}

func (s *tally) print(t *testing.T, what string) {
	t.Helper()
	t.Logf("%d %s with %d objects compared", s.compared, what, s.objects)
	for _, why := range slices.Sorted(maps.Keys(s.skipped)) {
		t.Logf("skipped: %d: %s", s.skipped[why], why)
	}
}

// sameAsTool renders with the pool and with the tool, and fails the test where they differ.
func sameAsTool(t *testing.T, p *render.Pool, fsys fs.FS, root, where string, o render.Options) comparison {
	t.Helper()
	result, err := p.Render(t.Context(), render.Request{FS: fsys, Path: where, Options: o})
	kind := render.Helm
	if result != nil {
		kind = result.Kind
	} else if _, statErr := fs.Stat(fsys, path.Join(where, "Chart.yaml")); statErr != nil {
		kind = render.Kustomize
	}
	if kind == render.Plain {
		return comparison{skipped: "plain files, which no tool renders"}
	}
	text, toolErr := tool(t, kind, root, where, o)
	switch {
	case err != nil && toolErr != nil:
		return comparison{skipped: "neither renders it", detail: fmt.Sprintf("here: %v; the tool: %v", err, toolErr)}
	case toolErr != nil && (strings.Contains(toolErr.Error(), "missing in charts/") || strings.Contains(toolErr.Error(), "Chart.yaml file is missing")):
		return comparison{skipped: "a dependency lies in a folder of the repository, and helm wants it fetched beforehand", detail: toolErr.Error()}
	case toolErr != nil:
		t.Errorf("only the tool fails: %v", toolErr)
	case err != nil && stricter(err) != "":
		return comparison{skipped: "refused here: " + stricter(err), detail: err.Error()}
	case err != nil:
		t.Errorf("only we fail: %v", err)
	default:
		compare(t, result.Objects, documents(text), archivedRandom(filepath.Join(root, where)))
		return comparison{objects: len(result.Objects)}
	}
	return comparison{skipped: "failed"}
}

// passwords are what an archived dependency may make up; random does not see into archives.
var passwords = regexp.MustCompile(`(?m)^(\s*[\w-]*password: ).*$`)

// compare compares bytes; where the tool prints a List, which no tool takes apart, what both mean. masked leaves passwords out.
func compare(t *testing.T, objects []render.Object, theirs []string, masked bool) {
	t.Helper()
	var ours []string
	for _, o := range objects {
		ours = append(ours, strings.TrimRight(string(o.YAML), "\n")+"\n")
	}
	if slices.ContainsFunc(theirs, list.MatchString) {
		ours, theirs = meaning(t, ours), meaning(t, theirs)
	}
	sort.Strings(ours)
	got, want := strings.Join(ours, "---\n"), strings.Join(theirs, "---\n")
	if masked {
		got, want = passwords.ReplaceAllString(got, "$1"), passwords.ReplaceAllString(want, "$1")
	}
	if got != want {
		t.Errorf("ours:\n%s\ntheirs:\n%s", got, want)
	}
}

var list = regexp.MustCompile(`(?m)^kind: *"?\w*List"?$`)

// meaning takes Lists apart and writes every object in one way, sorted.
func meaning(t *testing.T, docs []string) []string {
	t.Helper()
	var out []string
	var add func(o map[string]any)
	add = func(o map[string]any) {
		if items, ok := o["items"].([]any); ok && strings.HasSuffix(fmt.Sprint(o["kind"]), "List") {
			for _, item := range items {
				add(item.(map[string]any))
			}
			return
		}
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(text))
	}
	for _, d := range docs {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(d), &o); err != nil {
			t.Fatal(err)
		}
		add(o)
	}
	sort.Strings(out)
	return out
}

// stricter says what is refused here and not by the tools, because the API server would, or because it is no object
// with an identity; "" when it is something else.
func stricter(err error) string {
	for _, text := range []string{"declared twice", "generateName", "has no apiVersion", "has no kind", "has no metadata", "no object", "that is no text"} {
		if strings.Contains(err.Error(), text) {
			return text
		}
	}
	return ""
}

// TestOracleCases compares every case of testdata with the tool.
func TestOracleCases(t *testing.T) {
	p := pool(t, render.PoolConfig{})
	var sum tally
	for _, name := range caseFiles(t) {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			c := loadCase(t, name)
			if why := noCaseForTools(c); why != "" {
				sum.add(t, comparison{skipped: why, detail: name})
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
			sum.add(t, sameAsTool(t, p, os.DirFS(root), root, c.path, c.options))
		})
	}
	sum.print(t, "cases")
}

// noCaseForTools says why a case cannot be compared; "" when it can.
func noCaseForTools(c *testCase) string {
	h := c.options.Helm
	_, isError := c.section("error")
	switch {
	case strings.HasPrefix(c.path, ".."):
		return "the path is not within the repository"
	case len(h.Layers) > 0 || h.Revision > 1 || !reflect.DeepEqual(h.Cluster, render.Cluster{}):
		return "helm template has no values of a cluster and no revision but the first"
	case c.options.Decrypt != nil:
		return "the tools have no keys"
	case isError:
		return "an error: what the tool says is its own business"
	}
	return ""
}

// moduleDir is where a module of go.mod lies.
func moduleDir(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		t.Fatalf("module %s is not on this machine (%v); fetch it with: go mod download %s", module, err, module)
	}
	return dir
}

// TestOracleModules renders every chart and kustomization that the modules of go.mod carry as test data and
// examples.
func TestOracleModules(t *testing.T) {
	p := pool(t, render.PoolConfig{})
	var sum tally
	for _, module := range []string{"helm.sh/helm/v3", "github.com/containerd/nri", "github.com/google/cadvisor", "k8s.io/pod-security-admission",
		"sigs.k8s.io/kustomize/kustomize/v5", "sigs.k8s.io/kustomize/api", "k8s.io/cli-runtime"} {
		root := moduleDir(t, module)
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
				sum.skip("gives something else each time")
				return nil
			}
			for _, upgrade := range []bool{false, true} {
				if upgrade && filepath.Base(name) != "Chart.yaml" {
					continue
				}
				how := map[bool]string{false: "install", true: "upgrade"}[upgrade]
				t.Run(path.Join(filepath.Base(module), where, how), func(t *testing.T) {
					o := render.Options{Namespace: "somewhere", Helm: render.HelmOptions{ReleaseName: "some-release", Upgrade: upgrade}}
					sum.add(t, sameAsTool(t, p, os.DirFS(root), root, where, o))
				})
			}
			return nil
		})
	}
	sum.print(t, "charts and kustomizations")
	if sum.compared < 30 {
		t.Errorf("only %d", sum.compared)
	}
}

// random reports whether a chart calls what gives something else each time.
func random(chart string) bool {
	found := false
	_ = filepath.WalkDir(filepath.Dir(chart), func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			data, _ := os.ReadFile(name)
			found = found || makesUp.Match(data)
		}
		return nil
	})
	return found
}

var makesUp = regexp.MustCompile(`\b(randAlpha|randAlphaNum|randNumeric|randAscii|genCA|genSelfSignedCert|genSignedCert|genPrivateKey|uuidv4|now)\b`)

// archivedRandom is random for what lies in archives below a folder.
func archivedRandom(dir string) bool {
	found := false
	_ = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || found || filepath.Ext(name) != ".tgz" {
			return nil
		}
		f, err := os.Open(name)
		if err != nil {
			return nil
		}
		defer f.Close()
		if z, err := gzip.NewReader(f); err == nil {
			data, _ := io.ReadAll(z)
			found = makesUp.Match(data)
		}
		return nil
	})
	return found
}
