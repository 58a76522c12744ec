package pipeline

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/source"
	"github.com/gitopsd/gitopsd/internal/source/sourcetest"
	"k8s.io/apimachinery/pkg/types"
)

func cacheChart(t *testing.T, version, text string) []byte {
	return sourcetest.Gzip(t, sourcetest.Tar(t, sourcetest.File("cache/Chart.yaml", "name: cache\nversion: "+version+"\n"), sourcetest.File("cache/values.yaml", text)))
}

// publish has a repository hold these versions, newest first.
func publish(h *sourcetest.HelmServer, versions map[string][]byte) {
	lines := []string{"  cache:\n"}
	for v, data := range versions {
		h.Put("/cache-"+v+".tgz", data)
		lines = append(lines, sourcetest.IndexEntry("cache", v, "cache-"+v+".tgz", sourcetest.Digest(data)))
	}
	h.Put("/index.yaml", sourcetest.Index(lines...))
}

// asking renders nothing: it reads one need, as a worker would.
func asking(n render.ChartNeed, got *[]byte) func(fs.FS) (*render.Result, error) {
	return func(files fs.FS) (*render.Result, error) {
		data, err := fs.ReadFile(files, n.Path())
		if err != nil {
			return nil, &render.Error{Class: render.ErrInvalid, Text: "it is missing", Needs: []render.ChartNeed{n}}
		}
		*got = data
		return &render.Result{}, nil
	}
}

// What a range was resolved to is taken again as long as the status says so, also by a process that knows nothing else and has no network;
// another file that asks resolves anew; a version that was replaced is an error.
func TestChartsStayResolved(t *testing.T) {
	h := sourcetest.NewHelmServer(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	store, err := source.Open(ctx, source.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Wait()
	defer cancel()
	spec := func() (source.Spec, error) { return source.Spec{URL: "https://git.example.org/infra"}, nil }
	one, two := cacheChart(t, "1.2.3", "one"), cacheChart(t, "1.3.0", "two")
	publish(h, map[string][]byte{"1.2.3": one})
	need := render.ChartNeed{Repository: h.URL, Name: "cache", Version: "^1", By: "web/Chart.yaml", For: "first"}

	found, err := fetchOne(ctx, store, source.Spec{}, need, v1alpha1.FetchedChart{})
	if err != nil || found.Version != "1.2.3" || found.Digest != sourcetest.Digest(one) || found.Requested != "^1" {
		t.Fatalf("found %+v, %v", found, err)
	}
	app := &v1alpha1.Application{Status: v1alpha1.ApplicationStatus{Charts: []v1alpha1.FetchedChart{found}}}
	publish(h, map[string][]byte{"1.2.3": one, "1.3.0": two})
	var got []byte
	if _, err := Complete(ctx, store, spec, app, fstest.MapFS{}, asking(need, &got)); err != nil || string(got) != string(one) {
		t.Errorf("with the status: %v, the first version: %v", err, string(got) == string(one))
	}
	again := need
	again.For = "second"
	if _, err := Complete(ctx, store, spec, app, fstest.MapFS{}, asking(again, &got)); err != nil || string(got) != string(two) {
		t.Errorf("of a file that changed: %v, the second version: %v", err, string(got) == string(two))
	}

	e := &Engine{cfg: Config{Charts: store}}
	h.Close()
	files := e.laid(app, &work{}, source.Snapshot{FS: fstest.MapFS{"own": {Data: []byte("own")}}})
	if data, err := fs.ReadFile(files, need.Path()); err != nil || string(data) != string(one) {
		t.Errorf("after a restart, without the repository: %v", err)
	}
	if _, err := fs.ReadFile(files, again.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what nobody fetched: %v", err)
	}
	if data, err := fs.ReadFile(files, "own"); err != nil || string(data) != "own" {
		t.Errorf("the snapshot's own file: %q, %v", data, err)
	}
	w := &work{}
	w.charts.recall(app)
	if w.noteCharts(app, render.Inputs{need.Path(): {Content: "a hash"}, again.Path(): {Content: "absent"}, "own": {Content: "a hash"}}); len(app.Status.Charts) != 1 || app.Status.Charts[0] != found {
		t.Errorf("the status says %+v", app.Status.Charts)
	}
}

func TestReplacedChart(t *testing.T) {
	h := sourcetest.NewHelmServer(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	store, err := source.Open(ctx, source.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Wait()
	defer cancel()
	need := render.ChartNeed{Repository: h.URL, Name: "cache", Version: "^1", By: "web/Chart.yaml", For: "first"}
	publish(h, map[string][]byte{"1.2.3": cacheChart(t, "1.2.3", "one")})
	before, err := fetchOne(ctx, store, source.Spec{}, need, v1alpha1.FetchedChart{})
	if err != nil {
		t.Fatal(err)
	}
	publish(h, map[string][]byte{"1.2.3": cacheChart(t, "1.2.3", "another"), "1.4.0": cacheChart(t, "1.4.0", "new")})
	_, err = fetchOne(ctx, store, source.Spec{}, need, before)
	if err == nil || !strings.Contains(err.Error(), "web/Chart.yaml asks for chart cache: version 1.2.3 was "+before.Digest) {
		t.Errorf("a version that was replaced: %v", err)
	}
}

// An artifact with the files of many Applications concerns those that read what changed.
func TestArtifactConcernsItsReaders(t *testing.T) {
	r := sourcetest.NewRegistry(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	store, err := source.Open(ctx, source.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Wait()
	defer cancel()
	push := func(web string) source.Snapshot {
		t.Helper()
		r.Push("acme/all", nil, []sourcetest.Layer{{MediaType: "application/vnd.cncf.flux.content.v1.tar+gzip",
			Content: sourcetest.Gzip(t, sourcetest.Tar(t, sourcetest.File("web/a.yaml", web), sourcetest.File("worker/a.yaml", "same")))}}, "latest")
		s, err := store.Snapshot(ctx, source.Spec{URL: r.Address("acme/all")})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	readers := newReaders()
	first := push("one")
	inputs := func(dir string) render.Inputs {
		return render.Inputs{dir: {Names: "x"}, dir + "/a.yaml": {Content: "x"}, dir + "/absent.yaml": {Type: "absent"}}
	}
	web, worker := types.NamespacedName{Name: "web"}, types.NamespacedName{Name: "worker"}
	readers.note(web, first, inputs("web"))
	readers.note(worker, first, inputs("worker"))
	second := push("two")
	if readers.passOver(web, first, second) || !readers.passOver(worker, first, second) {
		t.Error("the artifact does not concern the one that reads what changed, or concerns the other")
	}
}
