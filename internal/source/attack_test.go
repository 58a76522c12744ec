package source

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/source/sourcetest"
)

// drip sends a byte now and then, far more often than a stall is, until the client has gone.
func drip(w http.ResponseWriter, r *http.Request) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := io.WriteString(w, "x"); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// A server that never stalls and never ends is left after the time that a check may take, whatever it drips.
func TestServerThatDripsForEver(t *testing.T) {
	r := newRepo(t)
	r.write("a.yaml", "one").commit("first")
	limits := Limits{Stall: time.Minute, Total: 500 * time.Millisecond}
	dripAt := func(here func(*http.Request) bool, before string) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if !here(req) {
					next.ServeHTTP(w, req)
					return
				}
				w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
				fmt.Fprint(w, before)
				drip(w, req)
			})
		}
	}
	method := func(m string) func(*http.Request) bool { return func(r *http.Request) bool { return r.Method == m } }
	refs := gitHTTP(t, filepath.Dir(r.dir), dripAt(method(http.MethodGet), "fff0"))
	defer refs.Close()
	pack := gitHTTP(t, filepath.Dir(r.dir), dripAt(method(http.MethodPost), "00000008NAK\nfff0\x01PACK\x00\x00\x00\x02\x00\x00\x00\x01\xbf\x0f"))
	defer pack.Close()
	layer := sourcetest.NewRegistry(t, dripAt(func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/") }, ""))
	layer.Push("acme/web", nil, fluxLayers(t, sourcetest.File("a", "1")), "latest")
	index := httptest.NewServer(http.HandlerFunc(drip))
	defer index.Close()
	for name, spec := range map[string]Spec{
		"refs":  {URL: refs.URL + "/repo"},
		"pack":  {URL: pack.URL + "/repo"},
		"layer": {URL: layer.Address("acme/web")},
		"index": {URL: index.URL, Chart: "web"},
	} {
		t.Run(name, func(t *testing.T) {
			started := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			_, err := openStore(t, limits).Snapshot(ctx, spec)
			if !errors.Is(err, ErrTimeout) || !strings.Contains(err.Error(), "took longer than 500ms") {
				t.Errorf("after %s: %v", time.Since(started), err)
			}
		})
	}
}

// A registry spoken to over TLS that names a token service without it gets no credentials sent there.
func TestTokenServiceWithoutTLSGetsNothing(t *testing.T) {
	const user, password = "robot", "canary-oci-password-44"
	var asked atomic.Int32
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		fmt.Fprint(w, `{"token":"x"}`)
	}))
	defer tokens.Close()
	registry := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="x",scope="repository:acme/web:pull"`, tokens.URL+"/token"))
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
	}))
	defer registry.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: registry.Certificate().Raw})
	host := strings.TrimPrefix(registry.URL, "https://")
	for name, c := range map[string]*Credentials{
		"password":       {Username: user, Password: password, CABundle: ca},
		"identity token": {identityToken: password, CABundle: ca},
	} {
		_, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: "oci://" + host + "/acme/web", Credentials: c})
		if err == nil || !strings.Contains(err.Error(), "http") || strings.Contains(err.Error(), password) {
			t.Errorf("%s: %v", name, err)
		}
		t.Log(err)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the token service was asked %d times", n)
	}
}
