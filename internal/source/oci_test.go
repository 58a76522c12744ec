package source

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/source/sourcetest"
)

// fluxLayers is what flux push artifact sends.
func fluxLayers(t testing.TB, files ...sourcetest.Packed) []sourcetest.Layer {
	return []sourcetest.Layer{layerOf(fluxLayer, sourcetest.Gzip(t, sourcetest.Tar(t, files...)), nil)}
}

func chartFiles(name, version string) []sourcetest.Packed {
	return []sourcetest.Packed{sourcetest.File(name+"/Chart.yaml", "apiVersion: v2\nname: "+name+"\nversion: "+version+"\n"), sourcetest.File(name+"/values.yaml", "a: 1\n"),
		sourcetest.File(name+"/templates/x.yaml", "kind: X\n")}
}

func layerOf(mediaType string, content []byte, annotations map[string]string) sourcetest.Layer {
	return sourcetest.Layer{MediaType: mediaType, Content: content, Annotations: annotations}
}

func TestOCIArtifacts(t *testing.T) {
	r := sourcetest.NewRegistry(t, nil)
	s := openStore(t, Limits{})
	flux := r.Push("acme/flux", map[string]string{"org.opencontainers.image.revision": "main@sha1:abc", "org.opencontainers.image.created": "2026-01-02T03:04:05Z"},
		fluxLayers(t, sourcetest.File("./web.yaml", "kind: Web\n")), "latest", "v1.0.0")
	oras := r.Push("acme/oras", nil, []sourcetest.Layer{
		layerOf("application/vnd.oci.image.layer.v1.tar", []byte("kind: One\n"), map[string]string{orasTitle: "one.yaml"}),
		layerOf("application/vnd.oci.image.layer.v1.tar+gzip", sourcetest.Gzip(t, sourcetest.Tar(t, sourcetest.File("folder/two.yaml", "kind: Two\n"))), map[string]string{orasTitle: "folder", orasUnpack: "true"}),
	}, "latest")
	plain := r.Push("acme/plain", nil, []sourcetest.Layer{layerOf("application/vnd.oci.image.layer.v1.tar", sourcetest.Tar(t, sourcetest.File("a.yaml", "kind: A\n"), sourcetest.File("b.yaml", "kind: old\n")), nil),
		layerOf("application/vnd.docker.image.rootfs.diff.tar.gzip", sourcetest.Gzip(t, sourcetest.Tar(t, sourcetest.File("b.yaml", "kind: B\n"))), nil)}, "latest")
	chart := r.Push("acme/charts/web", nil, []sourcetest.Layer{layerOf(chartLayer, sourcetest.Gzip(t, sourcetest.Tar(t, chartFiles("web", "1.2.3+build")...)), nil)}, "1.2.3_build")
	for name, c := range map[string]struct {
		spec          Spec
		digest, ref   string
		file, content string
	}{
		"flux, latest":  {Spec{URL: r.Address("acme/flux")}, flux, "latest", "web.yaml", "kind: Web\n"},
		"flux, tag":     {Spec{URL: r.Address("acme/flux"), Ref: Ref{Tag: "v1.0.0"}}, flux, "v1.0.0", "web.yaml", "kind: Web\n"},
		"flux, digest":  {Spec{URL: r.Address("acme/flux"), Ref: Ref{Digest: flux}}, flux, flux, "web.yaml", "kind: Web\n"},
		"flux, range":   {Spec{URL: r.Address("acme/flux"), Ref: Ref{Semver: "1.x"}}, flux, "v1.0.0", "web.yaml", "kind: Web\n"},
		"oras, file":    {Spec{URL: r.Address("acme/oras")}, oras, "latest", "one.yaml", "kind: One\n"},
		"oras, folder":  {Spec{URL: r.Address("acme/oras")}, oras, "latest", "folder/two.yaml", "kind: Two\n"},
		"plain":         {Spec{URL: r.Address("acme/plain")}, plain, "latest", "a.yaml", "kind: A\n"},
		"plain, later":  {Spec{URL: r.Address("acme/plain")}, plain, "latest", "b.yaml", "kind: B\n"},
		"chart":         {Spec{URL: r.Address("acme/charts"), Chart: "web"}, chart, "1.2.3+build", "templates/x.yaml", "kind: X\n"},
		"chart, exact":  {Spec{URL: r.Address("acme/charts"), Chart: "web", Ref: Ref{Tag: "1.2.3+build"}}, chart, "1.2.3+build", "values.yaml", "a: 1\n"},
		"chart, as OCI": {Spec{URL: r.Address("acme/charts/web"), Ref: Ref{Tag: "1.2.3_build"}}, chart, "1.2.3_build", "web/values.yaml", "a: 1\n"},
		"plain http":    {Spec{URL: strings.Replace(r.Address("acme/flux"), "oci://", "oci+http://", 1)}, flux, "latest", "web.yaml", "kind: Web\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := s.Snapshot(t.Context(), c.spec)
			if err != nil {
				t.Fatal(err)
			}
			if got.Commit != c.digest || got.Ref != c.ref {
				t.Errorf("got %s %s, want %s %s", got.Ref, got.Commit, c.ref, c.digest)
			}
			if text := read(t, got.FS, c.file); text != c.content {
				t.Errorf("%s holds %q", c.file, text)
			}
		})
	}
	r.Close() // what was read is there without the registry
	at, err := s.At(Spec{URL: r.Address("acme/flux")}, flux)
	if err != nil || read(t, at.FS, "web.yaml") != "kind: Web\n" || !strings.Contains(at.Subject, "main@sha1:abc") || at.Time.Year() != 2026 {
		t.Errorf("offline: %+v, %v", at, err)
	}
	if _, err := s.At(Spec{URL: r.Address("acme/other")}, flux); !errors.Is(err, ErrRefNotFound) {
		t.Errorf("by another address: %v", err)
	}
	if all, err := s.Find(Spec{URL: r.Address("acme/flux")}, flux[:14]); err != nil || len(all) != 1 || all[0] != flux {
		t.Errorf("found %v, %v", all, err)
	}
}

// A tag that moves is news; the same one again is not, and costs one HEAD.
func TestOCIPolling(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]int{}
	r := sourcetest.NewRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			mu.Lock()
			asked[req.Method+" "+strings.Split(req.URL.Path, "/")[4]]++
			mu.Unlock()
			next.ServeHTTP(w, req)
		})
	})
	s := openStore(t, Limits{})
	first := r.Push("acme/web", nil, fluxLayers(t, sourcetest.File("a", "1")), "latest")
	events := follow(t, s, Spec{URL: r.Address("acme/web")}, time.Second)
	if e := next(t, events); e.Err != nil || e.Snapshot.Commit != first {
		t.Fatalf("first: %+v", e)
	}
	second := r.Push("acme/web", nil, fluxLayers(t, sourcetest.File("a", "2")), "latest")
	if n := s.Trigger(r.Address("acme/web")); n != 1 {
		t.Errorf("%d remotes were asked", n)
	}
	if e := next(t, events); e.Err != nil || e.Snapshot.Commit != second || !e.New {
		t.Fatalf("second: %+v", e)
	}
	mu.Lock()
	before := asked["GET blobs"]
	mu.Unlock()
	if _, err := s.Snapshot(t.Context(), Spec{URL: r.Address("acme/web")}); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if asked["GET blobs"] != before || before != 2 {
		t.Errorf("asked: %v", asked)
	}
}

// paged gives tags three at a time, with links, as large registries do.
func paged(tags []string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/tags/list") {
				next.ServeHTTP(w, r)
				return
			}
			start := 0
			if last := r.URL.Query().Get("last"); last != "" {
				for start < len(tags) && tags[start] <= last {
					start++
				}
			}
			end := min(start+3, len(tags))
			if end < len(tags) {
				w.Header().Set("Link", fmt.Sprintf(`<%s?last=%s&n=3>; rel="next"`, r.URL.Path, tags[end-1]))
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"name": "x", "tags": tags[start:end]})
		})
	}
}

func TestOCITagPages(t *testing.T) {
	r := sourcetest.NewRegistry(t, paged([]string{"0.9.0", "1.0.0", "1.0.1", "1.1.0", "1.2.0-rc.1", "2.0.0", "latest", "v1.1.5"}))
	s := openStore(t, Limits{})
	want := r.Push("acme/web", nil, fluxLayers(t, sourcetest.File("a", "1")), "v1.1.5")
	got, err := s.Snapshot(t.Context(), Spec{URL: r.Address("acme/web"), Ref: Ref{Semver: "~1"}})
	if err != nil || got.Commit != want || got.Ref != "v1.1.5" {
		t.Errorf("got %s %s, %v", got.Ref, got.Commit, err)
	}
	if _, err := s.Snapshot(t.Context(), Spec{URL: r.Address("acme/web"), Ref: Ref{Semver: ">=3"}}); !errors.Is(err, ErrRefNotFound) || !strings.Contains(err.Error(), "2.0.0") {
		t.Errorf("a range of nothing: %v", err)
	}
}

// A registry that lists tags for ever is stopped.
func TestOCIEndlessTags(t *testing.T) {
	r := sourcetest.NewRegistry(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", fmt.Sprintf(`<%s?last=x>; rel="next"`, r.URL.Path))
			_, _ = io.WriteString(w, `{"tags":[]}`)
		})
	})
	s := openStore(t, Limits{})
	if _, err := s.Snapshot(t.Context(), Spec{URL: r.Address("acme/web"), Ref: Ref{Semver: "*"}}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
}

// tokenRegistry asks for a token of a service on another port, which gives one for a password.
func tokenRegistry(t *testing.T, user, password string) (*sourcetest.Registry, *atomic.Int32) {
	var issued atomic.Int32
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, p, _ := r.BasicAuth()
		if u != user || p != password || r.URL.Query().Get("service") != "the-registry" || !strings.Contains(r.URL.Query().Get("scope"), ":pull") {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		issued.Add(1)
		_, _ = io.WriteString(w, `{"token":"canary-token-77"}`)
	}))
	t.Cleanup(service.Close)
	return sourcetest.NewRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer canary-token-77" {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="the-registry",scope="repository:acme/web:pull"`, service.URL+"/token"))
				http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	}), &issued
}

func basicAuth(user, password string) func(http.Handler) http.Handler { return basic(user, password) }

func TestOCICredentials(t *testing.T) {
	const user, password = "robot", "canary-oci-password-41"
	private := sourcetest.NewRegistry(t, basicAuth(user, password))
	tokens, issued := tokenRegistry(t, user, password)
	docker := func(host string) *Credentials {
		c, err := CredentialsFromSecret(map[string][]byte{".dockerconfigjson": []byte(fmt.Sprintf(`{"auths":{"other.example.org":{"auth":"bm86bm8="},%q:{"auth":%q}}}`,
			host, base64.StdEncoding.EncodeToString([]byte(user+":"+password))))})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	host := func(r *sourcetest.Registry) string { return strings.TrimPrefix(r.URL, "http://") }
	for _, r := range []*sourcetest.Registry{private, tokens} {
		want := r.Push("acme/web", nil, fluxLayers(t, sourcetest.File("a", "1")), "latest")
		for name, c := range map[string]*Credentials{"basic": {Username: user, Password: password}, "docker config": docker(host(r)), "docker config of a folder": docker("http://" + host(r) + "/acme")} {
			got, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: r.Address("acme/web"), Credentials: c})
			if err != nil || got.Commit != want {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, c := range map[string]*Credentials{"none": nil, "wrong": {Username: user, Password: "wrong"}, "docker config of another host": docker("other.example.net"), "docker config of another folder": docker(host(r) + "/beta")} {
			_, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: r.Address("acme/web"), Credentials: c})
			if !errors.Is(err, ErrAuth) || strings.Contains(fmt.Sprint(err), password) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if issued.Load() != 3 {
		t.Errorf("%d tokens were issued", issued.Load())
	}
}

// Blobs that lie elsewhere are fetched without the credentials, on whatever port the other server listens; and nothing is sent
// to a token service that is spoken to less safely.
func TestOCICredentialsStayAtHome(t *testing.T) {
	const user, password = "robot", "canary-oci-password-42"
	var leaked atomic.Bool
	var blobs http.Handler
	cdn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Store(true)
		}
		if path, first := strings.CutPrefix(r.URL.Path, "/once"); first { // and on to another place of its own
			http.Redirect(w, r, path, http.StatusTemporaryRedirect)
			return
		}
		blobs.ServeHTTP(w, r)
	}))
	t.Cleanup(cdn.Close)
	r := sourcetest.NewRegistry(t, func(next http.Handler) http.Handler {
		blobs = next
		return basic(user, password)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				http.Redirect(w, r, cdn.URL+"/once"+r.URL.Path, http.StatusTemporaryRedirect)
				return
			}
			next.ServeHTTP(w, r)
		}))
	})
	want := r.Push("acme/web", nil, fluxLayers(t, sourcetest.File("a", "1")), "latest")
	got, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: r.Address("acme/web"), Credentials: &Credentials{Username: user, Password: password}})
	if err != nil || got.Commit != want || leaked.Load() {
		t.Errorf("through a redirect: %v, leaked %v", err, leaked.Load())
	}
}

// An archive that is there for one reader is none for another who has not shown its right, be its digest known.
func TestShelfIsNoWayAroundCredentials(t *testing.T) {
	const user, password = "robot", "canary-oci-password-43"
	r := sourcetest.NewRegistry(t, basicAuth(user, password))
	digest := r.Push("acme/web", nil, fluxLayers(t, sourcetest.File("a", "1")), "latest")
	s := openStore(t, Limits{})
	for _, ref := range []Ref{{}, {Digest: digest}} {
		if got, err := s.Snapshot(t.Context(), Spec{URL: r.Address("acme/web"), Ref: ref, Credentials: &Credentials{Username: user, Password: password}}); err != nil || got.Commit != digest {
			t.Errorf("with credentials, %s: %v", ref, err)
		}
		if got, err := s.Snapshot(t.Context(), Spec{URL: r.Address("acme/web"), Ref: ref}); !errors.Is(err, ErrAuth) {
			t.Errorf("without, %s: %v, %v", ref, got.Commit, err)
		}
	}
}

// A registry that answers with something else than what was asked for is not believed, and a manifest that cannot be used says why.
func TestOCIHostile(t *testing.T) {
	s := openStore(t, Limits{Archive: 1 << 20, Unpacked: 1 << 20})
	lying := sourcetest.NewRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				rec := httptest.NewRecorder()
				next.ServeHTTP(rec, r)
				body := rec.Body.Bytes()
				body[len(body)-1] ^= 1
				_, _ = w.Write(body)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	lying.Push("acme/web", nil, fluxLayers(t, sourcetest.File("a", "1")), "latest")
	if _, err := s.Snapshot(t.Context(), Spec{URL: lying.Address("acme/web")}); err == nil || !strings.Contains(err.Error(), "another layer") {
		t.Errorf("a changed layer: %v", err)
	}
	r := sourcetest.NewRegistry(t, nil)
	one := r.Push("acme/index", nil, fluxLayers(t, sourcetest.File("a", "1")))
	index := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + one + `","size":2}]}`)
	r.Send(http.MethodPut, "/v2/acme/index/manifests/latest", "application/vnd.oci.image.index.v1+json", index)
	r.Push("acme/strange", nil, []sourcetest.Layer{layerOf("application/x-thing", []byte("x"), nil)}, "latest")
	r.Push("acme/traversal", nil, fluxLayers(t, sourcetest.File("../x", "1")), "latest")
	r.Push("acme/title", nil, []sourcetest.Layer{layerOf("text/plain", []byte("x"), map[string]string{orasTitle: "../../etc/cron.d/x"})}, "latest")
	r.Push("acme/large", nil, []sourcetest.Layer{layerOf(fluxLayer, make([]byte, 2<<20), nil)}, "latest")
	r.Push("acme/nochart", nil, fluxLayers(t, sourcetest.File("a", "1")), "1.0.0")
	for name, c := range map[string]struct {
		spec  Spec
		class error
		text  string
	}{
		"index":     {Spec{URL: r.Address("acme/index")}, ErrRefused, "several manifests"},
		"strange":   {Spec{URL: r.Address("acme/strange")}, ErrRefused, "application/x-thing"},
		"traversal": {Spec{URL: r.Address("acme/traversal")}, ErrRefused, "leads out of"},
		"title":     {Spec{URL: r.Address("acme/title")}, ErrRefused, "leads out of"},
		"large":     {Spec{URL: r.Address("acme/large")}, ErrTooLarge, "1 MiB"},
		"no chart":  {Spec{URL: r.Address("acme"), Chart: "nochart"}, ErrRefused, "0 charts"},
		"no tag":    {Spec{URL: r.Address("acme/strange"), Ref: Ref{Tag: "v9"}}, ErrRefNotFound, "v9"},
		"no repo":   {Spec{URL: r.Address("acme/nothing")}, ErrRefNotFound, "latest"},
		"no digest": {Spec{URL: r.Address("acme/strange"), Ref: Ref{Digest: someDigest}}, ErrRefNotFound, someDigest},
		"branch":    {Spec{URL: r.Address("acme/strange"), Ref: Ref{Branch: "main"}}, ErrRefused, "branch"},
		"upper":     {Spec{URL: r.Address("Acme/Strange")}, ErrRefused, "lower case"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Snapshot(t.Context(), c.spec)
			if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v with %q", err, c.class, c.text)
			}
		})
	}
}

// A registry that says nothing more in the middle of a layer does not hold its remote for ever.
func TestOCIStalls(t *testing.T) {
	held := make(chan struct{})
	r := sourcetest.NewRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/blobs/") {
				next.ServeHTTP(w, r)
				return
			}
			_, _ = io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			select {
			case <-held:
			case <-r.Context().Done():
			}
		})
	})
	defer close(held)
	r.Push("acme/web", nil, fluxLayers(t, sourcetest.File("a", "1")), "latest")
	s := openStore(t, Limits{Stall: 200 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := s.Snapshot(ctx, Spec{URL: r.Address("acme/web")}); !errors.Is(err, ErrTimeout) {
		t.Errorf("got %v", err)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"layers":[{"digest":"` + someDigest + `","size":3,"mediaType":"x"}]}`))
	f.Add([]byte(`{"manifests":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseManifest(data)
		if err != nil {
			return
		}
		_ = aboutManifest(m, "x")
		for _, l := range m.Layers {
			if l.Size < 0 || !isDigest(l.Digest.String()) {
				t.Errorf("layer %+v", l)
			}
		}
	})
}
