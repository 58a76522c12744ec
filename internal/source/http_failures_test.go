package source

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestHTTPFailures(t *testing.T) {
	r := newRepo(t)
	r.write("a.yaml", "one").commit("first")
	empty := newRepo(t)
	root := filepath.Dir(r.dir)
	respond := func(f func(http.ResponseWriter, *http.Request, http.Handler)) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f(w, r, next) })
		}
	}
	post := func(f func(http.ResponseWriter)) func(http.Handler) http.Handler {
		return respond(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method != http.MethodPost {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
			f(w)
		})
	}
	for _, c := range []struct {
		name, path string
		root       string
		wrap       func(http.Handler) http.Handler
		class      error
	}{
		{"no such repository", "/none", root, nil, ErrNotFound},
		{"empty repository", "/repo", filepath.Dir(empty.dir), nil, ErrEmpty},
		{"a web page", "/repo", root, respond(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { fmt.Fprint(w, "<html>hello") }), ErrNotFound},
		{"server error", "/repo", root, respond(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			http.Error(w, "oops", http.StatusInternalServerError)
		}), ErrUnreachable},
		{"too many requests", "/repo", root, respond(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			http.Error(w, "slow down", http.StatusTooManyRequests)
		}), ErrUnreachable},
		{"garbage instead of refs", "/repo", root, respond(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			fmt.Fprint(w, "zzzz not a packet line")
		}), ErrBroken},
		{"says that it will not", "/repo", root, respond(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			fmt.Fprint(w, "001fERR access denied, go away\n")
		}), ErrAuth},
		{"pack is garbage", "/repo", root, post(func(w http.ResponseWriter) { fmt.Fprint(w, "00000008NAK\n0010\x01not a pack") }), ErrBroken},
		{"pack ends early", "/repo", root, post(func(w http.ResponseWriter) {
			fmt.Fprint(w, "00000008NAK\n", packet("\x01PACK\x00\x00\x00\x02\x00\x00\x00\x05"), "0000")
		}), ErrBroken},
		{"pack claims four billion objects", "/repo", root, post(func(w http.ResponseWriter) {
			fmt.Fprint(w, "00000008NAK\n", packet("\x01PACK\x00\x00\x00\x02\xff\xff\xff\xff"), "0000")
		}), ErrTooLarge},
		{"pack never ends", "/repo", root, post(func(w http.ResponseWriter) {
			fmt.Fprint(w, "00000008NAK\n")
			for range 1 << 20 {
				if _, err := fmt.Fprint(w, packet("\x01"+strings.Repeat("x", 60000))); err != nil {
					return
				}
			}
		}), ErrTooLarge},
		{"answer never begins", "/repo", root, post(func(w http.ResponseWriter) {
			for range 1 << 20 {
				if _, err := fmt.Fprint(w, packet(strings.Repeat("x", 60000))); err != nil {
					return
				}
			}
		}), ErrTooLarge},
		{"refs never end", "/repo", root, respond(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			fmt.Fprint(w, packet(fmt.Sprintf("%040x HEAD\x00ofs-delta\n", 1)))
			for i := range 1 << 30 {
				if _, err := fmt.Fprint(w, packet(fmt.Sprintf("%040x refs/heads/b%d\n", i+1, i))); err != nil {
					return
				}
			}
		}), ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := gitHTTP(t, c.root, c.wrap)
			defer srv.Close()
			s := openStore(t, Limits{Pack: 1 << 20, Advert: 1 << 20})
			snap, err := s.Snapshot(t.Context(), Spec{URL: srv.URL + c.path})
			if !errors.Is(err, c.class) {
				t.Fatalf("got %+v %v, want %v", snap, err, c.class)
			}
			t.Log(err)
			var e *Error
			if !errors.As(err, &e) || e.Repo == "" {
				t.Errorf("the error does not name the repository: %v", err)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		srv := gitHTTP(t, root, nil)
		srv.Close()
		_, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: srv.URL + "/repo"})
		if !errors.Is(err, ErrUnreachable) {
			t.Fatal(err)
		}
		t.Log(err)
	})
	t.Run("no such host", func(t *testing.T) {
		_, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: "https://host.invalid/repo"})
		if !errors.Is(err, ErrUnreachable) {
			t.Fatal(err)
		}
		t.Log(err)
	})
}

// packet is a pkt-line.
func packet(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }

func TestHTTPStalls(t *testing.T) {
	r := newRepo(t)
	r.write("a.yaml", "one").commit("first")
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			release := make(chan struct{})
			srv := gitHTTP(t, filepath.Dir(r.dir), func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method != method {
						next.ServeHTTP(w, r)
						return
					}
					w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
					fmt.Fprint(w, "001e")
					w.(http.Flusher).Flush()
					<-release
				})
			})
			defer srv.Close()
			defer close(release)
			s := openStore(t, Limits{Stall: 50 * time.Millisecond})
			_, err := s.Snapshot(t.Context(), Spec{URL: srv.URL + "/repo"})
			if !errors.Is(err, ErrTimeout) {
				t.Fatal(err)
			}
			t.Log(err)
		})
	}
}
