package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// follow subscribes and returns the events as they come.
func follow(t *testing.T, s *Store, spec Spec, interval time.Duration) <-chan Event {
	t.Helper()
	events := make(chan Event, 100)
	cancel, err := s.Subscribe(spec, interval, func(e Event) { events <- e })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	return events
}

func next(t *testing.T, events <-chan Event) Event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("no event")
		return Event{}
	}
}

// A local repository is heard of at once, whichever way its refs change; the interval is far away.
func TestLocalChangesAreHeardAtOnce(t *testing.T) {
	r := newRepo(t)
	r.write("a", "1").commit("first")
	bare := filepath.Join(t.TempDir(), "bare.git")
	gitIn(t, "/", "clone", "-q", "--bare", r.dir, bare)
	tree := filepath.Join(t.TempDir(), "linked")
	r.git("worktree", "add", "-q", "-b", "linked", tree)
	for _, c := range []struct {
		name, url string
		ref       Ref
		change    func() string
	}{
		{"commit", r.dir, Ref{Branch: "main"}, func() string { return r.write("a", "2").commit("second") }},
		{"amend", r.dir, Ref{Branch: "main"}, func() string { r.git("commit", "-q", "--amend", "-m", "other"); return r.git("rev-parse", "HEAD") }},
		{"packed refs", r.dir, Ref{Branch: "main"}, func() string { c := r.write("a", "3").commit("third"); r.git("pack-refs", "--all"); return c }},
		{"push into a bare one", bare, Ref{Branch: "main"}, func() string { c := r.write("a", "4").commit("x"); r.git("push", "-q", "-f", bare, "main"); return c }},
		{"nested branch", r.dir, Ref{Branch: "deep/er/branch"}, func() string {
			r.git("branch", "deep/er/branch")
			return r.git("rev-parse", "deep/er/branch")
		}},
		{"HEAD moves", r.dir, Ref{}, func() string { r.git("checkout", "-q", "-b", "other", "HEAD~1"); return r.git("rev-parse", "HEAD") }},
		{"linked worktree", tree, Ref{}, func() string {
			gitIn(t, tree, "commit", "-q", "--allow-empty", "-m", "linked")
			return gitIn(t, tree, "rev-parse", "HEAD")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openStore(t, Limits{})
			events := follow(t, s, Spec{URL: c.url, Ref: c.ref}, time.Hour)
			next(t, events)
			started := time.Now()
			want := c.change()
			for {
				e := next(t, events)
				if e.Snapshot.Commit == want {
					t.Logf("after %s, of which git took most", time.Since(started).Round(time.Millisecond))
					return
				}
			}
		})
	}
}

func TestFailureAndRecovery(t *testing.T) {
	r := newRepo(t)
	first := r.write("a", "1").commit("first")
	r.git("branch", "feature")
	s := openStore(t, Limits{})
	events := follow(t, s, Spec{URL: r.dir, Ref: Ref{Branch: "feature"}}, time.Hour)
	if e := next(t, events); e.Err != nil || e.Snapshot.Commit != first || !e.New {
		t.Fatalf("%+v", e)
	}
	r.git("branch", "-D", "feature")
	e := next(t, events)
	if !errors.Is(e.Err, ErrRefNotFound) || e.Snapshot.Commit != first || e.Since.IsZero() || e.New {
		t.Fatalf("branch deleted: %+v", e)
	}
	if got := read(t, e.Snapshot.FS, "a"); got != "1" {
		t.Errorf("what was read before is gone: %q", got)
	}
	second := r.write("a", "2").commit("second")
	r.git("branch", "feature")
	for e = next(t, events); e.Err != nil; e = next(t, events) {
	}
	if e.Snapshot.Commit != second || !e.New || e.Failures != 0 {
		t.Fatalf("branch is back: %+v", e)
	}
	gone := r.dir + ".away"
	if err := os.Rename(r.dir, gone); err != nil {
		t.Fatal(err)
	}
	s.Trigger(r.dir)
	if e = next(t, events); !errors.Is(e.Err, ErrNotFound) || e.Snapshot.Commit != second {
		t.Fatalf("repository gone: %+v", e)
	}
	if snap, err := s.At(Spec{URL: r.dir}, second); err != nil || read(t, snap.FS, "a") != "2" {
		t.Errorf("At while the remote is gone: %v", err)
	}
	if err := os.Rename(gone, r.dir); err != nil {
		t.Fatal(err)
	}
	s.Trigger(r.dir)
	if e = next(t, events); e.Err != nil || e.New {
		t.Fatalf("repository is back: %+v", e)
	}
}

func TestForcePushToUnrelatedHistory(t *testing.T) {
	r := newRepo(t)
	r.write("a", "1").commit("first")
	srv := gitHTTP(t, filepath.Dir(r.dir), nil)
	defer srv.Close()
	s := openStore(t, Limits{})
	spec := Spec{URL: srv.URL + "/repo", Ref: Ref{Branch: "main"}}
	old, err := s.Snapshot(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	r.git("checkout", "-q", "--orphan", "new")
	r.git("rm", "-rfq", ".")
	commit := r.write("b", "2").commit("unrelated")
	r.git("branch", "-f", "main", "new")
	snap, err := s.Snapshot(t.Context(), spec)
	if err != nil || snap.Commit != commit {
		t.Fatalf("%+v %v", snap, err)
	}
	if _, err := fs.Stat(snap.FS, "a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a is still there: %v", err)
	}
	if got := read(t, old.FS, "a"); got != "1" {
		t.Errorf("the old snapshot changed: %q", got)
	}
}

// Two Applications of one repository cost one fetch, also when they want different refs.
func TestOneMirrorOneFetch(t *testing.T) {
	r := newRepo(t)
	r.write("a", "1").commit("first")
	r.git("branch", "other")
	var lists, fetches atomic.Int32
	srv := gitHTTP(t, filepath.Dir(r.dir), func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				fetches.Add(1)
			} else {
				lists.Add(1)
			}
			next.ServeHTTP(w, r)
		})
	})
	defer srv.Close()
	s := openStore(t, Limits{})
	var wait sync.WaitGroup
	for i := range 8 {
		ref := Ref{Branch: []string{"main", "other"}[i%2]}
		wait.Go(func() {
			if _, err := s.Snapshot(t.Context(), Spec{URL: srv.URL + "/repo", Ref: ref}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if fetches.Load() != 1 {
		t.Errorf("%d fetches", fetches.Load())
	}
	n := lists.Load()
	if _, err := s.Snapshot(t.Context(), Spec{URL: srv.URL + "/repo"}); err != nil {
		t.Fatal(err)
	}
	if lists.Load() != n+1 || fetches.Load() != 1 {
		t.Errorf("without a change: %d lists and %d fetches more", lists.Load()-n, fetches.Load()-1)
	}
	folders, _ := os.ReadDir(s.cfg.Dir)
	if len(folders) != 1 {
		t.Errorf("%d mirrors", len(folders))
	}
}

// The process is killed in the middle of a fetch; what it leaves behind does no harm.
func TestKilledWhileFetching(t *testing.T) {
	if dir := os.Getenv("SOURCE_TEST_STORE"); dir != "" {
		s, err := Open(context.Background(), Config{Dir: dir, KnownHosts: []string{}})
		if err == nil {
			_, err = s.Snapshot(context.Background(), Spec{URL: os.Getenv("SOURCE_TEST_URL")})
		}
		fmt.Println("end", err)
		return
	}
	r := newRepo(t)
	first := r.write("a", "1").commit("first")
	half := make(chan struct{})
	var slow atomic.Bool
	srv := gitHTTP(t, filepath.Dir(r.dir), func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost && slow.Load() {
				fmt.Fprint(w, "00000008NAK\n", packet("\x01PACK\x00\x00\x00\x02\x00\x00\x00\x02\x91"))
				w.(http.Flusher).Flush()
				close(half)
				<-r.Context().Done()
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	defer srv.Close()
	dir := t.TempDir()
	spec := Spec{URL: srv.URL + "/repo"}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Open(ctx, Config{Dir: dir, KnownHosts: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Snapshot(ctx, spec); err != nil {
		t.Fatal(err)
	}
	cancel()
	s.Wait()
	second := r.write("b", "2").commit("second")
	slow.Store(true)
	cmd := exec.Command(os.Args[0], "-test.run", "^TestKilledWhileFetching$")
	cmd.Env = append(os.Environ(), "SOURCE_TEST_STORE="+dir, "SOURCE_TEST_URL="+spec.URL)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-half
	// The half of a pack is in a temporary file by now or soon; an index without its pack is the other thing that a
	// kill can leave.
	mirror := filepath.Join(dir, address{scheme: "http", host: strings.TrimPrefix(srv.URL, "http://"), path: "/repo"}.folder())
	stray := filepath.Join(mirror, "objects/pack/pack-"+strings.Repeat("0", 40)+".idx")
	if err := errors.Join(os.WriteFile(stray, []byte("half"), 0o600), cmd.Process.Kill()); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	slow.Store(false)
	again, err := Open(t.Context(), Config{Dir: dir, KnownHosts: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	if snap, err := again.At(spec, first); err != nil || read(t, snap.FS, "a") != "1" {
		t.Errorf("what was there before: %v", err)
	}
	snap, err := again.Snapshot(t.Context(), spec)
	if err != nil || snap.Commit != second || read(t, snap.FS, "b") != "2" {
		t.Fatalf("%+v %v", snap, err)
	}
	left, _ := filepath.Glob(filepath.Join(mirror, "objects/pack/.tmp-*"))
	if _, err := os.Stat(stray); err == nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, stray)
	}
}

// Many pushes do not let the mirror grow, and a snapshot that somebody holds stays readable.
func TestRepack(t *testing.T) {
	r := newRepo(t)
	r.write("keep", "kept").commit("0")
	s := openStore(t, Limits{})
	spec := Spec{URL: r.dir}
	held, err := s.Snapshot(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	var commits []string
	for i := range packsBeforeRepack + 10 {
		commits = append(commits, r.write("a", fmt.Sprint(i)).commit(fmt.Sprint(i)))
		if _, err := s.Snapshot(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		runtime.GC() // what nobody holds may go
	}
	a, _ := parseAddress(r.dir, false)
	m, _ := s.mirror(a)
	packs, _ := m.packs()
	if len(packs) > packsBeforeRepack {
		t.Errorf("%d packs", len(packs))
	}
	if got := read(t, held.FS, "keep"); got != "kept" {
		t.Errorf("held: %q", got)
	}
	last := commits[len(commits)-1]
	if snap, err := s.At(spec, last); err != nil || read(t, snap.FS, "a") != fmt.Sprint(len(commits)-1) {
		t.Errorf("last: %v", err)
	}
	if _, err := s.At(spec, commits[0]); !errors.Is(err, ErrRefNotFound) {
		t.Errorf("the first commit should be gone: %v", err)
	}
}

// Somebody deletes files of the mirror; the next check brings them back.
func TestDamagedMirrorHeals(t *testing.T) {
	r := newRepo(t)
	r.write("a", "1").commit("first")
	s := openStore(t, Limits{})
	if _, err := s.Snapshot(t.Context(), Spec{URL: r.dir}); err != nil {
		t.Fatal(err)
	}
	a, _ := parseAddress(r.dir, false)
	m, _ := s.mirror(a)
	packs, _ := filepath.Glob(filepath.Join(m.dir, "objects/pack/*.pack"))
	for _, p := range packs {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	m.reopen()
	if _, err := s.Snapshot(t.Context(), Spec{URL: r.dir}); err == nil {
		t.Log("the first question may still be answered from memory")
	}
	snap, err := s.Snapshot(t.Context(), Spec{URL: r.dir})
	if err != nil || read(t, snap.FS, "a") != "1" {
		t.Fatal(err)
	}
}

// A command beside the daemon reads what the daemon fetched, and disturbs nothing.
func TestSecondProcessReadsOnly(t *testing.T) {
	r := newRepo(t)
	first := r.write("a", "1").commit("first")
	s := openStore(t, Limits{})
	if _, err := s.Snapshot(t.Context(), Spec{URL: r.dir}); err != nil {
		t.Fatal(err)
	}
	a, _ := parseAddress(r.dir, false)
	pack := filepath.Join(s.cfg.Dir, a.folder(), "objects/pack/.tmp-pack-1")
	if err := os.WriteFile(pack, []byte("on its way"), 0o600); err != nil {
		t.Fatal(err)
	}
	beside, err := Open(t.Context(), Config{Dir: s.cfg.Dir, KnownHosts: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	if snap, err := beside.At(Spec{URL: r.dir}, first); err != nil || read(t, snap.FS, "a") != "1" {
		t.Errorf("At: %v", err)
	}
	if _, err := os.Stat(pack); err != nil {
		t.Errorf("the owner's pack was cleared away: %v", err)
	}
	second := r.write("a", "2").commit("second")
	if _, err := beside.Snapshot(t.Context(), Spec{URL: r.dir}); !errors.Is(err, ErrStorage) {
		t.Errorf("the second process fetches: %v", err)
	}
	if snap, err := s.Snapshot(t.Context(), Spec{URL: r.dir}); err != nil || snap.Commit != second {
		t.Errorf("the owner: %v", err)
	}
	if snap, err := beside.At(Spec{URL: r.dir}, second); err != nil || read(t, snap.FS, "a") != "2" {
		t.Errorf("a commit that came later: %v", err)
	}
}

func TestLocalRepositoryWithAlternates(t *testing.T) {
	r := newRepo(t)
	commit := r.write("a", "1").commit("first")
	clone := filepath.Join(t.TempDir(), "clone")
	gitIn(t, "/", "clone", "-q", "--shared", r.dir, clone)
	snap, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: clone})
	if err != nil || snap.Commit != commit || read(t, snap.FS, "a") != "1" {
		t.Fatalf("%+v %v", snap, err)
	}
}

// rounds is a remote without a network: it answers what it was told to, and remembers when it was asked.
type rounds struct {
	mu     sync.Mutex
	start  time.Time
	at     []time.Duration
	commit string
	err    error
	events []Event
}

func (r *rounds) check(context.Context, []Ref) (map[Ref]result, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = append(r.at, time.Since(r.start))
	return map[Ref]result{{}: {snapshot: Snapshot{Commit: r.commit}}}, r.err
}

func (r *rounds) notify(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// after lets time pass and returns the rounds and events since the last call.
func (r *rounds) after(d time.Duration) (at []time.Duration, events []Event) {
	time.Sleep(d)
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	at, events = r.at, r.events
	r.at, r.events = nil, nil
	return at, events
}

func (r *rounds) answer(commit string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.commit, r.err = commit, err
}

func TestPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Store{ctx: t.Context(), random: func() float64 { return 0.5 }, remotes: map[string]*remote{}, mirrors: map[string]*mirror{}}
		r := newRemote(s, address{scheme: "https", host: "h"}, Credentials{})
		fake := &rounds{start: time.Now(), commit: "1"}
		r.check = fake.check
		r.add(&subscription{interval: 30 * time.Second, notify: fake.notify})
		r.add(&subscription{interval: time.Hour, notify: func(Event) {}})
		ctx, cancel := context.WithCancel(t.Context())
		go r.loop(ctx)
		at, events := fake.after(61 * time.Second)
		if fmt.Sprint(at) != "[0s 30s 1m0s]" || len(events) != 1 {
			t.Errorf("rounds at %v, %d events", at, len(events))
		}
		fake.answer("1", errors.New("down"))
		failing := time.Now()
		at, events = fake.after(40 * time.Minute)
		if len(at) < 5 || len(at) > 11 {
			t.Errorf("a failing remote was asked %d times in 40 minutes: %v", len(at), at)
		}
		if len(events) != 1 || events[0].Err == nil || events[0].Since.Sub(failing) != 29*time.Second {
			t.Errorf("failing: %+v", events)
		}
		r.trigger() // does not wait for the backoff
		if at, _ = fake.after(0); len(at) != 1 {
			t.Errorf("trigger: %v", at)
		}
		fake.answer("2", nil)
		if _, events = fake.after(11 * time.Minute); len(events) != 1 || events[0].Err != nil || !events[0].New {
			t.Errorf("recovered: %+v", events)
		}
		if at, _ = fake.after(time.Minute); len(at) != 2 {
			t.Errorf("back at the interval: %v", at)
		}
		cancel()
		synctest.Wait()
	})
}

func TestBackoffJitter(t *testing.T) {
	for _, c := range []struct {
		interval time.Duration
		failures int
		random   float64
		want     time.Duration
	}{
		{30 * time.Second, 0, 0, 27 * time.Second}, {30 * time.Second, 0, 0.9999999, 33 * time.Second}, {30 * time.Second, 1, 0.5, 30 * time.Second},
		{30 * time.Second, 3, 0.5, 2 * time.Minute}, {30 * time.Second, 50, 0.5, longestBackoff}, {time.Hour, 50, 0.5, time.Hour},
	} {
		if got := backoff(c.interval, c.failures, c.random); got.Round(time.Millisecond) != c.want {
			t.Errorf("backoff(%v, %d, %v) = %v, want %v", c.interval, c.failures, c.random, got, c.want)
		}
	}
}
