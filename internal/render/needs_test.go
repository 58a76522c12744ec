package render_test

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/source/sourcetest"
)

// fetched answers needs from a folder of archives, as whoever starts a render does.
type fetched struct {
	fs.FS
	dir    string
	needed []render.ChartNeed
}

func (f *fetched) ReadFile(name string) ([]byte, error) {
	n, ok := render.ParseChartNeed(name)
	if !ok {
		return fs.ReadFile(f.FS, name)
	}
	f.needed = append(f.needed, n)
	return os.ReadFile(filepath.Join(f.dir, n.Name+"-"+strings.TrimPrefix(n.Version, "^")+".tgz"))
}

func (f *fetched) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(f.FS, name) }
func (f *fetched) Stat(name string) (fs.FileInfo, error)      { return fs.Stat(f.FS, name) }
func (f *fetched) Lstat(name string) (fs.FileInfo, error)     { return fs.Lstat(f.FS, name) }
func (f *fetched) ReadLink(name string) (string, error)       { return fs.ReadLink(f.FS, name) }

// tree writes files below a folder.
func tree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// helmAt runs helm with a home of its own.
func helmAt(t *testing.T, dir string, args ...string) {
	t.Helper()
	name, err := helmTool()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=/nonexistent", "KUBECONFIG=/nonexistent"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// chartRepository is a Helm repository with two charts, of which one needs the other, as helm packs and indexes them.
func chartRepository(t *testing.T) (dir, url string) {
	t.Helper()
	dir = t.TempDir()
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	src := t.TempDir()
	template := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}-{{ .Chart.Name }}}\ndata: {v: {{ .Values | toJson | quote }}, notes: {{ .Files.Get \"notes.txt\" | quote }}}\n"
	tree(t, src, map[string]string{
		"cache/Chart.yaml": "apiVersion: v2\nname: cache\nversion: 1.2.3\n", "cache/values.yaml": "size: 1\nglobal: {}\n", "cache/templates/c.yaml": template, "cache/notes.txt": "hello",
		"cache/.helmignore": "*.bak\n", "cache/x.bak": "left out",
		"store/Chart.yaml":  "apiVersion: v2\nname: store\nversion: 0.4.0\ndependencies:\n- {name: cache, version: 1.2.3, repository: \"" + server.URL + "\"}\n",
		"store/values.yaml": "cache: {size: 2}\n", "store/templates/s.yaml": template,
	})
	helmAt(t, src, "package", "cache", "-d", dir)
	helmAt(t, src, "repo", "index", dir)
	helmAt(t, src, "dependency", "update", "store")
	helmAt(t, src, "package", "store", "-d", dir)
	helmAt(t, src, "repo", "index", dir)
	return dir, server.URL
}

// What was fetched gives the bytes that the tools give which fetch it themselves: dependencies with a lock and without, and charts of helmCharts.
func TestOracleFetchedCharts(t *testing.T) {
	p := pool(t, render.PoolConfig{})
	dir, url := chartRepository(t)
	chart := func(version string) string {
		return fmt.Sprintf("apiVersion: v2\nname: web\nversion: 1.0.0\ndependencies:\n- {name: cache, version: %q, repository: %q, alias: first}\n- {name: store, version: 0.4.0, repository: %q}\n", version, url, url)
	}
	for name, c := range map[string]struct {
		path    string
		prepare func(root string)
		files   map[string]string
		needs   []string
	}{
		"range": {"web", func(root string) { helmAt(t, root, "dependency", "update", "web") }, map[string]string{
			"web/Chart.yaml": chart("^1.2.3"), "web/values.yaml": "first: {size: 3}\nglobal: {a: 1}\n"}, []string{"cache ^1.2.3", "store 0.4.0"}},
		"overlay": {"over", func(string) {}, map[string]string{
			"over/kustomization.yaml": "namespace: there\nhelmCharts:\n- {name: store, repo: \"" + url + "\", version: 0.4.0, releaseName: s, kubeVersion: v1.36.3, valuesInline: {cache: {size: 9}}}\n"}, []string{"store 0.4.0"}},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := t.TempDir(), t.TempDir()
			tree(t, ours, c.files)
			tree(t, theirs, c.files)
			c.prepare(theirs)
			if lock, err := os.ReadFile(filepath.Join(theirs, c.path, "Chart.lock")); err == nil {
				compareFetched(t, p, dir, ours, theirs, c.path, c.needs)
				tree(t, ours, map[string]string{c.path + "/Chart.lock": string(lock)}) // and with what it resolved to
				for i := range c.needs {
					c.needs[i] = strings.Replace(c.needs[i], "^", "", 1)
				}
			}
			compareFetched(t, p, dir, ours, theirs, c.path, c.needs)
		})
	}
}

func compareFetched(t *testing.T, p *render.Pool, dir, ours, theirs, where string, needs []string) {
	t.Helper()
	files := &fetched{FS: os.DirFS(ours), dir: dir}
	result, err := p.Render(t.Context(), render.Request{FS: files, Path: where, Options: render.Options{Helm: render.HelmOptions{ReleaseName: "r"}}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := tool(t, result.Kind, theirs, where, render.Options{Helm: render.HelmOptions{ReleaseName: "r"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range result.Objects {
		got = append(got, string(o.YAML))
	}
	slices.Sort(got)
	if a, b := strings.Join(got, "---\n"), strings.Join(documents(text), "---\n"); a != b || len(got) == 0 {
		t.Errorf("ours:\n%s\ntheirs:\n%s", a, b)
	}
	var asked []string
	for _, n := range files.needed {
		asked = append(asked, n.Name+" "+n.Version)
	}
	slices.Sort(asked)
	if asked = slices.Compact(asked); !slices.Equal(asked, needs) {
		t.Errorf("asked for %v, want %v", asked, needs)
	}
	if !result.Inputs.Match(files) {
		t.Error("the inputs do not match the files they were taken from")
	}
	if result.Inputs.Match(os.DirFS(ours)) {
		t.Error("what was fetched is no input")
	}
}

// An archive that was fetched is a stranger's: one that is none fails the render, by the file that asks for it.
func TestFetchedArchiveIsBroken(t *testing.T) {
	p := pool(t, render.PoolConfig{})
	dir := t.TempDir()
	zeros := sourcetest.Packed{Header: tar.Header{Typeflag: tar.TypeReg, Name: "cache/zeros", Mode: 0o644}, Content: strings.Repeat("\x00", 110<<20)}
	archives := map[string]string{
		"1.0.0": "no archive",
		"2.0.0": string(sourcetest.Gzip(t, sourcetest.Tar(t, sourcetest.File("cache/Chart.yaml", "apiVersion: v2\nname: cache\nversion: 2.0.0\n"), sourcetest.File("cache/../../out.yaml", "x")))),
		"3.0.0": string(sourcetest.Gzip(t, sourcetest.Tar(t, sourcetest.File("cache/Chart.yaml", "apiVersion: v2\nname: cache\nversion: 3.0.0\n"), zeros))),
	}
	for version, data := range archives {
		tree(t, dir, map[string]string{"cache-" + version + ".tgz": data})
	}
	for version := range archives {
		t.Run(version, func(t *testing.T) { brokenArchive(t, p, dir, version) })
	}
}

func brokenArchive(t *testing.T, p *render.Pool, dir, version string) {
	t.Helper()
	src := t.TempDir()
	tree(t, src, map[string]string{
		"web/Chart.yaml":          "apiVersion: v2\nname: web\nversion: 1.0.0\ndependencies:\n- {name: cache, version: " + version + ", repository: \"https://charts.example.org\"}\n",
		"over/kustomization.yaml": "helmCharts:\n- {name: cache, repo: \"https://charts.example.org\", version: " + version + ", releaseName: x}\n",
	})
	for where, want := range map[string]string{"web": "web/Chart.yaml: the chart does not load", "over": "over/kustomization.yaml:2: chart \"cache\": the archive of https://charts.example.org does not load"} {
		_, err := p.Render(t.Context(), render.Request{FS: &fetched{FS: os.DirFS(src), dir: dir}, Path: where})
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", where, err)
		}
	}
}
