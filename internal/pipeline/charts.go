package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/source"
	corev1 "k8s.io/api/core/v1"
)

// Charts fetches what files ask for and do not hold: sub-charts, and the charts of helmCharts.
type Charts interface {
	// Chart asks the repository of the chart; credentials of spec go to its own origin only.
	Chart(ctx context.Context, spec source.Spec, want source.ChartRequest) (source.Chart, error)
	// ChartAt returns one that was fetched before, without asking anybody.
	ChartAt(want source.ChartRequest, digest string) (source.Chart, error)
}

// laid is files with fetched charts laid over them.
type laid struct {
	fs.FS
	get func(render.ChartNeed) ([]byte, error) // fs.ErrNotExist: it has to be fetched
}

var (
	_ fs.ReadDirFS  = laid{}
	_ fs.ReadFileFS = laid{}
	_ fs.StatFS     = laid{}
	_ fs.ReadLinkFS = laid{}
)

func (l laid) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(l.FS, name) }
func (l laid) Stat(name string) (fs.FileInfo, error)      { return fs.Stat(l.FS, name) }
func (l laid) Lstat(name string) (fs.FileInfo, error)     { return fs.Lstat(l.FS, name) }
func (l laid) ReadLink(name string) (string, error)       { return fs.ReadLink(l.FS, name) }

func (l laid) ReadFile(name string) ([]byte, error) {
	need, ok := render.ParseChartNeed(name)
	if !ok {
		return fs.ReadFile(l.FS, name)
	}
	data, err := l.get(need)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return data, nil
}

// needsOf are the charts for want of which a render failed.
func needsOf(err error) []render.ChartNeed {
	var e *render.Error
	if errors.As(err, &e) {
		return e.Needs
	}
	return nil
}

// fetchedCharts is what an Application's files asked for, and what came of it.
type fetchedCharts struct {
	mu      sync.Mutex
	known   map[render.ChartNeed]v1alpha1.FetchedChart
	failed  map[render.ChartNeed]error
	told    bool // what failed was told once, and is to be tried again
	pending bool // a fetch is under way
}

// recall takes up what the status says was resolved: a range means the same after a restart.
func (f *fetchedCharts) recall(app *v1alpha1.Application) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known != nil {
		return
	}
	f.known, f.failed = map[render.ChartNeed]v1alpha1.FetchedChart{}, map[render.ChartNeed]error{}
	for _, c := range app.Status.Charts {
		f.known[needOf(c)] = c
	}
}

func needOf(c v1alpha1.FetchedChart) render.ChartNeed {
	return render.ChartNeed{Repository: c.Repository, Name: c.Name, Version: c.Requested, By: c.By, For: c.For}
}

func (f *fetchedCharts) get(n render.ChartNeed) (v1alpha1.FetchedChart, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.known[n]
	return c, ok
}

// begin says that a fetch is to begin; false when one is under way.
func (f *fetchedCharts) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.pending
	f.pending = true
	return !was
}

// failure is what the last attempt to fetch one of these ended with, and whether that is news: the look after the one that told it
// tries again.
func (f *fetchedCharts) failure(needs []render.ChartNeed) (err error, news bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range needs {
		if err := f.failed[n]; err != nil {
			news, f.told = !f.told, true
			return err, news
		}
	}
	return nil, false
}

func (f *fetchedCharts) end(found map[render.ChartNeed]v1alpha1.FetchedChart, failed map[render.ChartNeed]error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.Copy(f.known, found)
	f.failed, f.told, f.pending = failed, false, false
}

// errFetching is told as long as charts are being fetched.
type errFetching struct {
	needs  []render.ChartNeed
	before error // what the last attempt ended with
}

func (e errFetching) Error() string {
	var names []string
	for _, n := range e.needs {
		repository, err := source.Canonical(n.Repository) // without the password that somebody may have written there
		if err != nil {
			repository = "its repository"
		}
		names = append(names, fmt.Sprintf("%s of %s", n.Name, repository))
	}
	return "fetching chart " + strings.Join(names, ", ")
}

// errCharts is why a chart cannot be had. It may be otherwise in a while.
type errCharts struct{ error }

func (e errCharts) Unwrap() error { return e.error }

// ofCharts is what becomes of an Application whose charts are being fetched, or cannot be had; false for any other error.
func ofCharts(err error) (outcome, bool) {
	var fetching errFetching
	switch {
	case errors.As(err, &fetching) && fetching.before != nil:
		return failed(done, reasonSource, fetching.before), true
	case errors.As(err, &fetching):
		return outcome{done, v1alpha1.Pending, reasonFetching, err.Error()}, true
	case errors.As(err, &errCharts{}):
		return failed(retry, reasonSource, err), true
	}
	return outcome{}, false
}

// laid is a snapshot's files with what was fetched for the Application.
func (e *Engine) laid(app *v1alpha1.Application, w *work, s source.Snapshot) laid {
	w.charts.recall(app)
	return laid{s.FS, func(n render.ChartNeed) ([]byte, error) {
		c, ok := w.charts.get(n)
		if !ok || e.cfg.Charts == nil {
			return nil, fs.ErrNotExist
		}
		got, err := e.cfg.Charts.ChartAt(requestOf(n), c.Digest)
		if err != nil {
			return nil, fs.ErrNotExist // the cache lost it
		}
		return got.Archive, nil
	}}
}

func requestOf(n render.ChartNeed) source.ChartRequest {
	return source.ChartRequest{Repository: n.Repository, Name: n.Name, Version: n.Version}
}

// fetch has what is missing fetched beside the pipeline, and says what to wait for, or why it cannot be had.
func (e *Engine) fetch(ctx context.Context, app *v1alpha1.Application, w *work, missing []render.ChartNeed) error {
	before, news := w.charts.failure(missing)
	if news {
		return errCharts{before}
	}
	spec, err := e.sourceSpec(ctx, app)
	if err != nil {
		return errCharts{err}
	}
	if !w.charts.begin() {
		return errFetching{missing, before}
	}
	key := keyOf(app)
	e.asks.Go(func() {
		found, failed := map[render.ChartNeed]v1alpha1.FetchedChart{}, map[render.ChartNeed]error{}
		for _, n := range missing {
			before, _ := w.charts.get(n)
			c, err := fetchOne(ctx, e.cfg.Charts, spec, n, before)
			if err != nil {
				failed[n] = err
				continue
			}
			found[n] = c
			if before.Digest == "" {
				e.recorder.Eventf(app, corev1.EventTypeNormal, "ChartFetched", "%s: chart %s %s of %s, %s", c.By, c.Name, c.Version, c.Repository, c.Digest)
			}
		}
		w.charts.end(found, failed)
		if ctx.Err() == nil {
			e.queue.Add(key)
		}
	})
	return errFetching{missing, before}
}

// fetchOne fetches a chart: the very one that a range was resolved to before, if it was.
func fetchOne(ctx context.Context, charts Charts, spec source.Spec, n render.ChartNeed, before v1alpha1.FetchedChart) (v1alpha1.FetchedChart, error) {
	want := requestOf(n)
	if before.Version != "" {
		want.Version = before.Version
	}
	got, err := charts.Chart(ctx, spec, want)
	if err != nil {
		return v1alpha1.FetchedChart{}, fmt.Errorf("%s asks for chart %s: %w", n.By, n.Name, err)
	}
	if before.Digest != "" && before.Digest != got.Digest {
		return v1alpha1.FetchedChart{}, fmt.Errorf("%s asks for chart %s: version %s was %s and is %s now; somebody replaced it: raise its version, or change %s to take it as it is",
			n.By, n.Name, got.Version, before.Digest, got.Digest, n.By)
	}
	return v1alpha1.FetchedChart{Repository: n.Repository, Name: n.Name, Requested: n.Version, Version: got.Version, Digest: got.Digest, By: n.By, For: n.For}, nil
}

// noteCharts puts into the status what a rendering used.
func (w *work) noteCharts(app *v1alpha1.Application, inputs render.Inputs) {
	app.Status.Charts = nil
	used, _ := inputs.Charts()
	for _, n := range used {
		if c, ok := w.charts.get(n); ok {
			app.Status.Charts = append(app.Status.Charts, c)
		}
	}
	slices.SortFunc(app.Status.Charts, func(a, b v1alpha1.FetchedChart) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Version, b.Version), strings.Compare(a.Repository, b.Repository))
	})
}

// mostRounds of fetching: a chart that was fetched may ask for another.
const mostRounds = 8

// Complete renders what an Application asks for, fetching charts in between, for the command line. What the status says was
// resolved is taken again.
func Complete(ctx context.Context, charts Charts, specOf func() (source.Spec, error), app *v1alpha1.Application, files fs.FS, try func(fs.FS) (*render.Result, error)) (*render.Result, error) {
	archives := map[render.ChartNeed][]byte{}
	pinned := map[render.ChartNeed]v1alpha1.FetchedChart{}
	for _, c := range app.Status.Charts {
		pinned[needOf(c)] = c
	}
	for range mostRounds {
		result, err := try(laid{files, func(n render.ChartNeed) ([]byte, error) {
			if data, ok := archives[n]; ok {
				return data, nil
			}
			return nil, fs.ErrNotExist
		}})
		missing := needsOf(err)
		if len(missing) == 0 {
			return result, err
		}
		for _, n := range missing {
			if got, err := charts.ChartAt(requestOf(n), pinned[n].Digest); err == nil {
				archives[n] = got.Archive
				continue
			}
			spec, err := specOf()
			if err != nil {
				return nil, err
			}
			c, err := fetchOne(ctx, charts, spec, n, pinned[n])
			if err != nil {
				return nil, err
			}
			got, err := charts.ChartAt(requestOf(n), c.Digest)
			if err != nil {
				return nil, err
			}
			archives[n] = got.Archive
		}
	}
	return nil, errors.New("the charts that were fetched ask for ever more charts; commit them into charts/")
}
