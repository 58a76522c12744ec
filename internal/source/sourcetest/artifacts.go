package sourcetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
)

// Digest is how registries name bytes.
func Digest(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// Packed is an entry of a tar, with its content if it is a file.
type Packed struct {
	tar.Header
	Content string
}

// File is a plain file.
func File(name, content string) Packed {
	return Packed{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content}
}

// Tar packs files in their order.
func Tar(t testing.TB, files ...Packed) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		h := f.Header
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(f.Content))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, f.Content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Gzip packs bytes.
func Gzip(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Registry is a real registry of a library, with what a test puts in front of it. Pushes go around that.
type Registry struct {
	t    testing.TB
	open *httptest.Server // for pushes
	*httptest.Server
}

// NewRegistry serves until the test ends.
func NewRegistry(t testing.TB, front func(http.Handler) http.Handler) *Registry {
	t.Helper()
	store := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	r := &Registry{t: t, open: httptest.NewServer(store)}
	t.Cleanup(r.open.Close)
	if front == nil {
		front = func(h http.Handler) http.Handler { return h }
	}
	r.Server = httptest.NewServer(front(store))
	t.Cleanup(r.Server.Close)
	return r
}

// Address is how an Application names a repository.
func (r *Registry) Address(repository string) string {
	return "oci://" + strings.TrimPrefix(r.URL, "http://") + "/" + repository
}

// Send makes a request of a push.
func (r *Registry) Send(method, path, mediaType string, body []byte) {
	r.t.Helper()
	req, err := http.NewRequest(method, r.open.URL+path, strings.NewReader(string(body)))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := r.open.Client().Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		said, _ := io.ReadAll(resp.Body)
		r.t.Fatalf("%s %s: %s %s", method, path, resp.Status, said)
	}
}

// Layer is one layer of an artifact, as a client pushes it.
type Layer struct {
	MediaType   string
	Content     []byte
	Annotations map[string]string
}

// Push pushes an artifact under tags and returns its digest.
func (r *Registry) Push(repository string, annotations map[string]string, layers []Layer, tags ...string) string {
	r.t.Helper()
	config := []byte("{}")
	blob := func(data []byte) map[string]any {
		r.Send(http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+url.QueryEscape(Digest(data)), "application/octet-stream", data)
		return map[string]any{"digest": Digest(data), "size": len(data)}
	}
	c := blob(config)
	c["mediaType"] = "application/vnd.cncf.flux.config.v1+json"
	var all []any
	for _, l := range layers {
		d := blob(l.Content)
		d["mediaType"] = l.MediaType
		if l.Annotations != nil {
			d["annotations"] = l.Annotations
		}
		all = append(all, d)
	}
	manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": c, "layers": all, "annotations": annotations})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, tag := range append(tags, Digest(manifest)) {
		r.Send(http.MethodPut, "/v2/"+repository+"/manifests/"+tag, "application/vnd.oci.image.manifest.v1+json", manifest)
	}
	return Digest(manifest)
}

// HelmServer is a Helm repository: files, an index that is made of them, and a count of what was asked for.
type HelmServer struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string][]byte
	asked map[string]int
}

// NewHelmServer serves until the test ends.
func NewHelmServer(t testing.TB, front func(http.Handler) http.Handler) *HelmServer {
	t.Helper()
	s := &HelmServer{files: map[string][]byte{}, asked: map[string]int{}}
	if front == nil {
		front = func(h http.Handler) http.Handler { return h }
	}
	s.Server = httptest.NewServer(front(s))
	t.Cleanup(s.Server.Close)
	return s
}

func (s *HelmServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	data, ok := s.files[r.URL.Path]
	s.asked[r.URL.Path]++
	s.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	etag := `"` + Digest(data)[7:20] + `"`
	w.Header().Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		s.mu.Lock()
		s.asked["not modified"]++
		s.mu.Unlock()
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(data)
}

// Put adds or replaces a file.
func (s *HelmServer) Put(name string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[name] = data
}

// Count is how often a file was asked for; of "not modified", how often the answer was that.
func (s *HelmServer) Count(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

// IndexEntry is one version in an index, as helm repo index writes it.
func IndexEntry(name, version, url, digest string) string {
	text := fmt.Sprintf("  - apiVersion: v2\n    created: \"2026-01-02T03:04:05.678Z\"\n    description: |\n      entries:\n      other:\n    name: %s\n    urls:\n    - %s\n    version: %s\n", name, url, version)
	if digest != "" {
		text += "    digest: " + strings.TrimPrefix(digest, "sha256:") + "\n"
	}
	return text
}

// Index is an index.yaml of charts, each a line with its name and IndexEntries.
func Index(charts ...string) []byte {
	return []byte("apiVersion: v1\nentries:\n" + strings.Join(charts, "") + "generated: \"2026-01-02T03:04:05Z\"\n")
}
