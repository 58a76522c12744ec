package source

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"weak"

	"github.com/go-git/go-git/v5/plumbing"
)

// Config is what a Store needs to know.
type Config struct {
	Dir    string // folder of the mirrors; made when absent
	Limits Limits
	// KnownHosts are files in known_hosts form that are trusted besides the credentials' own lines.
	// nil: /etc/ssh/ssh_known_hosts and ~/.ssh/known_hosts.
	KnownHosts []string
	Keep       *Keep        // nil: nothing is deleted, as by a command beside the daemon
	Logger     *slog.Logger // nil: silent
}

// Store holds the mirrors and follows their remotes. It is safe for concurrent use.
type Store struct {
	ctx    context.Context
	cfg    Config
	random func() float64
	loops  sync.WaitGroup
	grown  chan struct{} // something was fetched
	tokens appTokens     // of GitHub Apps

	mu      sync.Mutex
	mirrors map[string]*mirror
	remotes map[string]*remote
	shelves map[string]weak.Pointer[shelf]
	indexes map[string]weak.Pointer[helmIndex]
}

// Open makes the folder usable. Everything the store does in the background ends with ctx; Wait waits for it.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.KnownHosts == nil {
		cfg.KnownHosts = []string{"/etc/ssh/ssh_known_hosts"}
		if home, err := os.UserHomeDir(); err == nil {
			cfg.KnownHosts = append(cfg.KnownHosts, filepath.Join(home, ".ssh/known_hosts"))
		}
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, storageError(err)
	}
	s := &Store{ctx: ctx, cfg: cfg, random: rand.Float64, grown: make(chan struct{}, 1), tokens: appTokens{byApp: map[string]*appToken{}}, mirrors: map[string]*mirror{}, remotes: map[string]*remote{},
		shelves: map[string]weak.Pointer[shelf]{}, indexes: map[string]weak.Pointer[helmIndex]{}}
	if cfg.Keep != nil {
		keep := *cfg.Keep
		keep.Unused, keep.MaxBytes = cmp.Or(keep.Unused, 24*time.Hour), cmp.Or(keep.MaxBytes, 10<<30)
		s.cfg.Keep = &keep
		s.cfg.Limits.Kept = min(s.cfg.Limits.Kept, keep.MaxBytes) // one alone is no more than all
		if err := s.clearLeftovers(); err != nil {
			return nil, storageError(err)
		}
		s.loops.Go(func() { s.housekeep(ctx) })
	}
	return s, nil
}

// Wait returns when, after the end of the context given to Open, nothing runs any more.
func (s *Store) Wait() {
	s.loops.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.mirrors {
		m.close()
	}
	s.mirrors = map[string]*mirror{}
}

// Snapshot asks the remote what the ref is now and returns it. Questions that come while the remote is being
// asked are answered together by the next round.
func (s *Store) Snapshot(ctx context.Context, spec Spec) (Snapshot, error) {
	r, err := s.acquire(spec)
	if err != nil {
		return Snapshot{}, err
	}
	defer s.release(r)
	reply := make(chan result, 1)
	select {
	case r.asks <- ask{ref: spec.Ref, reply: reply}:
	case <-ctx.Done():
		return Snapshot{}, classify(ctx, r.addr.String(), ctx.Err())
	case <-s.ctx.Done():
		return Snapshot{}, s.ctx.Err()
	}
	select {
	case got := <-reply:
		return got.snapshot, got.err
	case <-ctx.Done():
		return Snapshot{}, classify(ctx, r.addr.String(), ctx.Err())
	case <-s.ctx.Done():
		return Snapshot{}, s.ctx.Err()
	}
}

// At returns a commit that was read before, from the mirror and without asking the remote. It is for commits
// that the caller itself has on record: nobody is asked whether spec's credentials may still see it.
func (s *Store) At(spec Spec, commit string) (Snapshot, error) {
	a, k, err := spec.parse()
	if err != nil {
		return Snapshot{}, err
	}
	switch k {
	case ociKind, helmKind:
		return s.archiveAt(a, spec, commit)
	default:
		snap, err := s.commitAt(a, spec.Ref, commit)
		if err == nil && spec.Submodules {
			snap.FS, err = s.laidOffline(snap.FS.(*tree), a)
		}
		if err != nil {
			return Snapshot{}, classify(s.ctx, a.String(), err)
		}
		return snap, nil
	}
}

func (s *Store) commitAt(a address, ref Ref, commit string) (Snapshot, error) {
	m, err := s.mirror(a)
	if err != nil {
		return Snapshot{}, classify(s.ctx, a.String(), err)
	}
	h := plumbing.NewHash(commit)
	if !isHash(commit) || !m.has(h) {
		return Snapshot{}, &Error{Class: ErrRefNotFound, Repo: a.String(), Text: "commit " + quote(commit) + " is not in the mirror"}
	}
	m.refresh()
	m.use(h)
	touch(m.dir, time.Now())
	snap, err := m.snapshot(a.String(), m.targetOf(ref, h), h)
	return snap, classify(s.ctx, a.String(), err)
}

// Subscribe follows spec.Ref: notify hears the first answer of the remote, then every change of the commit and
// of the error, until cancel is called. interval is how often the remote is asked at least; the shortest of a
// remote's subscribers counts. notify is called by one goroutine at a time and must not block.
func (s *Store) Subscribe(spec Spec, interval time.Duration, notify func(Event)) (cancel func(), err error) {
	r, err := s.acquire(spec)
	if err != nil {
		return nil, err
	}
	sub := &subscription{ref: spec.Ref, interval: max(interval, time.Second), notify: notify}
	r.add(sub)
	var once sync.Once
	return func() { once.Do(func() { r.remove(sub); s.release(r) }) }, nil
}

// Trigger has the remotes of a repository asked now, whatever their interval or backoff, and tells how many
// there are. It is for webhooks and for people who do not want to wait.
func (s *Store) Trigger(repo string) int {
	a, err := parseAddress(repo, false)
	if err != nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.remotes {
		if r.addr.name() == a.name() {
			r.trigger()
			n++
		}
	}
	return n
}

func (s *Store) mirror(a address) (*mirror, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mirrorLocked(a)
}

func (s *Store) mirrorLocked(a address) (*mirror, error) {
	if m := s.mirrors[a.folder()]; m != nil {
		return m, nil
	}
	m, err := openMirror(filepath.Join(s.cfg.Dir, a.folder()), a.String(), s.cfg.Limits)
	if err != nil {
		return nil, err
	}
	s.mirrors[a.folder()] = m
	touch(m.dir, time.Now())
	return m, nil
}

// parse takes the spec apart, and finds nothing in it that would have to be refused.
func (spec Spec) parse() (address, kind, error) {
	a, err := parseAddress(spec.URL, false)
	if err != nil {
		return a, 0, err
	}
	k, err := kindOf(a, spec.Chart)
	if err == nil {
		err = spec.Ref.validate(k)
	}
	if err == nil && spec.Submodules && k != gitKind {
		err = &Error{Class: ErrRefused, Text: "submodules are asked for, and the source is no Git repository", Next: "remove submodules"}
	}
	if err != nil {
		e := classed(context.Background(), err)
		e.Repo = a.String()
		return a, k, e
	}
	return a, k, nil
}

// acquire finds or starts the remote for the spec's address, chart and credentials.
func (s *Store) acquire(spec Spec) (*remote, error) {
	a, k, err := spec.parse()
	if err != nil {
		return nil, err
	}
	creds := spec.Credentials.forAddress(a)
	key := strings.Join([]string{a.String(), spec.Chart, creds.fingerprint()}, "\n")
	if spec.Submodules { // others' addresses may have other lines
		key += "\nsubmodules " + spec.Credentials.fingerprint()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil, s.ctx.Err()
	}
	r := s.remotes[key]
	if r == nil {
		r = newRemote(s, a, creds)
		r.given = spec.Credentials
		if err := r.choose(k, spec); err != nil {
			r.forget()
			return nil, classify(s.ctx, a.String(), err)
		}
		r.key = key
		ctx, cancel := context.WithCancel(s.ctx)
		r.cancel = cancel
		s.remotes[key] = r
		s.loops.Go(func() { r.loop(ctx) })
	}
	r.users++
	return r, nil
}

// choose has the remote asked and read as its kind is. The caller holds the store's lock.
func (r *remote) choose(k kind, spec Spec) (err error) {
	switch k {
	case ociKind, helmKind:
		return r.chooseArchive(k, spec)
	default:
		r.mirror, err = r.store.mirrorLocked(r.addr)
		r.check = r.read
		if spec.Submodules {
			r.check = r.readWithSubmodules
		}
	}
	return err
}

func (s *Store) release(r *remote) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.users--; r.users == 0 {
		if r.mirror != nil {
			touch(r.mirror.dir, time.Now())
		}
		r.cancel()
		delete(s.remotes, r.key)
	}
}

// open begins a conversation with the remote.
func (r *remote) open(ctx context.Context, dog *watchdog) (session, error) {
	limits := r.store.cfg.Limits
	switch r.addr.scheme {
	case "file":
		return openLocal(r.addr.path, limits)
	case "ssh":
		if !r.creds.App.empty() {
			return nil, &Error{Class: ErrAuth, Text: "a GitHub App has no right over ssh", Next: "write the repository's URL with https"}
		}
		c, err := dialSSH(ctx, r.addr, r.creds, r.store.cfg.KnownHosts, limits, dog)
		if err != nil {
			return nil, err
		}
		return &wire{conversation: c, limits: limits}, nil
	}
	if r.http == nil {
		t, err := httpTransport(r.creds, limits)
		if err != nil {
			return nil, err
		}
		r.http = t
	}
	creds, err := r.store.tokens.with(ctx, r.creds, r.http)
	if err != nil {
		return nil, err
	}
	return &wire{conversation: newHTTPConversation(r.addr, creds, r.http, dog), limits: limits}, nil
}

// read asks the remote once for all refs that are wanted, and fetches what the mirror lacks. The error is that
// of the whole round; a ref that is not there has its own in the result.
func (r *remote) read(ctx context.Context, refs []Ref) (map[Ref]result, error) {
	repo := r.addr.String()
	limits := r.store.cfg.Limits
	ctx, cancel := context.WithTimeoutCause(ctx, limits.Total,
		&Error{Class: ErrTimeout, Text: "the fetch took longer than " + limits.Total.String(), Next: "check the Git server; gitopsd tries again by itself"})
	defer cancel()
	ctx, dog, stop := watch(ctx, limits.Stall)
	defer stop()
	out, err := r.converse(ctx, dog, refs)
	if errors.Is(err, ErrAuth) {
		r.store.tokens.refused(r.creds)
	}
	return out, classify(ctx, repo, err)
}

func (r *remote) converse(ctx context.Context, dog *watchdog, refs []Ref) (map[Ref]result, error) {
	session, err := r.open(ctx, dog)
	if err != nil {
		return nil, err
	}
	defer session.close()
	list, err := session.refs(ctx)
	if err != nil {
		return nil, err
	}
	found := make(map[Ref]target, len(refs))
	out := make(map[Ref]result, len(refs))
	for _, ref := range refs {
		t, err := list.resolve(ref)
		if err != nil {
			out[ref] = result{err: classify(ctx, r.addr.String(), err)}
			continue
		}
		found[ref] = t
	}
	if err := r.bring(ctx, session, found, out); err != nil {
		return nil, err
	}
	return out, nil
}

// bring makes the targets visible in the mirror and turns them into snapshots.
func (r *remote) bring(ctx context.Context, session session, found map[Ref]target, out map[Ref]result) error {
	m := r.mirror
	m.fetching.Lock()
	defer m.fetching.Unlock()
	if err := m.heal(); err != nil {
		return err
	}
	var want []plumbing.Hash
	for _, t := range found {
		if !m.has(t.commit) || t.hash != t.commit && !m.hasTag(t.hash) {
			want = append(want, t.hash)
		}
	}
	if len(want) > 0 {
		if err := session.fetch(ctx, m, want); err != nil {
			return err
		}
		r.store.fetched()
	}
	for ref, t := range found {
		commit, err := t.commit, error(nil)
		if !m.has(commit) {
			commit, err = m.reveal(t.hash)
		}
		if err == nil && t.hash != commit {
			err = m.holdTag(t.hash)
		}
		if err == nil {
			m.use(commit)
			out[ref] = resultOf(m.snapshot(r.addr.String(), t, commit))
			continue
		}
		if !errors.Is(err, ErrRefNotFound) {
			return err
		}
		out[ref] = result{err: classify(ctx, r.addr.String(), err)}
	}
	if err := m.repack(); err != nil {
		r.store.cfg.Logger.Warn("repack mirror", "repo", r.addr.String(), "err", err)
	}
	return nil
}

func resultOf(s Snapshot, err error) result { return result{snapshot: s, err: err} }

// target is what a ref resolves to: the object to ask for and, as far as the remote told, its commit.
type target struct {
	name         string
	hash, commit plumbing.Hash
}

func (l *refList) resolve(ref Ref) (target, error) {
	notFound := func(what string) error {
		return &Error{Class: ErrRefNotFound, Text: "the repository has no " + what, Next: "push it, or correct ref"}
	}
	named := func(full, short, what string) (target, error) {
		h, ok := l.hashes[full]
		if !ok {
			return target{}, notFound(what)
		}
		t := target{name: short, hash: h, commit: h}
		if p, ok := l.peeled[full]; ok {
			t.commit = p
		}
		return t, nil
	}
	switch {
	case ref.Commit != "":
		h := plumbing.NewHash(ref.Commit)
		return target{name: ref.Commit, hash: h, commit: h}, nil
	case ref.Tag != "":
		return named("refs/tags/"+ref.Tag, ref.Tag, "tag "+quote(ref.Tag))
	case ref.Semver != "":
		tag, err := highest(ref.Semver, l.tags(), strictVersion)
		if err != nil {
			return target{}, err
		}
		return named("refs/tags/"+tag, tag, "tag "+quote(tag))
	case ref.Branch != "":
		return named("refs/heads/"+ref.Branch, ref.Branch, "branch "+quote(ref.Branch))
	case l.head != "":
		short := plumbing.ReferenceName(l.head).Short()
		if _, ok := l.hashes["HEAD"]; ok {
			return named("HEAD", short, "HEAD")
		}
		return named(l.head, short, "branch "+quote(short)+", which its HEAD names")
	}
	return named("HEAD", "HEAD", "HEAD")
}

// tags lists the short names of the tags.
func (l *refList) tags() []string {
	var out []string
	for name := range l.hashes {
		if tag, ok := strings.CutPrefix(name, "refs/tags/"); ok {
			out = append(out, tag)
		}
	}
	return out
}
