package source

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gitopsd/gitopsd/internal/source/sourcetest"
)

func chartArchive(t testing.TB, name, version string) []byte {
	return sourcetest.Gzip(t, sourcetest.Tar(t, chartFiles(name, version)...))
}

func TestHelmRepository(t *testing.T) {
	h := sourcetest.NewHelmServer(t, nil)
	one, two := chartArchive(t, "web", "1.0.0"), chartArchive(t, "web", "1.1.0")
	early, old := chartArchive(t, "web", "2.0.0-rc.1"), chartArchive(t, "worker", "0.1.0")
	h.Put("/charts/web-1.0.0.tgz", one)
	h.Put("/charts/files/web-1.1.0.tgz", two)
	h.Put("/charts/web-2.0.0-rc.1.tgz", early)
	h.Put("/charts/worker-0.1.0.tgz", old)
	h.Put("/charts/index.yaml", sourcetest.Index("  web:\n", sourcetest.IndexEntry("web", "2.0.0-rc.1", "web-2.0.0-rc.1.tgz", digestOf(early)), sourcetest.IndexEntry("web", "1.0.0", h.URL+"/charts/web-1.0.0.tgz", digestOf(one)),
		sourcetest.IndexEntry("web", "1.1.0", "files/web-1.1.0.tgz", digestOf(two)), "  worker:\n", sourcetest.IndexEntry("worker", "0.1.0", "worker-0.1.0.tgz", "")))
	s := openStore(t, Limits{})
	url := h.URL + "/charts/"
	for name, c := range map[string]struct {
		chart           string
		ref             Ref
		version, digest string
	}{
		"highest":     {"web", Ref{}, "1.1.0", digestOf(two)},
		"exact":       {"web", Ref{Tag: "1.0.0"}, "1.0.0", digestOf(one)},
		"range":       {"web", Ref{Semver: "~1.0"}, "1.0.0", digestOf(one)},
		"pre-release": {"web", Ref{Semver: ">=1.0.0-0"}, "2.0.0-rc.1", digestOf(early)},
		"digest":      {"web", Ref{Digest: digestOf(one)}, "1.0.0", digestOf(one)},
		"no digest":   {"worker", Ref{}, "0.1.0", digestOf(old)},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				got, err := s.Snapshot(t.Context(), Spec{URL: url, Chart: c.chart, Ref: c.ref})
				if err != nil || got.Commit != c.digest || got.Ref != c.version {
					t.Fatalf("got %s %s, %v", got.Ref, got.Commit, err)
				}
				if text := read(t, got.FS, "Chart.yaml"); !strings.Contains(text, "version: "+c.version+"\n") {
					t.Errorf("Chart.yaml holds %q", text)
				}
			}
		})
	}
	for _, name := range []string{"/charts/web-1.0.0.tgz", "/charts/files/web-1.1.0.tgz", "/charts/worker-0.1.0.tgz"} {
		if n := h.Count(name); n != 1 {
			t.Errorf("%s was fetched %d times", name, n)
		}
	}
	if sent := h.Count("/charts/index.yaml") - h.Count("not modified"); sent != 1 {
		t.Errorf("the index was sent %d times", sent)
	}
	h.Close()
	at, err := s.At(Spec{URL: url, Chart: "web"}, digestOf(one))
	if err != nil || at.Subject != "web 1.0.0" || read(t, at.FS, "values.yaml") != "a: 1\n" {
		t.Errorf("offline: %+v, %v", at, err)
	}
}

// The index is asked for once for all charts of a round, and sent once as long as it stays.
func TestHelmIndexIsShared(t *testing.T) {
	h := sourcetest.NewHelmServer(t, nil)
	a := chartArchive(t, "a", "1.0.0")
	b := chartArchive(t, "b", "1.0.0")
	h.Put("/a.tgz", a)
	h.Put("/b.tgz", b)
	h.Put("/index.yaml", sourcetest.Index("  a:\n", sourcetest.IndexEntry("a", "1.0.0", "a.tgz", digestOf(a)), "  b:\n", sourcetest.IndexEntry("b", "1.0.0", "b.tgz", digestOf(b))))
	s := openStore(t, Limits{})
	ea, eb := follow(t, s, Spec{URL: h.URL, Chart: "a"}, 1e12), follow(t, s, Spec{URL: h.URL, Chart: "b"}, 1e12)
	if e := next(t, ea); e.Err != nil {
		t.Fatal(e.Err)
	}
	if e := next(t, eb); e.Err != nil {
		t.Fatal(e.Err)
	}
	for range 3 {
		if _, err := s.Snapshot(t.Context(), Spec{URL: h.URL, Chart: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	if sent := h.Count("/index.yaml") - h.Count("not modified"); sent != 1 {
		t.Errorf("the index was sent %d times", sent)
	}
	two := chartArchive(t, "a", "1.0.1")
	h.Put("/a2.tgz", two)
	h.Put("/index.yaml", sourcetest.Index("  a:\n", sourcetest.IndexEntry("a", "1.0.1", "a2.tgz", digestOf(two)), sourcetest.IndexEntry("a", "1.0.0", "a.tgz", digestOf(a))))
	s.Trigger(h.URL)
	if e := next(t, ea); e.Err != nil || e.Snapshot.Commit != digestOf(two) || e.Snapshot.Ref != "1.0.1" {
		t.Errorf("after a push: %+v", e)
	}
	if e := next(t, eb); !errors.Is(e.Err, ErrRefNotFound) {
		t.Errorf("after its chart went: %+v", e)
	}
}

// Credentials are for the repository's origin: an archive that its index names elsewhere is fetched without them (CVE-2021-32690), and so
// is one behind a redirect.
func TestHelmCredentialsStayAtHome(t *testing.T) {
	const user, password = "robot", "canary-helm-password-17"
	var leaked atomic.Bool
	elsewhere := sourcetest.NewHelmServer(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				leaked.Store(true)
			}
			next.ServeHTTP(w, r)
		})
	})
	home := sourcetest.NewHelmServer(t, func(next http.Handler) http.Handler {
		return basic(user, password)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/moved.tgz" {
				http.Redirect(w, r, elsewhere.URL+"/there.tgz", http.StatusFound)
				return
			}
			next.ServeHTTP(w, r)
		}))
	})
	data := chartArchive(t, "web", "1.0.0")
	moved := chartArchive(t, "web", "1.1.0")
	own := chartArchive(t, "web", "1.2.0")
	elsewhere.Put("/web.tgz", data)
	elsewhere.Put("/there.tgz", moved)
	home.Put("/own.tgz", own)
	home.Put("/index.yaml", sourcetest.Index("  web:\n", sourcetest.IndexEntry("web", "1.0.0", elsewhere.URL+"/web.tgz", digestOf(data)), sourcetest.IndexEntry("web", "1.1.0", "moved.tgz", digestOf(moved)), sourcetest.IndexEntry("web", "1.2.0", "own.tgz", digestOf(own))))
	s := openStore(t, Limits{})
	creds := &Credentials{Username: user, Password: password}
	for _, version := range []string{"1.0.0", "1.1.0", "1.2.0"} {
		if got, err := s.Snapshot(t.Context(), Spec{URL: home.URL, Chart: "web", Ref: Ref{Tag: version}, Credentials: creds}); err != nil || got.Ref != version {
			t.Errorf("%s: %v", version, err)
		}
	}
	if leaked.Load() {
		t.Error("the credentials came to another host")
	}
	if _, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: home.URL, Chart: "web"}); !errors.Is(err, ErrAuth) {
		t.Errorf("without credentials: %v", err)
	}
}

func TestHelmHostile(t *testing.T) {
	h := sourcetest.NewHelmServer(t, nil)
	good := chartArchive(t, "web", "1.0.0")
	h.Put("/good.tgz", good)
	outside := sourcetest.Gzip(t, sourcetest.Tar(t, sourcetest.File("web/Chart.yaml", "name: web\n"), sourcetest.File("web/../../x", "")))
	h.Put("/outside.tgz", outside)
	loose := sourcetest.Gzip(t, sourcetest.Tar(t, sourcetest.File("Chart.yaml", "name: web\n")))
	h.Put("/loose.tgz", loose)
	empty := sourcetest.Gzip(t, sourcetest.Tar(t, sourcetest.File("web/x", "")))
	h.Put("/empty.tgz", empty)
	h.Put("/index.yaml", sourcetest.Index("  web:\n", sourcetest.IndexEntry("web", "1.0.0", "good.tgz", digestOf([]byte("another"))), sourcetest.IndexEntry("web", "1.0.1", "outside.tgz", digestOf(outside)),
		sourcetest.IndexEntry("web", "1.0.2", "missing.tgz", ""), sourcetest.IndexEntry("web", "1.0.3", "file:///etc/passwd", ""), sourcetest.IndexEntry("web", "1.0.4", "loose.tgz", ""), sourcetest.IndexEntry("web", "1.0.5", "empty.tgz", "")))
	h.Put("/broken/index.yaml", []byte("apiVersion: v1\nentries:\n  web:\n  - name: [\n"))
	h.Put("/html/index.yaml", []byte("<html></html>"))
	h.Put("/large/index.yaml", bytes.Repeat([]byte("# comment\n"), 200_000))
	s := openStore(t, Limits{Index: 1 << 20})
	for name, c := range map[string]struct {
		spec  Spec
		class error
		text  string
	}{
		"another digest": {Spec{URL: h.URL, Ref: Ref{Tag: "1.0.0"}}, ErrBroken, "and not the index'"},
		"traversal":      {Spec{URL: h.URL, Ref: Ref{Tag: "1.0.1"}}, ErrRefused, "leads out of"},
		"missing":        {Spec{URL: h.URL, Ref: Ref{Tag: "1.0.2"}}, ErrRefNotFound, "missing.tgz"},
		"file":           {Spec{URL: h.URL, Ref: Ref{Tag: "1.0.3"}}, ErrRefused, "file:///etc/passwd"},
		"no folder":      {Spec{URL: h.URL, Ref: Ref{Tag: "1.0.4"}}, ErrRefused, "beside the chart's folder"},
		"no chart":       {Spec{URL: h.URL, Ref: Ref{Tag: "1.0.5"}}, ErrBroken, "no Chart.yaml"},
		"no version":     {Spec{URL: h.URL, Ref: Ref{Tag: "9"}}, ErrRefNotFound, `"9"`},
		"no index":       {Spec{URL: h.URL + "/nothing"}, ErrNotFound, "404"},
		"broken":         {Spec{URL: h.URL + "/broken"}, ErrBroken, "does not parse"},
		"a page":         {Spec{URL: h.URL + "/html"}, ErrBroken, "does not parse"},
		"large":          {Spec{URL: h.URL + "/large"}, ErrTooLarge, "1 MiB"},
		"commit":         {Spec{URL: h.URL, Ref: Ref{Commit: strings.Repeat("a", 40)}}, ErrRefused, "commit"},
	} {
		t.Run(name, func(t *testing.T) {
			c.spec.Chart = "web"
			_, err := s.Snapshot(t.Context(), c.spec)
			if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v with %q", err, c.class, c.text)
			}
		})
	}
}

// Every form of an index gives the same versions.
func TestIndexForms(t *testing.T) {
	block := string(sourcetest.Index("  other:\n", sourcetest.IndexEntry("other", "9.0.0", "x.tgz", ""), "  web:\n", sourcetest.IndexEntry("web", "1.0.0", "a.tgz", someDigest), sourcetest.IndexEntry("web", "0.9.0", "b.tgz", ""), "  z:\n", sourcetest.IndexEntry("z", "1.0.0", "c.tgz", "")))
	for name, text := range map[string]string{
		"helm's":       block,
		"comments":     "# made by hand\n" + strings.ReplaceAll(block, "  web:", "  # the one\n  web:"),
		"windows":      strings.ReplaceAll(block, "\n", "\r\n"),
		"quoted":       strings.ReplaceAll(block, "  web:\n", "  \"web\":\n"),
		"last":         "generated: x\n" + strings.Replace(block, "generated", "serverInfo", 1),
		"list further": strings.ReplaceAll(strings.ReplaceAll(block, "\n    ", "\n      "), "\n  - ", "\n    - "),
		"flow":         `{apiVersion: v1, entries: {web: [{name: web, version: 1.0.0, urls: [a.tgz], digest: "` + someDigest[7:] + `"}, {name: web, version: 0.9.0, urls: [b.tgz]}]}}`,
		"flow below":   "entries:\n  other: []\n  web: [{name: web, version: 1.0.0, urls: [a.tgz], digest: \"" + someDigest[7:] + "\"}, {name: web, version: 0.9.0, urls: [b.tgz]}]\n",
		"json":         `{"apiVersion":"v1","entries":{"other":[{"version":"9"}],"web":[{"name":"web","version":"1.0.0","urls":["a.tgz"],"digest":"` + someDigest[7:] + `"},{"version":"0.9.0","urls":["b.tgz"]}]},"generated":"x"}`,
	} {
		t.Run(name, func(t *testing.T) {
			all, err := indexed(strings.NewReader(text), "web")
			if err != nil || len(all) != 2 || all[0].Version != "1.0.0" || all[0].URLs[0] != "a.tgz" || all[0].sum() != someDigest || all[1].Version != "0.9.0" {
				t.Errorf("got %+v, %v", all, err)
			}
			if none, err := indexed(strings.NewReader(text), "absent"); err != nil || len(none) != 0 {
				t.Errorf("a chart that is not there: %+v, %v", none, err)
			}
		})
	}
}

// A fetched chart is an archive as it came, by range or version, at home with credentials and elsewhere without.
func TestFetchCharts(t *testing.T) {
	const user, password = "robot", "canary-helm-password-18"
	var leaked atomic.Bool
	elsewhere := sourcetest.NewHelmServer(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				leaked.Store(true)
			}
			next.ServeHTTP(w, r)
		})
	})
	home := sourcetest.NewHelmServer(t, basic(user, password))
	data := chartArchive(t, "redis", "1.2.3")
	for _, h := range []*sourcetest.HelmServer{home, elsewhere} {
		h.Put("/redis.tgz", data)
		h.Put("/index.yaml", sourcetest.Index("  redis:\n", sourcetest.IndexEntry("redis", "1.2.3", "redis.tgz", digestOf(data)), sourcetest.IndexEntry("redis", "1.0.0", "old.tgz", "")))
	}
	r := sourcetest.NewRegistry(t, nil)
	manifest := r.Push("charts/redis", nil, []sourcetest.Layer{layerOf(chartLayer, data, nil)}, "1.2.3")
	s := openStore(t, Limits{})
	spec := Spec{URL: home.URL + "/git/infra.git", Credentials: &Credentials{Username: user, Password: password}}
	for _, c := range []struct{ repository, version, digest string }{
		{home.URL, "1.2.3", digestOf(data)}, {home.URL, "^1", digestOf(data)}, {home.URL + "/", "", digestOf(data)}, {elsewhere.URL, "1.x", digestOf(data)},
		{r.Address("charts"), "1.2.3", manifest}, {r.Address("charts"), "~1.2", manifest},
	} {
		want := ChartRequest{c.repository, "redis", c.version}
		got, err := s.Chart(t.Context(), spec, want)
		if err != nil || got.Version != "1.2.3" || got.Digest != c.digest || !bytes.Equal(got.Archive, data) {
			t.Errorf("%v: %s %s, %v", want, got.Version, got.Digest, err)
		}
		if again, err := s.ChartAt(want, c.digest); err != nil || !bytes.Equal(again.Archive, data) {
			t.Errorf("%v, offline: %v", want, err)
		}
	}
	if leaked.Load() {
		t.Error("the credentials came to another host")
	}
	for name, want := range map[string]ChartRequest{"no such version": {home.URL, "redis", "3"}, "a path": {home.URL, "../redis", "1"}, "a file": {"file:///etc", "redis", "1"}, "ssh": {"git@host:x", "redis", "1"},
		"a password": {strings.Replace(home.URL, "://", "://"+user+":"+password+"@", 1), "redis", "1"}} {
		if got, err := s.Chart(t.Context(), spec, want); err == nil {
			t.Errorf("%s: got %s", name, got.Version)
		} else if strings.Contains(err.Error(), password) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzIndex(f *testing.F) {
	f.Add(string(sourcetest.Index("  web:\n", sourcetest.IndexEntry("web", "1.0.0", "a.tgz", someDigest))), "web")
	f.Add(`{"entries":{"web":[{"version":"1"}]}}`, "web")
	f.Add("entries: &a\n  web: *a\n", "web")
	f.Fuzz(func(t *testing.T, text, chart string) {
		all, err := indexed(strings.NewReader(text), chart)
		if err != nil {
			return
		}
		for _, v := range all {
			if s := v.sum(); s != "" && !isDigest(s) {
				t.Errorf("digest %q", s)
			}
		}
	})
}
