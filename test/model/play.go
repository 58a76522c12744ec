package model

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/intent"
	"github.com/gitopsd/gitopsd/internal/ledger"
	"github.com/gitopsd/gitopsd/internal/pipeline"
	"github.com/gitopsd/gitopsd/test/fakeapi"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
)

// Played is what became of a history.
type Played struct {
	States   []State  // after each step; the last two are those of the end
	Met      []string // the effect that each step's fault met, if any
	Problems []string // promises that were broken, each with its moment
	Trace    string   // everything that was written, and the engine's log
}

// Stage is what histories share: a folder for contents and ledgers. Open it outside of any bubble.
type Stage struct {
	dir   string
	files *intent.Files
}

// NewStage uses a folder, best one in memory: contents and ledgers are synced.
func NewStage(dir string) (*Stage, error) {
	utilruntime.ErrorHandlers = nil // they sleep, some of them under a lock, which would stop a bubble's clock for ever
	files, err := intent.OpenFiles(filepath.Join(dir, "revisions"))
	if err != nil {
		return nil, err
	}
	if _, err := files.Put("warm", []byte("up")); err != nil { // what is made at the first use must not belong to a bubble
		return nil, err
	}
	if _, err := files.Get("warm", "up"); err == nil {
		return nil, fmt.Errorf("a content that is not there was found in %s", dir)
	}
	return &Stage{dir, files}, nil
}

// owned are the contents of one history.
type owned struct {
	files  *intent.Files
	prefix string
}

func (o owned) Put(owner string, content []byte) (string, error) {
	return o.files.Put(o.prefix+owner, content)
}
func (o owned) Get(owner, name string) ([]byte, error) { return o.files.Get(o.prefix+owner, name) }
func (o owned) Keep(owner string, named map[string]bool) error {
	return o.files.Keep(o.prefix+owner, named)
}
func (o owned) Drop(owner string) error { return o.files.Drop(o.prefix + owner) }

// world is a history under way on the fake API.
type world struct {
	*driver
	stage   *Stage
	name    string // of its folders
	server  *fakeapi.Server
	monitor *monitor
	book    *ledger.Ledger
	late    bool
	entries []ledger.Entry // seen so far
}

// Play plays a history in virtual time. Call it in a bubble of testing/synctest.
func (s *Stage) Play(h History, name string) Played {
	w, err := s.open(name, fakeapi.New(), newRepo("model"), nil)
	if err != nil {
		return Played{Problems: []string{err.Error()}}
	}
	defer w.close()
	var out Played
	if err := w.prepare(context.Background(), h.Policy); err != nil {
		w.monitor.problem("prepare: %v", err)
	}
	w.start()
	for n, step := range h.Steps {
		w.step(n, step, h.Policy)
		out.States, out.Met = append(out.States, w.now()), append(out.Met, w.engine.gate.hasMet())
	}
	out.States = append(out.States, w.finish(h.Policy)...)
	w.engine.end()
	out.Problems, out.Trace = w.monitor.problems, w.trace.String()
	return out
}

func (s *Stage) open(name string, server *fakeapi.Server, r *repo, from *world) (*world, error) {
	w := &world{stage: s, name: name, server: server}
	contents := owned{s.files, name + "."}
	w.driver = &driver{namespace: "model", repo: r, contents: contents, trace: newTrace(), timeout: timeout,
		client: &rest.Config{Host: "http://fake", Transport: server, QPS: -1}}
	server.Runs = func(image string) bool { return runs(image, w.late) }
	w.runLate = func() {
		w.late = true
		server.RollOut()
	}
	w.monitor = newMonitor(w, contents)
	dir := filepath.Join(s.dir, "ledger-"+name)
	if from != nil {
		if err := os.CopyFS(dir, os.DirFS(filepath.Join(s.dir, "ledger-"+from.name))); err != nil {
			return nil, err
		}
		owner := from.namespace + "." + application
		if err := os.CopyFS(filepath.Join(s.dir, "revisions", name+"."+owner), os.DirFS(filepath.Join(s.dir, "revisions", from.name+"."+owner))); err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		w.late, w.monitor = from.late, from.monitor.clone(w, contents)
	}
	server.Observe = w.monitor.observe
	w.began = func(engine string, turn apply.Turn) { server.Look(func() { w.monitor.epochs[engine] = turn.Epoch }) }
	var err error
	if w.book, err = ledger.Open(dir, ledger.Options{}); err != nil {
		return nil, err
	}
	w.ledger = w.book
	return w, nil
}

func (w *world) close() {
	if w.engine != nil {
		w.engine.end()
	}
	w.server.Forget()
	if err := w.book.Close(); err != nil {
		w.monitor.problem("close the ledger: %v", err)
	}
	_ = os.RemoveAll(filepath.Join(w.stage.dir, "ledger-"+w.name))
	_ = w.stage.files.Drop(w.name + "." + w.namespace + "." + application)
}

// step does one step and lets the time pass that it asks for.
func (w *world) step(n int, s Step, p Policy) {
	w.monitor.at = fmt.Sprintf("step %d (%s)", n, s.Do)
	w.monitor.hand(s)
	if s.Do == Relist {
		w.server.Forget()
	} else if err := w.do(context.Background(), s); err != nil {
		w.monitor.problem("the step itself: %v", err)
	}
	time.Sleep(s.Settle)
	w.checkLedger()
	if w.engine.gate.isDead() {
		w.twin(n)
		return
	}
	if s.Settle >= Rest {
		w.monitor.atRest(p)
	}
}

// now is the state of this moment.
func (w *world) now() State {
	s, err := w.state(context.Background(), w.entries, nil)
	if err != nil {
		w.monitor.problem("read the state: %v", err)
	}
	return s
}

// checkLedger reads the ledger: what was there stays, and an intent ends once.
func (w *world) checkLedger() {
	var all []ledger.Entry
	for e, err := range ledger.Read(filepath.Join(w.stage.dir, "ledger-"+w.name)) {
		if err != nil {
			w.monitor.problem("the ledger: %v", err)
			return
		}
		all = append(all, e)
	}
	if len(all) < len(w.entries) {
		w.monitor.problem("the ledger had %d entries and has %d", len(w.entries), len(all))
		return
	}
	for n, e := range w.entries {
		if all[n].Hash != e.Hash {
			w.monitor.problem("entry %d of the ledger has changed", n)
		}
	}
	ends := map[string]string{}
	for _, e := range all {
		id, end, ok := strings.Cut(e.ID, "/")
		if !ok || e.Kind != ledger.Sync && e.Kind != ledger.Rollback || id == "relabel" || end == string(intent.Held) {
			continue
		}
		if was := ends[id]; was != "" {
			w.monitor.problem("intent %s has ended as %s and as %s", id, was, end)
		}
		ends[id] = end
	}
	w.entries = all
}

// finish ends all faults and lets the last good commit come: it has to, and then nothing is to be written.
func (w *world) finish(p Policy) []State {
	ctx := context.Background()
	w.monitor.at = "the end"
	if err := w.mend(ctx); err != nil {
		w.monitor.problem("%v", err)
	}
	time.Sleep(3 * timeout)
	w.checkLedger()
	w.monitor.arrived(p)
	states := []State{w.now()}
	w.monitor.at = "after the end"
	w.monitor.quiet = true
	time.Sleep(10 * time.Minute)
	if err := w.do(ctx, Step{Do: Restart}); err != nil {
		w.monitor.problem("restart after the end: %v", err)
	}
	time.Sleep(10 * time.Minute)
	w.checkLedger()
	return append(states, w.now())
}

// twin lets a dead engine's work be taken up twice, once by an engine that dies again: both come to the same end.
func (w *world) twin(n int) {
	dies := &Fault{N: 1 + n%7, Kind: []Kind{Before, After}[n%2]}
	ends := make([]State, 2)
	for k, fault := range []*Fault{nil, dies} {
		c, err := w.stage.open(fmt.Sprintf("%s-twin%d", w.name, k), w.server.Clone(), w.repo.clone(), w)
		if err != nil {
			w.monitor.problem("twin: %v", err)
			return
		}
		c.monitor.at = fmt.Sprintf("%s, twin %d", w.monitor.at, k)
		if err := c.adopt(w); err != nil {
			w.monitor.problem("twin: %v", err)
			return
		}
		c.start()
		c.engine.gate.arm(fault)
		time.Sleep(Rest)
		if c.engine.gate.isDead() {
			c.engine.end()
			c.start()
		}
		time.Sleep(Late)
		if c.engine.gate.isDead() {
			c.engine.end()
			c.start()
			time.Sleep(Late)
		}
		c.checkLedger()
		ends[k] = c.now()
		c.close()
		w.monitor.problems = append(w.monitor.problems, c.monitor.problems...)
		w.trace.add("twin %d:\n%s", k, c.trace)
	}
	if a, b := ends[0].String(), ends[1].String(); a != b {
		w.monitor.problem("recovery that was interrupted ended otherwise: without\n%s\nwith %+v\n%s", a, *dies, b)
	}
}

// adopt takes over what a driver knows.
func (d *driver) adopt(w *world) error {
	d.engines, d.asked = w.engines+10, w.asked
	return d.connect()
}

var _ pipeline.Contents = owned{}
