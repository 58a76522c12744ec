package source

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
	"weak"
)

// remote is one source seen with one set of credentials. One goroutine, loop, does everything that
// touches the network, so a remote is asked and fetched from at most once at a time.
type remote struct {
	store  *Store
	key    string
	addr   address
	creds  Credentials
	given  *Credentials    // creds are what of these is for addr
	mirror *mirror         // of Git
	http   *http.Transport // of loop
	users  int             // guarded by Store.mu
	cancel context.CancelFunc
	forget func()

	asks chan ask
	wake chan struct{}
	// check asks once what the refs are now and gives the snapshot of each. The error is that of the whole round. What it is
	// depends on the kind; tests of the loop put something without a network here.
	check func(context.Context, []Ref) (map[Ref]result, error)

	mu   sync.Mutex
	subs []*subscription

	failures int                           // rounds that failed in a row; of loop
	overlays map[string]weak.Pointer[tree] // commits with their submodules; of loop
}

type ask struct {
	ref   Ref
	reply chan<- result // buffered
}

type result struct {
	snapshot Snapshot
	err      error
}

// subscription is what one subscriber was told last. All but ref, interval and notify belong to loop.
type subscription struct {
	ref      Ref
	interval time.Duration
	notify   func(Event)
	last     Event
	told     bool
}

func newRemote(s *Store, a address, creds Credentials) *remote {
	r := &remote{store: s, addr: a, creds: creds, asks: make(chan ask), wake: make(chan struct{}, 1), overlays: map[string]weak.Pointer[tree]{}}
	r.forget = creds.register()
	return r
}

func (r *remote) add(sub *subscription) {
	r.mu.Lock()
	r.subs = append(r.subs, sub)
	r.mu.Unlock()
	r.trigger()
}

func (r *remote) remove(sub *subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs = slices.DeleteFunc(slices.Clone(r.subs), func(s *subscription) bool { return s == sub })
}

func (r *remote) subscribers() []*subscription {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.subs
}

// trigger asks for a round that begins after now.
func (r *remote) trigger() {
	select {
	case r.wake <- struct{}{}:
	default: // one is due already
	}
}

// loop is the life of a remote: wait for a reason, do a round, tell everybody.
func (r *remote) loop(ctx context.Context) {
	defer r.forget()
	defer func() {
		if r.http != nil {
			r.http.CloseIdleConnections()
		}
	}()
	watcher := r.watcher()
	defer watcher.close()
	for {
		timer := time.NewTimer(r.delay())
		var asked []ask
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-r.wake:
		case <-watcher.changed():
		case a := <-r.asks:
			asked = append(asked, a)
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
		watcher.refresh() // before the refs are read, so that no change falls in between
		for more := true; more; {
			select {
			case a := <-r.asks:
				asked = append(asked, a)
			default:
				more = false
			}
		}
		r.round(ctx, asked)
	}
}

// round asks once for what subscribers and askers want, and tells them.
func (r *remote) round(ctx context.Context, asked []ask) {
	subs := r.subscribers()
	refs := wanted(subs, asked)
	if len(refs) == 0 {
		return
	}
	results, err := r.check(ctx, refs)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		r.failures++
	} else {
		r.failures = 0
	}
	of := func(ref Ref) result {
		if err != nil {
			return result{err: err}
		}
		return results[ref]
	}
	for _, a := range asked {
		a.reply <- of(a.ref)
	}
	for _, s := range subs {
		s.tell(of(s.ref), time.Now())
	}
}

// wanted lists each ref once, in the order in which it was asked for.
func wanted(subs []*subscription, asked []ask) []Ref {
	var refs []Ref
	seen := map[Ref]bool{}
	add := func(r Ref) {
		if !seen[r] {
			seen[r] = true
			refs = append(refs, r)
		}
	}
	for _, s := range subs {
		add(s.ref)
	}
	for _, a := range asked {
		add(a.ref)
	}
	return refs
}

// tell passes a result on if it is news.
func (s *subscription) tell(got result, now time.Time) {
	next := Event{Snapshot: s.last.Snapshot}
	if got.err != nil {
		next.Err, next.Since, next.Failures = got.err, now, s.last.Failures+1
		if s.last.Err != nil {
			next.Since = s.last.Since
		}
	} else {
		next.Snapshot = got.snapshot
		next.New = got.snapshot.Commit != s.last.Snapshot.Commit
	}
	news := !s.told || next.New || text(next.Err) != text(s.last.Err)
	s.last, s.told = next, true
	if news {
		s.notify(next)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// delay is how long to wait for the next round when nothing happens before.
func (r *remote) delay() time.Duration {
	const never = 365 * 24 * time.Hour
	interval := time.Duration(never)
	for _, s := range r.subscribers() {
		interval = min(interval, s.interval)
	}
	if interval == never {
		return never
	}
	return backoff(interval, r.failures, r.store.random())
}

// longestBackoff bounds how long a remote that fails is left alone.
const longestBackoff = 10 * time.Minute

// backoff spreads the interval by a tenth either way, so that many repositories are not asked in step, and
// doubles it with every failure after the first. random is in [0,1).
func backoff(interval time.Duration, failures int, random float64) time.Duration {
	wait := interval
	for i := 1; i < failures && wait < longestBackoff; i++ {
		wait *= 2
	}
	if wait > longestBackoff {
		wait = max(interval, longestBackoff)
	}
	return time.Duration(float64(wait) * (0.9 + 0.2*random))
}
