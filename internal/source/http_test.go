package source

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gitopsd/gitopsd/internal/redact"
)

// backend is Git's own server for smart HTTP, Debian's place for it.
const backend = "/usr/lib/git-core/git-http-backend"

// gitHTTP serves the repositories below the folder. wrap may stand before it.
func gitHTTP(t *testing.T, root string, wrap func(http.Handler) http.Handler) *httptest.Server {
	t.Helper()
	return httptest.NewServer(gitHandler(t, root, wrap))
}

func gitHandler(t *testing.T, root string, wrap func(http.Handler) http.Handler) http.Handler {
	t.Helper()
	var h http.Handler = &cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "HOME=/nonexistent"}, Stderr: t.Output()}
	if wrap != nil {
		h = wrap(h)
	}
	return h
}

// basic asks for a user and a password.
func basic(user, password string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
				w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
				http.Error(w, "no", http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func TestHTTP(t *testing.T) {
	r := newRepo(t)
	first := r.write("a.yaml", "one").commit("first")
	r.git("tag", "-a", "-m", "x", "v1")
	second := r.write("a.yaml", "two", "b/c.yaml", "deep").commit("second")
	srv := gitHTTP(t, filepath.Dir(r.dir), nil)
	defer srv.Close()
	s := openStore(t, Limits{})
	for _, c := range []struct {
		ref    Ref
		commit string
	}{{Ref{}, second}, {Ref{Branch: "main"}, second}, {Ref{Tag: "v1"}, first}, {Ref{Commit: second}, second}, {Ref{Commit: first}, first}} {
		snap, err := s.Snapshot(t.Context(), Spec{URL: srv.URL + "/repo", Ref: c.ref})
		if err != nil {
			t.Fatalf("%+v: %v", c.ref, err)
		}
		if snap.Commit != c.commit {
			t.Errorf("%+v: %s, want %s", c.ref, snap.Commit, c.commit)
		}
		want := map[string]string{first: "one", second: "two"}[c.commit]
		if got := read(t, snap.FS, "a.yaml"); got != want {
			t.Errorf("%+v: %q, want %q", c.ref, got, want)
		}
	}
	third := r.write("b/c.yaml", "changed").commit("third") // an increment
	snap, err := s.Snapshot(t.Context(), Spec{URL: srv.URL + "/repo"})
	if err != nil || snap.Commit != third || read(t, snap.FS, "b/c.yaml") != "changed" || read(t, snap.FS, "a.yaml") != "two" {
		t.Errorf("after a push: %s %v", snap.Commit, err)
	}
}

// A commit that is no tip, from a server that serves tips only, is found in the whole history.
func TestHTTPCommitThatIsNoTip(t *testing.T) {
	r := newRepo(t)
	first := r.write("a.yaml", "one").commit("first")
	r.write("a.yaml", "two").commit("second")
	r.write("a.yaml", "three").commit("third")
	srv := gitHTTP(t, filepath.Dir(r.dir), nil)
	defer srv.Close()
	s := openStore(t, Limits{})
	snap, err := s.Snapshot(t.Context(), Spec{URL: srv.URL + "/repo", Ref: Ref{Commit: first}})
	if err != nil || read(t, snap.FS, "a.yaml") != "one" {
		t.Fatalf("%v", err)
	}
	_, err = s.Snapshot(t.Context(), Spec{URL: srv.URL + "/repo", Ref: Ref{Commit: strings.Repeat("0a", 20)}})
	if !errors.Is(err, ErrRefNotFound) && !errors.Is(err, ErrBroken) {
		t.Errorf("a commit that does not exist: %v", err)
	}
}

// What came with a history that was fetched for one commit's sake does not stay on disk.
func TestHTTPWholeHistoryIsNotKept(t *testing.T) {
	r := newRepo(t)
	first := r.write("a.yaml", "one").commit("first")
	noise := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(noise)
	r.write("big", string(noise)).commit("second")
	r.write("a.yaml", "three").commit("third")
	srv := gitHTTP(t, filepath.Dir(r.dir), nil)
	defer srv.Close()
	s := openStore(t, Limits{})
	snap := snapshotOf(t, s, Spec{URL: srv.URL + "/repo", Ref: Ref{Commit: first}})
	if size := diskUse(snap.FS.(*tree).m.dir); size > 100<<10 || read(t, snap.FS, "a.yaml") != "one" {
		t.Errorf("%d bytes on disk", size)
	}
	if next := snapshotOf(t, s, Spec{URL: srv.URL + "/repo"}); read(t, next.FS, "a.yaml") != "three" || len(read(t, next.FS, "big")) != 1<<20 || read(t, snap.FS, "a.yaml") != "one" {
		t.Error("what came before or after is not whole")
	}
}

// A small change of a large repository costs a small fetch, whether it comes after the last commit or instead of it.
func TestHTTPIncrement(t *testing.T) {
	r := newRepo(t)
	noise := rand.New(rand.NewPCG(1, 2))
	line := func() string { return fmt.Sprintf("%x%x%x\n", noise.Uint64(), noise.Uint64(), noise.Uint64()) }
	for i := range 40 {
		r.write(fmt.Sprintf("d%d/f%d", i%5, i), strings.Repeat(line(), 3)+line()+line()+line())
	}
	big := ""
	for range 5000 {
		big += line()
	}
	r.write("big", big).commit("first")
	var sent atomic.Int64
	srv := gitHTTP(t, filepath.Dir(r.dir), func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				w = &counting{w, &sent}
			}
			next.ServeHTTP(w, r)
		})
	})
	defer srv.Close()
	s := openStore(t, Limits{})
	fetch := func(what string, most int64) {
		t.Helper()
		sent.Store(0)
		snap, err := s.Snapshot(t.Context(), Spec{URL: srv.URL + "/repo"})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got := gitIn(t, r.dir, "show", "HEAD:big"); read(t, snap.FS, "big") != got+"\n" && read(t, snap.FS, "big") != got {
			t.Errorf("%s: big is not what it should be", what)
		}
		t.Logf("%s: %d bytes", what, sent.Load())
		if sent.Load() > most {
			t.Errorf("%s: %d bytes are more than %d", what, sent.Load(), most)
		}
	}
	fetch("everything", 1<<20)
	r.write("d1/f1", "changed").commit("second")
	fetch("one small file", 2000)
	r.write("big", strings.Replace(big, big[1000:1040], "changed", 1)).commit("third")
	fetch("one line of a large file", 2000)
	for i := range 5 {
		r.write("d2/f2", fmt.Sprint(i)).commit("more")
	}
	fetch("several commits", 2000)
	r.git("reset", "-q", "--hard", "HEAD~4")
	r.write("d2/f2", "other").commit("instead")
	fetch("a force-push", 2000)
	r.git("checkout", "-q", "--orphan", "new")
	r.write("d2/f2", "unrelated").commit("unrelated")
	fetch("an unrelated history with the same files", 3000)
}

// counting counts what is answered.
type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counting) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.ResponseWriter.Write(p)
}

func (c *counting) Flush() { c.ResponseWriter.(http.Flusher).Flush() }

const canary = "canary-pa55w0rd/+ä"

func TestHTTPCredentials(t *testing.T) {
	r := newRepo(t)
	r.write("a.yaml", "one").commit("first")
	srv := gitHTTP(t, filepath.Dir(r.dir), basic("bob", canary))
	defer srv.Close()
	bearer := gitHTTP(t, filepath.Dir(r.dir), func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer "+canary {
				http.Error(w, "no: "+r.Header.Get("Authorization"), http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	defer bearer.Close()
	withUser := func(u string) string {
		parsed, _ := url.Parse(u + "/repo")
		parsed.User = url.UserPassword("bob", canary)
		return parsed.String()
	}
	lines, err := ParseCredentials([]byte("# comment\n" + withUser(srv.URL) + "\nhttps://x:y@elsewhere\n"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Open(ctx, Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		url   string
		creds *Credentials
		class error
	}{
		{"none", srv.URL + "/repo", nil, ErrAuth},
		{"right", srv.URL + "/repo", &Credentials{Username: "bob", Password: canary}, nil},
		{"wrong", srv.URL + "/repo", &Credentials{Username: "bob", Password: canary + "x"}, ErrAuth},
		{"in the URL", withUser(srv.URL), nil, nil},
		{"credential-store line", srv.URL + "/repo", lines, nil},
		{"line of another host", bearer.URL + "/repo", lines, ErrAuth},
		{"bearer", bearer.URL + "/repo", &Credentials{BearerToken: canary}, nil},
		{"bearer is refused", srv.URL + "/repo", &Credentials{BearerToken: canary}, ErrAuth},
	} {
		t.Run(c.name, func(t *testing.T) {
			snap, err := s.Snapshot(t.Context(), Spec{URL: c.url, Credentials: c.creds})
			if c.class == nil && err != nil || c.class != nil && !errors.Is(err, c.class) {
				t.Fatalf("got %v, want %v", err, c.class)
			}
			for _, text := range []string{fmt.Sprint(err), snap.Repo, fmt.Sprintf("%+v", err)} {
				for _, leak := range []string{canary, url.PathEscape(canary), url.QueryEscape(canary)} {
					if strings.Contains(text, leak) {
						t.Errorf("leaks: %s", text)
					}
				}
			}
		})
	}
	cancel()
	s.Wait()
	if redact.String(canary) != canary {
		t.Error("still registered although no remote is open")
	}
}

// One mirror, two readers: the one without the right to the repository does not profit from the other.
func TestMirrorIsNoWayAroundCredentials(t *testing.T) {
	r := newRepo(t)
	commit := r.write("a.yaml", "secret").commit("first")
	srv := gitHTTP(t, filepath.Dir(r.dir), basic("bob", canary))
	defer srv.Close()
	s := openStore(t, Limits{})
	spec := Spec{URL: srv.URL + "/repo", Credentials: &Credentials{Username: "bob", Password: canary}}
	if _, err := s.Snapshot(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []Ref{{}, {Commit: commit}} {
		if snap, err := s.Snapshot(t.Context(), Spec{URL: srv.URL + "/repo", Ref: ref}); !errors.Is(err, ErrAuth) {
			t.Errorf("%+v: %+v %v", ref, snap, err)
		}
	}
}

func TestHTTPRedirects(t *testing.T) {
	r := newRepo(t)
	commit := r.write("a.yaml", "one").commit("first")
	var seen atomic.Value // Authorization at the other host
	seen.Store("")
	other := gitHTTP(t, filepath.Dir(r.dir), func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if a := r.Header.Get("Authorization"); a != "" {
				seen.Store(a)
			}
			next.ServeHTTP(w, r)
		})
	})
	defer other.Close()
	redirect := func(to func(*http.Request) string, from func(*http.Request) bool) *httptest.Server {
		return gitHTTP(t, filepath.Dir(r.dir), func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if from(r) {
					http.Redirect(w, r, to(r), http.StatusFound)
					return
				}
				next.ServeHTTP(w, r)
			})
		})
	}
	always := func(*http.Request) bool { return true }
	elsewhere := redirect(func(r *http.Request) string { return other.URL + r.URL.String() }, always)
	defer elsewhere.Close()
	renamed := redirect(func(r *http.Request) string { return strings.Replace(r.URL.String(), "/old", "/repo", 1) },
		func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/old") })
	defer renamed.Close()
	post := redirect(func(r *http.Request) string { return other.URL + r.URL.String() }, func(r *http.Request) bool { return r.Method == http.MethodPost })
	defer post.Close()
	circle := redirect(func(r *http.Request) string { return r.URL.String() }, always)
	defer circle.Close()
	page := redirect(func(*http.Request) string { return "/login" }, func(r *http.Request) bool { return r.URL.Path != "/login" })
	defer page.Close()
	file := redirect(func(*http.Request) string { return "file:///etc/passwd" }, always)
	defer file.Close()

	creds := &Credentials{Username: "bob", Password: canary}
	for _, c := range []struct {
		name  string
		url   string
		creds *Credentials
		class error
	}{
		{"elsewhere without credentials", elsewhere.URL + "/repo", nil, nil},
		{"elsewhere with credentials", elsewhere.URL + "/repo", creds, ErrRefused},
		{"same host with credentials", renamed.URL + "/old", creds, nil},
		{"in the middle of a fetch", post.URL + "/repo", nil, ErrRefused},
		{"in circles", circle.URL + "/repo", nil, ErrRefused},
		{"to a login page", page.URL + "/repo", nil, ErrNotFound},
		{"to a file", file.URL + "/repo", nil, ErrRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openStore(t, Limits{})
			snap, err := s.Snapshot(t.Context(), Spec{URL: c.url, Credentials: c.creds})
			if c.class == nil && (err != nil || snap.Commit != commit) || c.class != nil && !errors.Is(err, c.class) {
				t.Fatalf("got %v, want %v", err, c.class)
			}
			t.Log(err)
		})
	}
	if seen.Load() != "" {
		t.Errorf("the other host saw %q", seen.Load())
	}
}

func TestHTTPSNeedsATrustedCertificate(t *testing.T) {
	r := newRepo(t)
	r.write("a.yaml", "one").commit("first")
	srv := httptest.NewTLSServer(gitHandler(t, filepath.Dir(r.dir), nil))
	srv.Config.ErrorLog = nil
	defer srv.Close()
	s := openStore(t, Limits{})
	_, err := s.Snapshot(t.Context(), Spec{URL: srv.URL + "/repo"})
	if !errors.Is(err, ErrHostKey) {
		t.Fatal(err)
	}
	t.Log(err)
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if _, err := s.Snapshot(t.Context(), Spec{URL: srv.URL + "/repo", Credentials: &Credentials{CABundle: bundle}}); err != nil {
		t.Fatal(err)
	}
}

// What is asked for while a fetch is under way is answered by the next round, and all of it by one.
func TestRequestsCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Store{ctx: t.Context(), random: func() float64 { return 0.5 }, remotes: map[string]*remote{}, mirrors: map[string]*mirror{}}
		rounds := 0
		r := newRemote(s, address{scheme: "https", host: "h"}, Credentials{})
		r.check = func(_ context.Context, refs []Ref) (map[Ref]result, error) {
			rounds++
			time.Sleep(time.Minute)
			out := map[Ref]result{}
			for _, ref := range refs {
				out[ref] = result{snapshot: Snapshot{Commit: fmt.Sprint(rounds)}}
			}
			return out, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		go r.loop(ctx)
		ask1 := make(chan result, 1)
		r.asks <- ask{ref: Ref{Branch: "a"}, reply: ask1}
		time.Sleep(time.Second)
		answers := make(chan string, 10)
		for i := range 10 {
			go func() {
				reply := make(chan result, 1)
				r.asks <- ask{ref: Ref{Branch: fmt.Sprint(i % 3)}, reply: reply}
				answers <- (<-reply).snapshot.Commit
			}()
		}
		if got := (<-ask1).snapshot.Commit; got != "1" {
			t.Errorf("first: round %s", got)
		}
		for range 10 {
			if got := <-answers; got != "2" {
				t.Errorf("a later one: round %s", got)
			}
		}
		cancel()
		synctest.Wait()
		if rounds != 2 {
			t.Errorf("%d rounds", rounds)
		}
	})
}
