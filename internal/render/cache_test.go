package render_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gitopsd/gitopsd/internal/intent"
	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/render/cache"
)

// diceChart gives another Secret each time it is rendered, and tells what it saw of the release.
var diceChart = fstest.MapFS{
	"c/Chart.yaml": {Data: []byte("apiVersion: v2\nname: dice\nversion: 1.0.0\n")},
	"c/templates/secret.yaml": {Data: []byte(`apiVersion: v1
kind: Secret
metadata: {name: dice, annotations: {revision: "{{ .Release.Revision }}", upgrade: "{{ .Release.IsUpgrade }}", kube: "{{ .Capabilities.KubeVersion }}"}}
stringData: {thrown: {{ randAlphaNum 20 }}, canary: canary-4711-secret}
`)},
	"c/templates/hook.yaml": {Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: before, annotations: {helm.sh/hook: pre-install}}\n")},
	"other/readme":          {Data: []byte("x")},
}

// keeper is a cache over real workers.
type keeper struct {
	*cache.Cache
	dir          string
	hits, misses int
}

func keep(t *testing.T, dir string, bytes int64) *keeper {
	t.Helper()
	box, err := intent.OpenBox(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	k := &keeper{dir: filepath.Join(dir, "results")}
	seen := func(hit bool) {
		if hit {
			k.hits++
		} else {
			k.misses++
		}
	}
	if k.Cache, err = cache.Open(cache.Config{Dir: k.dir, Box: box, Bytes: bytes, Seen: seen}, pool(t, render.PoolConfig{Workers: 1})); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *keeper) print(t *testing.T, req render.Request) string {
	t.Helper()
	r, err := k.Render(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return printed(r)
}

func dice(files fs.FS) render.Request {
	req := render.Request{FS: files, Path: "c", Scope: "team", Owner: "uid-1"}
	req.Helm.Revision = 1
	return req
}

func with(files fstest.MapFS, name, content string) fstest.MapFS {
	out := maps.Clone(files)
	out[name] = &fstest.MapFile{Data: []byte(content)}
	return out
}

// What was rendered once is not rendered again, however random the chart: not for a commit that concerns others, and not by the
// next process.
func TestCacheKeepsWhatWasRendered(t *testing.T) {
	dir := t.TempDir()
	k := keep(t, dir, 0)
	first := k.print(t, dice(diceChart))
	if !strings.Contains(first, "hook pre-install") || !strings.Contains(first, "canary-4711") {
		t.Fatalf("the chart renders to\n%s", first)
	}
	for what, files := range map[string]fstest.MapFS{"the same commit": diceChart, "a commit of others": with(diceChart, "other/readme", "y")} {
		if got := k.print(t, dice(files)); got != first {
			t.Errorf("%s: %s", what, got)
		}
	}
	if k.hits != 2 || k.misses != 1 {
		t.Errorf("%d hits, %d misses", k.hits, k.misses)
	}
	again := keep(t, dir, 0)
	if got := again.print(t, dice(diceChart)); got != first || again.misses != 0 {
		t.Errorf("after a restart, with %d misses: %s", again.misses, got)
	}
	if changed := again.print(t, dice(with(diceChart, "c/values.yaml", "a: b"))); changed == first {
		t.Error("a file of the chart that was absent is there, and nothing changes")
	}
}

// What stands is not rendered again as a later revision, on another cluster or for new answers; what changed is, as an upgrade.
func TestCacheKnowsReleases(t *testing.T) {
	k := keep(t, t.TempDir(), 0)
	first := k.print(t, dice(diceChart))
	next := func(files fs.FS, revision int64, earlier ...int64) render.Request {
		req := dice(files)
		req.Helm.Revision, req.Helm.Upgrade, req.Earlier = revision, true, earlier
		req.Helm.Cluster.KubeVersion = "v1.99.0"
		return req
	}
	if got := k.print(t, next(diceChart, 2, 1)); got != first {
		t.Errorf("the applied revision is rendered again: %s", got)
	}
	changed := with(diceChart, "c/values.yaml", "a: b")
	second := k.print(t, next(changed, 2, 1))
	for _, want := range []string{`revision: "2"`, `upgrade: "true"`, "kube: \"v1.99.0\""} {
		if !strings.Contains(second, want) {
			t.Errorf("no %s in %s", want, second)
		}
	}
	if got := k.print(t, next(changed, 3, 2)); got != second {
		t.Errorf("rendered again: %s", got)
	}
	if got := k.print(t, next(diceChart, 3, 2)); got == first || !strings.Contains(got, `revision: "3"`) {
		t.Errorf("going back to the first files is an upgrade: %s", got)
	}
	elsewhere := dice(diceChart)
	elsewhere.Owner = "uid-2"
	if got := k.print(t, elsewhere); got == first {
		t.Error("another Application got this one's random values")
	}
}

// Who looks beside the process that keeps finds what is kept, and leaves everything as it is.
func TestCacheIsRead(t *testing.T) {
	dir := t.TempDir()
	k := keep(t, dir, 0)
	first := k.print(t, dice(diceChart))
	half := filepath.Join(k.dir, ".new-half") // the other process is writing
	if err := os.WriteFile(half, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	box, err := intent.OpenBox(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := cache.Open(cache.Config{Dir: k.dir, Box: box, ReadOnly: true, Bytes: 1}, pool(t, render.PoolConfig{Workers: 1}))
	if err != nil {
		t.Fatal(err)
	}
	reader := &keeper{Cache: c}
	if got := reader.print(t, dice(diceChart)); got != first {
		t.Errorf("rendered again: %s", got)
	}
	other := dice(with(diceChart, "c/values.yaml", "a: b"))
	if once := reader.print(t, other); once == reader.print(t, other) {
		t.Error("what the reader rendered was kept")
	}
	files := func() []string {
		names, _ := filepath.Glob(filepath.Join(k.dir, "*"))
		return names
	}
	if left := files(); len(left) != 2 {
		t.Errorf("the folder has %v", left)
	}
	if _, err := os.Stat(half); err != nil {
		t.Errorf("what the other process was writing: %v", err)
	}
	keep(t, dir, 0)
	if left := files(); len(left) != 1 {
		t.Errorf("after the next start of the process that keeps, the folder has %v", left)
	}
}

// Applications of one namespace share what knows no releases; those of another do not.
func TestCacheIsShared(t *testing.T) {
	files := fstest.MapFS{"p/a.yaml": {Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")}}
	k := keep(t, t.TempDir(), 0)
	for n, who := range []render.Request{{Scope: "a", Owner: "1"}, {Scope: "a", Owner: "2"}, {Scope: "b", Owner: "1"}} {
		who.FS, who.Path, who.Helm.Revision = files, "p", int64(n+1)
		k.print(t, who)
	}
	if k.hits != 1 || k.misses != 2 {
		t.Errorf("%d hits, %d misses", k.hits, k.misses)
	}
}

// A file that is torn or changed is no answer, and the folder tells nobody what was rendered.
func TestCacheFilesAreChecked(t *testing.T) {
	dir := t.TempDir()
	for what, harm := range map[string]func([]byte) []byte{
		"torn":    func(b []byte) []byte { return b[:len(b)/2] },
		"empty":   func([]byte) []byte { return nil },
		"changed": func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b },
	} {
		k := keep(t, dir, 0)
		before := k.print(t, dice(diceChart))
		files, _ := filepath.Glob(filepath.Join(k.dir, "*"))
		if len(files) != 1 {
			t.Fatalf("%s: %d files", what, len(files))
		}
		data, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		info, _ := os.Stat(files[0])
		if info.Mode().Perm() != 0o600 || bytes.Contains(data, []byte("canary")) || strings.Contains(files[0], "dice") {
			t.Errorf("%s has mode %v, or tells what it holds", files[0], info.Mode())
		}
		if err := os.WriteFile(files[0], harm(data), 0o600); err != nil {
			t.Fatal(err)
		}
		k = keep(t, dir, 0)
		if after := k.print(t, dice(diceChart)); after == before || k.misses != 1 {
			t.Errorf("%s: it was believed", what)
		}
	}
}

// The folder stays below its bound; what was not used for longest goes first.
func TestCacheIsBounded(t *testing.T) {
	k := keep(t, t.TempDir(), 20_000)
	noise := func(seed int64) string { // does not compress
		var b strings.Builder
		for n := range int64(150) {
			b.WriteString(time.Unix(seed*7919*(n+1)*104729, 0).Format("0102150405"))
		}
		return b.String()
	}
	request := func(name string, seed int64) render.Request {
		text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {noise: \"" + noise(seed) + "\"}\n"
		return render.Request{FS: fstest.MapFS{name: {Data: []byte(text)}}, Path: name}
	}
	k.print(t, request("first.yaml", 1))
	for n := range int64(30) {
		k.print(t, request(strings.Repeat("x", int(n)+1)+".yaml", n+2))
		k.print(t, request("first.yaml", 1))
	}
	var size int64
	count := 0
	_ = filepath.WalkDir(k.dir, func(_ string, d fs.DirEntry, _ error) error {
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			size, count = size+info.Size(), count+1
		}
		return nil
	})
	if size > 20_000 || count < 2 || count > 25 {
		t.Errorf("%d files of %d bytes", count, size)
	}
	if k.hits != 30 {
		t.Errorf("%d hits: what is used all the time was pushed out", k.hits)
	}
}

// What cannot be kept is no result: after a restart it might come out otherwise.
func TestCacheThatCannotKeep(t *testing.T) {
	k := keep(t, t.TempDir(), 0)
	if err := os.RemoveAll(k.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := k.Render(context.Background(), dice(diceChart))
	if !errors.Is(err, render.ErrInternal) || !strings.Contains(err.Error(), "make room") {
		t.Errorf("%v", err)
	}
}
