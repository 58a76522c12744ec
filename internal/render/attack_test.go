package render_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gitopsd/gitopsd/internal/render"
)

func chart(templates ...string) fstest.MapFS {
	f := files("Chart.yaml", "apiVersion: v2\nname: c\nversion: 0.1.0\n")
	for i, text := range templates {
		f[fmt.Sprintf("templates/t%d.yaml", i)] = &fstest.MapFile{Data: []byte(text)}
	}
	return f
}

const good = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good}\n"

// bomb is the classic: nine levels of lists of nine aliases each.
func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9), ","))
	}
	return b.String()
}

// Every attack costs its own render and nothing else: the pool goes on, and the next render by the same workers is
// what it always was.
func TestExhaustion(t *testing.T) {
	limits := render.Limits{Time: 3 * time.Second, Memory: 256 << 20, Output: 8 << 20, Objects: 500, Input: 16 << 20, Questions: 2000}
	p := pool(t, render.PoolConfig{Workers: 1, Limits: limits})
	many := files("a.yaml", good)
	for i := range 600 {
		many[fmt.Sprintf("d/%d.yaml", i)] = &fstest.MapFile{Data: []byte(fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m%d}\n", i))}
	}
	schema := `{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"a":{"allOf":[{"$ref":"#/definitions/a"}]}},"allOf":[{"$ref":"#/definitions/a"}]}`
	recursive := chart(good)
	recursive["values.schema.json"] = &fstest.MapFile{Data: []byte(schema)}
	remoteSchema := chart(good)
	remoteSchema["values.schema.json"] = &fstest.MapFile{Data: []byte(`{"$ref":"http://169.254.169.254/schema.json"}`)}
	fileSchema := chart(good)
	fileSchema["values.schema.json"] = &fstest.MapFile{Data: []byte(`{"$ref":"file:///etc/passwd"}`)}
	for _, c := range []struct {
		name  string
		files fs.FS
		class error // nil: rendered after all, or an ordinary error
	}{
		{"alias bomb", files("a.yaml", bomb()), render.ErrInvalid},
		{"alias bomb in a kustomization", files("kustomization.yaml", "resources: [a.yaml]\n", "a.yaml", good+"data:\n  x: y\nx:\n  "+strings.ReplaceAll(bomb(), "\n", "\n  ")), nil},
		{"alias bomb as kustomization", files("kustomization.yaml", bomb()), nil},
		{"alias bomb from a template", chart(bomb()), nil},
		{"alias bomb as values", func() fs.FS { f := chart(good); f["values.yaml"] = &fstest.MapFile{Data: []byte(bomb())}; return f }(), nil},
		{"deep nesting", files("a.yaml", strings.Repeat("[", 100_000)), nil},
		{"deep nesting of maps", files("a.yaml", strings.Repeat("{a: ", 50_000)), nil},
		{"deep JSON", files("a.json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"x":`+strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)+"}"), nil},
		{"long line", files("a.yaml", good+"data: {x: "+strings.Repeat("y", 10<<20)+"}\n"), render.ErrLimit},
		{"too much input", files("a.yaml", strings.Repeat("# comment\n", 2<<20)), render.ErrLimit},
		{"too many objects", many, render.ErrLimit},
		{"many documents", files("a.yaml", strings.Repeat("---\n"+good, 2000)), render.ErrLimit},
		{"endless template", chart(`{{ range $i := until 100000000 }}{{ $i }}{{ end }}`), render.ErrLimit},
		{"template that only takes time", chart(`{{ range $i := until 20000 }}{{ range $j := until 20000 }}{{ $x := add $i $j }}{{ end }}{{ end }}`), render.ErrLimit},
		{"template that calls itself", chart(`{{ define "x" }}{{ template "x" . }}{{ end }}{{ template "x" . }}`), nil},
		{"template that includes itself", chart(`{{ define "x" }}{{ include "x" . }}{{ end }}{{ include "x" . }}`), nil},
		{"tpl that calls itself", chart(`{{ $t := "{{ tpl .Values.t . }}" }}{{ tpl $t (dict "Values" (dict "t" $t) "Template" .Template) }}`), nil},
		{"memory", chart(`{{ $x := repeat 1000000 "x" }}{{ range $i := until 1000 }}{{ $x = print $x $x }}{{ end }}`), render.ErrLimit},
		{"large output", chart(`{{ range $i := until 200 }}` + "\n---\n" + `apiVersion: v1
kind: ConfigMap
metadata: {name: m{{ $i }}}
data: {x: {{ repeat 100000 "y" }}}
{{ end }}`), render.ErrLimit},
		{"regular expression", chart(`{{ regexMatch "(a|aa)+$" (repeat 100000 "a") }}`), nil},
		{"key for ever", chart(`{{ genPrivateKey "rsa" }}`), nil},
		{"recursive schema", recursive, nil},
		{"schema elsewhere", remoteSchema, render.ErrInvalid},
		{"schema of this machine", fileSchema, render.ErrInvalid},
		{"Lists in Lists", files("a.yaml", strings.Repeat("{apiVersion: v1, kind: List, items: [", 5000)+strings.Repeat("]}", 5000)), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			started := time.Now()
			result, err := p.Render(t.Context(), render.Request{FS: c.files})
			if c.class != nil && !errors.Is(err, c.class) {
				t.Errorf("got %v, want %v", short(err), c.class)
			}
			if errors.Is(err, render.ErrInternal) {
				t.Errorf("the worker died: %v", err)
			}
			if err == nil {
				t.Logf("%d objects in %s", len(result.Objects), time.Since(started).Round(time.Millisecond))
			} else {
				t.Logf("%s in %s", short(err), time.Since(started).Round(time.Millisecond))
			}
			if took := time.Since(started); took > limits.Time+5*time.Second {
				t.Errorf("it took %s", took)
			}
			if result, err := p.Render(t.Context(), render.Request{FS: files("a.yaml", good)}); err != nil || len(result.Objects) != 1 {
				t.Errorf("the next one: %v", err)
			}
		})
	}
}

func short(err error) string {
	s := fmt.Sprint(err)
	if len(s) > 300 {
		s = s[:300] + "…"
	}
	return s
}

// crowded is a repository with a folder of a million files.
type crowded struct{ fstest.MapFS }

func (c crowded) ReadDir(string) ([]fs.DirEntry, error) {
	entries := make([]fs.DirEntry, 1_000_000)
	for i := range entries {
		entries[i] = name(fmt.Sprintf("%07d.yaml", i))
	}
	return entries, nil
}

type name string

func (n name) Name() string               { return string(n) }
func (n name) IsDir() bool                { return false }
func (n name) Type() fs.FileMode          { return 0 }
func (n name) Info() (fs.FileInfo, error) { return nil, fs.ErrNotExist }

func TestAMillionFiles(t *testing.T) {
	p := pool(t, render.PoolConfig{Workers: 1})
	_, err := p.Render(t.Context(), render.Request{FS: crowded{files("a.yaml", good)}})
	if !errors.Is(err, render.ErrLimit) {
		t.Fatal(err)
	}
	t.Log(err)
}

// An archive in charts/ that unpacks to more than a chart may hold.
func TestArchiveBomb(t *testing.T) {
	dir := t.TempDir()
	script := `mkdir -p sub/templates && printf 'apiVersion: v2\nname: sub\nversion: 0.1.0\n' > sub/Chart.yaml && head -c 300000000 /dev/zero > sub/templates/z.yaml && tar czf sub.tgz sub && rm -r sub`
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	data, err := os.ReadFile(filepath.Join(dir, "sub.tgz"))
	if err != nil {
		t.Fatal(err)
	}
	f := chart(good)
	f["charts/sub.tgz"] = &fstest.MapFile{Data: data}
	p := pool(t, render.PoolConfig{Workers: 1, Limits: render.Limits{Memory: 512 << 20}})
	_, err = p.Render(t.Context(), render.Request{FS: f})
	if !errors.Is(err, render.ErrInvalid) && !errors.Is(err, render.ErrLimit) {
		t.Fatal(err)
	}
	t.Log(short(err))
}

// refusing is a repository with a link out of it, as package source shows one.
type refusing struct {
	fstest.MapFS
	name string
}

var errOutside = errors.New(`symbolic link leads to "/etc/passwd", out of the repository`)

func (r refusing) refuse(op, name string) error {
	if name == r.name || strings.HasPrefix(name, r.name+"/") {
		return &fs.PathError{Op: op, Path: name, Err: errOutside}
	}
	return nil
}

func (r refusing) Open(name string) (fs.File, error) {
	if err := r.refuse("open", name); err != nil {
		return nil, err
	}
	return r.MapFS.Open(name)
}

func (r refusing) Stat(name string) (fs.FileInfo, error) {
	if err := r.refuse("stat", name); err != nil {
		return nil, err
	}
	return r.MapFS.Stat(name)
}

func (r refusing) ReadFile(name string) ([]byte, error) {
	if err := r.refuse("open", name); err != nil {
		return nil, err
	}
	return r.MapFS.ReadFile(name)
}

func TestLinkOutOfTheRepository(t *testing.T) {
	p := pool(t, render.PoolConfig{Workers: 1})
	link := &fstest.MapFile{Data: []byte("/etc/passwd"), Mode: fs.ModeSymlink | 0o777}
	for name, c := range map[string]struct {
		files fstest.MapFS
		link  string
	}{
		"plain":         {files("b.yaml", good), "a.yaml"},
		"kustomize":     {files("kustomization.yaml", "resources: [a.yaml]\n"), "a.yaml"},
		"generator":     {files("kustomization.yaml", "configMapGenerator: [{name: x, files: [stolen]}]\n"), "stolen"},
		"base":          {files("kustomization.yaml", "resources: [base]\n"), "base"},
		"template":      {chart(good), "templates/a.yaml"},
		"values":        {chart(good), "values.yaml"},
		"chart itself":  {files("x", ""), "Chart.yaml"},
		"kustomization": {files("x", ""), "kustomization.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			c.files[c.link] = link
			result, err := p.Render(t.Context(), render.Request{FS: refusing{c.files, c.link}})
			if name == "chart itself" || name == "kustomization" {
				if err == nil && len(result.Objects) > 0 {
					t.Errorf("%+v", result.Objects)
				}
				return
			}
			if !errors.Is(err, render.ErrFiles) || !errors.Is(err, errOutside) || !strings.Contains(err.Error(), c.link) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// One tenant's openapi, and everything else that is global, is not the next one's.
func TestPolluterAndVictim(t *testing.T) {
	polluted := files(
		"kustomization.yaml", "resources: [a.yaml]\n\"open\\x61pi\": {path: schema.json}\npatches: [{path: p.yaml}]\n",
		"schema.json", `{"definitions":{"io.k8s.api.apps.v1.Deployment":{"x-kubernetes-group-version-kind":[{"group":"apps","kind":"Deployment","version":"v1"}],"properties":{"spec":{"$ref":"#/definitions/spec"}}},"spec":{"properties":{"template":{"properties":{"spec":{"properties":{"containers":{"type":"array","x-kubernetes-patch-merge-key":"image","x-kubernetes-patch-strategy":"merge"}}}}}}}}}`,
		"a.yaml", deployment("one", "image: i"), "p.yaml", deployment("two", "image: i"))
	victim := files(
		"kustomization.yaml", "resources: [a.yaml]\npatches: [{path: p.yaml}]\n",
		"a.yaml", deployment("one", "image: i"), "p.yaml", deployment("one", "command: [x]"))
	version := files("kustomization.yaml", "resources: [a.yaml]\n\"open\\x61pi\": {version: v1.21.2}\n", "a.yaml", good)
	want := map[string]string{}
	names := map[string]fstest.MapFS{"polluted": polluted, "victim": victim, "version": version}
	for name, f := range names {
		alone := pool(t, render.PoolConfig{Workers: 1})
		result, err := alone.Render(t.Context(), render.Request{FS: f})
		if name == "version" && err != nil {
			want[name] = err.Error()
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want[name] = printed(result)
	}
	check := func(t *testing.T, p *render.Pool, name string) {
		result, err := p.Render(t.Context(), render.Request{FS: names[name]})
		got := fmt.Sprint(err)
		if err == nil {
			got = printed(result)
		}
		if got != want[name] {
			t.Errorf("%s: got\n%s\nalone it is\n%s", name, got, want[name])
		}
	}
	t.Run("in turn", func(t *testing.T) {
		p := pool(t, render.PoolConfig{Workers: 1})
		for range 3 {
			for _, name := range []string{"polluted", "victim", "version", "victim", "polluted"} {
				check(t, p, name)
			}
		}
	})
	t.Run("in parallel", func(t *testing.T) {
		p := pool(t, render.PoolConfig{Workers: 3})
		var wait sync.WaitGroup
		for range 5 {
			for name := range names {
				wait.Go(func() { check(t, p, name) })
			}
		}
		wait.Wait()
	})
}

func deployment(container, more string) string {
	return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {spec: {containers: [{name: " + container + ", " + more + "}]}}}\n"
}

func TestInputs(t *testing.T) {
	p := pool(t, render.PoolConfig{Workers: 1})
	f := files("app/kustomization.yaml", "resources: [../base]\n", "base/kustomization.yaml", "resources: [a.yaml]\n", "base/a.yaml", good, "other/x.yaml", good)
	result, err := p.Render(t.Context(), render.Request{FS: f, Path: "app"})
	if err != nil {
		t.Fatal(err)
	}
	change := func(name, content string) fstest.MapFS {
		g := fstest.MapFS{}
		for k, v := range f {
			g[k] = v
		}
		g[name] = &fstest.MapFile{Data: []byte(content)}
		return g
	}
	if !result.Inputs.Match(change("other/x.yaml", "changed")) {
		t.Error("a file that nobody read matters")
	}
	for _, name := range []string{"base/a.yaml", "app/kustomization.yaml", "base/kustomization.yaml"} {
		if result.Inputs.Match(change(name, "changed")) {
			t.Errorf("a change of %s does not matter", name)
		}
	}
	plain, err := p.Render(t.Context(), render.Request{FS: f, Path: "other"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"other/new.yaml", "other/kustomization.yaml", "other/Chart.yaml"} {
		if plain.Inputs.Match(change(name, good)) {
			t.Errorf("that %s is there now does not matter", name)
		}
	}
}
