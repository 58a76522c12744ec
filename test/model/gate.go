package model

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/ledger"
	"github.com/gitopsd/gitopsd/internal/pipeline"
	"github.com/gitopsd/gitopsd/test/fakeapi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// engineHeader names the engine in its requests.
const engineHeader = "Gitopsd-Model-Engine"

var errLost = errors.New("the connection was lost")

// gate stands between one engine and all that it has an effect on, and makes the fault happen. A dead engine has none.
type gate struct {
	id        string
	namespace string // the only one that the engine sees
	trace     *trace

	mu    sync.Mutex
	fault *Fault
	count int
	met   string // the effect that the fault has met
	dead  bool
	last  time.Time // of the last effect, or the first request
	died  func()    // told once
	away  time.Time
	held  chan struct{} // not nil: the engine is stopped, until it is closed
	over  bool          // another engine has its contents and ledger, which are fenced by themselves
}

// arm sets the fault of the next step; what was counted is forgotten.
func (g *gate) arm(f *Fault) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fault, g.count, g.met = f, 0, ""
}

// hasMet names the effect that this step's fault has met; empty if there was none yet.
func (g *gate) hasMet() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.met
}

// quiet says how long the engine has had no effect; zero before it has asked for anything.
func (g *gate) quiet() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.last.IsZero() {
		return 0
	}
	return time.Since(g.last)
}

// kill ends all effects.
func (g *gate) kill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dead = true
}

func (g *gate) isDead() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dead
}

// stopped says whether the engine was stopped.
func (g *gate) stopped() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held != nil
}

// proceed lets a stopped engine go on.
func (g *gate) proceed() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held != nil {
		close(g.held)
		g.held = nil
	}
}

// giveUp takes contents and ledger away: another process has opened them with a later epoch.
func (g *gate) giveUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
}

// pass waits while the engine is stopped, and fails when it is dead or the API is away.
func (g *gate) pass(ctx context.Context) error {
	g.mu.Lock()
	held := g.held
	g.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.last.IsZero() {
		g.last = time.Now()
	}
	if g.dead || time.Now().Before(g.away) {
		return errLost
	}
	return nil
}

// unique are names that are others in every run: UIDs, commits, hashes.
var unique = regexp.MustCompile(`[0-9a-f]{8}[-0-9a-f]*`)

// hit says which fault an effect meets.
func (g *gate) hit(target, what string) Kind {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = time.Now()
	f, effect := g.fault, unique.ReplaceAllString(target+": "+what, "…")
	if f == nil || f.Target != "" && f.Target != target || f.effect != "" && f.effect != effect {
		return ""
	}
	if g.count++; g.count != f.N {
		return ""
	}
	g.met = effect
	switch f.Kind {
	case Before:
		g.dead = true
		g.died()
	case Outage:
		g.away = time.Now().Add(20 * time.Second)
	case Stopped:
		g.held = make(chan struct{})
	}
	return f.Kind
}

func (g *gate) fenced(target string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.over && (target == "contents" || target == "ledger")
}

var errRefused, errBroken = errors.New("refused by the model"), errors.New("broken by the model")

// effect does one thing, or makes it go wrong.
func (g *gate) effect(ctx context.Context, target, what string, do func() error) (err error) {
	if err := g.pass(ctx); err != nil {
		return err
	}
	kind := g.hit(target, what)
	defer func() { g.trace.add("engine %s: %s %s %s %v", g.id, what, target, kind, err) }()
	switch kind {
	case Refused:
		return errRefused
	case Failed:
		return errBroken
	case Before, Outage:
		return errLost
	case Stopped:
		if err := g.pass(ctx); err != nil {
			return err
		}
	}
	if g.fenced(target) {
		return apply.ErrFenced
	}
	err = do()
	if kind == After {
		g.kill()
		g.died()
	}
	if kind == Lost || kind == After {
		return errLost
	}
	return err
}

// through lets a request through to next, in the engine's namespace only.
func (g *gate) through(next http.RoundTripper, req *http.Request) (*http.Response, error) {
	req = g.scoped(req)
	ctx := req.Context()
	writes := req.Method != http.MethodGet && !strings.Contains(req.URL.RawQuery, "dryRun") && !strings.Contains(req.URL.Path, "/events")
	if !writes {
		if err := g.pass(ctx); err != nil {
			return nil, err
		}
		return next.RoundTrip(req)
	}
	body, err := peek(req)
	if err != nil {
		return nil, err
	}
	if kind := refusalIn(body); kind != "" {
		return fakeapi.Refuse(req, refusals[kind]), nil
	}
	var resp *http.Response
	target, what := effectOf(req, body)
	err = g.effect(ctx, target, what, func() error {
		var err error
		resp, err = next.RoundTrip(req)
		return err
	})
	switch {
	case errors.Is(err, errRefused):
		return fakeapi.Refuse(req, refusals["Forbidden"]), nil
	case errors.Is(err, errBroken):
		return fakeapi.Refuse(req, refusals["Internal"]), nil
	case err != nil && resp != nil:
		resp.Body.Close()
		return nil, err
	}
	return resp, err
}

var refusals = map[string]metav1.Status{
	"Forbidden": {Status: "Failure", Message: "refused by the model", Reason: metav1.StatusReasonForbidden, Code: 403},
	"Invalid":   {Status: "Failure", Message: "it is invalid: refused by the model", Reason: metav1.StatusReasonInvalid, Code: 422},
	"Quota":     {Status: "Failure", Message: "exceeded quota: of the model", Reason: metav1.StatusReasonForbidden, Code: 403},
	"Internal":  {Status: "Failure", Message: "broken by the model", Reason: metav1.StatusReasonInternalError, Code: 500},
}

// refusalIn finds the mark of a value that is to be refused.
func refusalIn(body []byte) string {
	for kind := range refusals {
		if strings.Contains(string(body), `"`+refuse+kind+`"`) && !strings.Contains(string(body), `"kind":"Application"`) {
			return kind
		}
	}
	return ""
}

// scoped is a request of one namespace where it was one of all.
func (g *gate) scoped(req *http.Request) *http.Request {
	req = req.Clone(req.Context())
	req.Header.Set(engineHeader, g.id)
	path := req.URL.Path
	for _, plural := range []string{"applications", "configmaps", "secrets", "services", "deployments", "pods", "leases"} {
		if before, found := strings.CutSuffix(path, "/"+plural); found && !strings.Contains(path, "/namespaces/") {
			req.URL.Path = before + "/namespaces/" + g.namespace + "/" + plural
		}
	}
	return req
}

func peek(req *http.Request) ([]byte, error) {
	if req.Body == nil {
		return nil, nil
	}
	body, err := io.ReadAll(req.Body)
	req.Body.Close()
	req.Body = io.NopCloser(strings.NewReader(string(body)))
	return body, err
}

// effectOf names an effect: as faults do, and what it does in full.
func effectOf(req *http.Request, body []byte) (target, what string) {
	parts := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	if parts[len(parts)-1] == "status" {
		var app v1alpha1.Application
		if json.Unmarshal(body, &app) != nil {
			return "end", req.Method
		}
		what = fmt.Sprintf("%s %s %s", req.Method, app.Status.Phase, app.Status.Reason)
		if in := app.Status.Intent; in != nil {
			return "intent " + string(in.Phase), what
		}
		return "end", what
	}
	for kind, r := range resources {
		for n, p := range parts[:len(parts)-1] {
			if p == r.plural {
				return "object " + kind + "/" + parts[n+1], req.Method
			}
		}
	}
	return "other " + req.URL.Path, req.Method
}

// contents are a store behind the gate.
type contents struct {
	*gate
	pipeline.Contents
}

func (c contents) Put(owner string, content []byte) (name string, err error) {
	err = c.effect(context.Background(), "contents", "put", func() error {
		var err error
		name, err = c.Contents.Put(owner, content)
		return err
	})
	return name, err
}

func (c contents) Keep(owner string, named map[string]bool) error {
	return c.effect(context.Background(), "contents", "keep", func() error { return c.Contents.Keep(owner, named) })
}

func (c contents) Drop(owner string) error {
	return c.effect(context.Background(), "contents", "drop", func() error { return c.Contents.Drop(owner) })
}

// account is a ledger behind the gate.
type account struct {
	*gate
	pipeline.Ledger
}

func (a account) Append(e ledger.Entry) (out ledger.Entry, err error) {
	err = a.effect(context.Background(), "ledger", "append "+e.ID, func() error {
		var err error
		out, err = a.Ledger.Append(e)
		return err
	})
	return out, err
}

func (a account) Has(id string) bool { return a.Ledger.Has(id) }

// trace is what happened, for a person who looks at a failure.
type trace struct {
	mu    sync.Mutex
	start time.Time
	lines []string
}

func newTrace() *trace { return &trace{start: time.Now()} }

func (t *trace) add(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, fmt.Sprintf("%9.3f ", time.Since(t.start).Seconds())+fmt.Sprintf(format, args...))
}

func (t *trace) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}
