// Package internal_test holds the rules of the house that a compiler does not know: who may import whom, and what must
// stay out of packages that are to stay small.
package internal_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/gitopsd/gitopsd/"

// mayImport says for each package which packages of ours it may import. Parts of the path below a name share its row.
// cmd/gitopsd and internal/daemon know everybody; what is not listed may import nothing of ours.
var mayImport = map[string][]string{
	"api":                   {},
	"internal/overview":     {"api"},
	"internal/redact":       {},
	"internal/source":       {"internal/redact"},
	"internal/render":       {"internal/redact"},
	"internal/render/cache": {"internal/durable", "internal/render"},
	"internal/review":       {},
	"internal/release":      {},
	"internal/diff":         {},
	"internal/health":       {},
	"internal/window":       {},
	"internal/apply":        {"internal/diff"},
	"internal/durable":      {},
	"internal/intent":       {"internal/durable"},
	"internal/ledger":       {"internal/durable"},
	"internal/pipeline":     {"api", "internal/apply", "internal/diff", "internal/health", "internal/intent", "internal/ledger", "internal/redact", "internal/release", "internal/render", "internal/review", "internal/source", "internal/window"},
	"internal/webhook":      {},
	"internal/generate":     {"api"},
	"internal/appset":       {"api", "internal/generate", "internal/redact", "internal/review", "internal/source"},
	"internal/bundle":       {"internal/durable"},
	"internal/containerd":   {"internal/bundle"},
	"internal/network":      {},
	"internal/nodeagent":    {},
	"internal/scheduler":    {},
	"internal/controlplane": {"internal/durable"},
	"cmd/gitopsd-render":    {"internal/render", "internal/redact"},
	"cmd/gitopsd-bridge":    {"internal/network"},
	"cmd/gitopsd-shim":      {},
	"cmd/gitopsd-runc":      {},
}

var knowsAll = []string{"cmd/gitopsd", "internal/daemon", "test", "examples"}

// mustNotLink keeps heavy libraries out of everything but the one room they belong to.
var mustNotLink = []struct{ library, only string }{
	{"k8s.io/kubernetes/cmd/", "internal/controlplane"},
	{"go.etcd.io/etcd/server/", "internal/controlplane"},
	{"helm.sh/helm/", "internal/render/engine"},
	{"sigs.k8s.io/kustomize/", "internal/render/engine"},
	{"github.com/go-git/", "internal/source"},
	{"oras.land/", "internal/source"},
	{"github.com/google/go-github/", "internal/review"},
	{"k8s.io/kubectl/", "cmd/gitopsd-kubectl"},
}

// mayStart are the packages that start programs, with what they start. Where strangers' files are rendered nothing is.
var mayStart = map[string]string{
	"cmd/gitopsd":                "kubectl, which takes its place",
	"internal/containerd":        "the container runtime that gitopsd brings along",
	"internal/render":            "render workers, in a sandbox without execve",
	"internal/source/sourcetest": "git, in tests",
}

type listed struct {
	ImportPath, Dir  string
	Imports, GoFiles []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,GoFiles", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestImportTable(t *testing.T) {
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		if room(from, knowsAll) != "" {
			continue
		}
		row := room(from, keys(mayImport))
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module)
			if !ours || (row != "" && room(to, []string{row}) != "") {
				continue
			}
			if room(to, mayImport[row]) == "" {
				t.Errorf("%s imports %s, which the import table does not allow", from, to)
			}
		}
	}
}

func TestHeavyLibrariesStayInTheirRooms(t *testing.T) {
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		for _, rule := range mustNotLink {
			for _, imp := range p.Imports {
				if strings.HasPrefix(imp, rule.library) && room(from, []string{rule.only}) == "" {
					t.Errorf("%s imports %s, which belongs to %s alone", from, imp, rule.only)
				}
			}
		}
	}
}

// TestWhoStartsPrograms: no package but those of mayStart starts a program, and none starts a shell.
func TestWhoStartsPrograms(t *testing.T) {
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		if room(from, []string{"internal", "cmd"}) == "" {
			continue // tests and tools
		}
		_, may := mayStart[from]
		if slices.Contains(p.Imports, "os/exec") && !may {
			t.Errorf("%s imports os/exec; what does it start?", from)
		}
		for _, name := range p.GoFiles {
			shells, starts := programs(t, filepath.Join(p.Dir, name))
			if len(shells) > 0 {
				t.Errorf("%s/%s names a shell: %q", from, name, shells)
			}
			if len(starts) > 0 && !may {
				t.Errorf("%s/%s starts a program: %q", from, name, starts)
			}
		}
	}
}

// programs lists the shells that a file names, and how it starts programs without os/exec.
func programs(t *testing.T, name string) (shells, starts []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			text, _ := strconv.Unquote(n.Value)
			if n.Kind == token.STRING && slices.Contains([]string{"sh", "bash", "dash", "ash"}, path.Base(text)) {
				shells = append(shells, text)
			}
		case *ast.SelectorExpr:
			x, _ := n.X.(*ast.Ident)
			if x != nil && slices.Contains([]string{"os.StartProcess", "syscall.StartProcess", "syscall.ForkExec", "syscall.Exec", "unix.Exec"}, x.Name+"."+n.Sel.Name) {
				starts = append(starts, x.Name+"."+n.Sel.Name)
			}
		}
		return true
	})
	return shells, starts
}

// room returns the longest of the names that is p or a folder above it.
func room(p string, names []string) string {
	for d := p; d != "." && d != "/"; d = path.Dir(d) {
		if slices.Contains(names, d) {
			return d
		}
	}
	return ""
}

func keys(m map[string][]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	return out
}
