package render_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/render"
)

// Kustomize's own tests write their files from string literals of Go: th.WriteK(dir, text), th.WriteF(file, text), th.WriteC(dir,
// text), and then th.Run(dir, …). literals reads them from the sources, so that hundreds of kustomizations can be compared.
type literals struct {
	funcs   map[string]*ast.FuncDecl
	consts  map[string]string
	skipped map[string]int // reasons
	cases   []literalCase
}

// literalCase is one call of Run, with the files as they are then.
type literalCase struct {
	name, path string
	files      map[string]string
}

func readLiterals(t *testing.T, dir string) *literals {
	t.Helper()
	l := &literals{funcs: map[string]*ast.FuncDecl{}, consts: map[string]string{}, skipped: map[string]int{}}
	names, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					l.funcs[d.Name.Name] = d
				}
			case *ast.GenDecl:
				l.constants(d)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.funcs)) {
		if strings.HasPrefix(name, "Test") {
			l.follow(name, l.funcs[name].Body, map[string]string{}, 0)
		}
	}
	return l
}

func (l *literals) constants(d *ast.GenDecl) {
	for _, s := range d.Specs {
		if v, ok := s.(*ast.ValueSpec); ok {
			for n, name := range v.Names {
				if n < len(v.Values) {
					if text, ok := l.text(v.Values[n]); ok {
						l.consts[name.Name] = text
					}
				}
			}
		}
	}
}

// follow goes through the calls of a function in their order.
func (l *literals) follow(test string, body ast.Node, files map[string]string, depth int) {
	if depth > 5 {
		return
	}
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit, *ast.RangeStmt, *ast.ForStmt:
			l.skipped["files made in a loop or by a table"]++
			return false
		case *ast.CallExpr:
			l.call(test, n, files, depth)
		}
		return true
	})
}

func (l *literals) call(test string, c *ast.CallExpr, files map[string]string, depth int) {
	if f, ok := c.Fun.(*ast.Ident); ok && l.funcs[f.Name] != nil && len(c.Args) > 0 {
		l.follow(test, l.funcs[f.Name].Body, files, depth+1) // a helper that writes files
		return
	}
	method, ok := c.Fun.(*ast.SelectorExpr)
	if !ok || len(c.Args) == 0 {
		return
	}
	where, known := l.text(c.Args[0])
	where = strings.TrimPrefix(path.Clean("/"+where), "/")
	heads := map[string]string{"WriteK": "\napiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n",
		"WriteC": "\napiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\n", "WriteF": ""}
	switch method.Sel.Name {
	case "WriteK", "WriteC", "WriteF":
		content, literal := "", false
		if len(c.Args) == 2 {
			content, literal = l.text(c.Args[1])
		}
		if !known || !literal {
			l.skipped["files that are no literals"]++
			files["\x00"] = "" // what follows in this test is not what it was
			return
		}
		if method.Sel.Name != "WriteF" {
			where = path.Join(where, "kustomization.yaml")
		}
		files[where] = heads[method.Sel.Name] + content
	case "Run", "RunWithErr":
		if _, lost := files["\x00"]; lost || !known || len(files) == 0 {
			if known && len(files) > 0 {
				l.skipped["runs over files that are no literals"]++
			}
			return
		}
		l.cases = append(l.cases, literalCase{test + "/" + strconv.Itoa(len(l.cases)), path.Clean("./" + where), maps.Clone(files)})
	}
}

// text is the value of an expression that is a literal, a constant, or a sum of those.
func (l *literals) text(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, err == nil && e.Kind == token.STRING
	case *ast.Ident:
		text, ok := l.consts[e.Name]
		return text, ok
	case *ast.BinaryExpr:
		a, okA := l.text(e.X)
		b, okB := l.text(e.Y)
		return a + b, okA && okB && e.Op == token.ADD
	case *ast.ParenExpr:
		return l.text(e.X)
	}
	return "", false
}

// TestOracleLiterals compares every kustomization of Kustomize's own tests that stands in their sources with what the program
// kustomize makes of it.
func TestOracleLiterals(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the program some hundred times")
	}
	root := moduleDir(t, "sigs.k8s.io/kustomize/api")
	l := readLiterals(t, filepath.Join(root, "krusty"))
	p := pool(t, render.PoolConfig{})
	sum := tally{skipped: l.skipped}
	for _, c := range l.cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range c.files {
				where := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(where), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(where, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			sum.add(t, sameAsTool(t, p, os.DirFS(dir), dir, c.path, render.Options{Kind: render.Kustomize}))
		})
	}
	sum.print(t, fmt.Sprintf("of %d kustomizations of %s", len(l.cases), root))
	if sum.compared < 150 {
		t.Errorf("only %d were compared", sum.compared)
	}
}
