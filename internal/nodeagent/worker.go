package nodeagent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gitopsd/gitopsd/internal/nodeagent/cri"
	"github.com/gitopsd/gitopsd/internal/nodeagent/image"
	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
	"github.com/gitopsd/gitopsd/internal/nodeagent/volume"
)

// worker takes one pod through its life: it looks at the runtime, asks lifecycle what to do, starts that, and listens
// for whatever changes the answer. All its state belongs to its one goroutine but for what mu guards.
type worker struct {
	agent *agent
	uid   types.UID
	log   *slog.Logger
	nudge chan struct{} // something outside changed
	done  chan result

	mu       sync.Mutex
	pod      *v1.Pod
	gone     bool
	rejected *lifecycle.Failure
	stale    bool // the runtime may show something else than observed
	refresh  bool // objects of the pod's volumes changed
	volumes  map[string]volume.Mounted
	seen     lifecycle.Runtime // what was observed last, for readers
	latest   *v1.PodStatus     // what was decided last, for readers

	mem       *lifecycle.Memory
	observed  lifecycle.Runtime
	known     bool // observed at least once
	cancels   map[string]context.CancelFunc
	running   sync.WaitGroup
	published publication
	reasons   map[string]string // waiting reason by container, for events
}

// result is how an action ended.
type result struct {
	action  lifecycle.Action
	err     error
	volumes map[string]volume.Mounted
}

func newWorker(a *agent, pod *v1.Pod) *worker {
	return &worker{
		agent: a, uid: pod.UID, pod: pod, stale: true,
		log:     a.cfg.Log.With("pod", pod.Namespace+"/"+pod.Name),
		nudge:   make(chan struct{}, 1),
		done:    make(chan result, 16),
		mem:     lifecycle.NewMemory(time.Now()),
		cancels: map[string]context.CancelFunc{},
		reasons: map[string]string{},
	}
}

// update tells the worker of a newer pod.
func (w *worker) update(pod *v1.Pod) {
	w.mu.Lock()
	w.pod = pod
	w.mu.Unlock()
	w.poke()
}

// remove tells the worker that the API no longer has the pod.
func (w *worker) remove() {
	w.mu.Lock()
	w.gone = true
	w.mu.Unlock()
	w.poke()
}

// look tells the worker that the runtime may have changed.
func (w *worker) look() {
	w.mu.Lock()
	w.stale = true
	w.mu.Unlock()
	w.poke()
}

// reread tells the worker that an object the pod uses has changed.
func (w *worker) reread() {
	w.mu.Lock()
	w.refresh = true
	w.mu.Unlock()
	w.poke()
}

func (w *worker) poke() {
	select {
	case w.nudge <- struct{}{}:
	default:
	}
}

// current returns the pod as last told.
func (w *worker) current() *v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod
}

func (w *worker) run(ctx context.Context) {
	defer w.running.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := time.Second // until the runtime can be asked again
		if w.observe(ctx) {
			d := w.decide(ctx)
			if w.mem.Forgotten {
				return
			}
			wait = 24 * time.Hour
			if !d.Wake.IsZero() {
				wait = max(time.Until(d.Wake), 5*time.Millisecond)
			}
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-w.nudge:
		case <-timer.C:
		case r := <-w.done:
			w.finish(r)
			for more := true; more; { // those that ended together cost one look
				select {
				case r := <-w.done:
					w.finish(r)
				default:
					more = false
				}
			}
		}
	}
}

// observe looks at the runtime where that is needed, and says whether the picture can be trusted.
func (w *worker) observe(ctx context.Context) bool {
	w.mu.Lock()
	stale := w.stale
	w.stale = false
	w.mu.Unlock()
	if !stale && w.known {
		return true
	}
	seen, err := w.agent.cri.Observe(ctx, w.uid)
	if err != nil {
		w.mu.Lock()
		w.stale = true
		w.mu.Unlock()
		if ctx.Err() == nil {
			w.log.Debug("runtime does not answer", "error", err)
		}
		return false
	}
	w.observed, w.known = seen, true
	w.mu.Lock()
	w.seen = seen
	w.mu.Unlock()
	return true
}

// decide asks lifecycle, publishes the status and starts the actions.
func (w *worker) decide(ctx context.Context) lifecycle.Decision {
	w.mu.Lock()
	pod, refresh := w.pod, w.refresh
	w.mem.Gone, w.mem.Rejected = w.gone, w.rejected
	w.refresh = false
	w.mu.Unlock()
	if refresh {
		w.objectsChanged(ctx, pod)
	}
	w.mem.Probes = w.agent.probes.Verdicts(w.uid)
	in := lifecycle.Input{Pod: pod, Runtime: w.observed, Memory: w.mem, Now: time.Now(), HostIPs: w.agent.cfg.NodeIPs}
	d := lifecycle.Decide(in)
	if d.Ending && w.mem.EndingSince.IsZero() {
		w.mem.EndingSince = in.Now
	}
	w.agent.probes.Sync(pod, w.observed, d, w.mem)
	w.tellWaiting(pod, d.Status)
	status := d.Status
	w.mem.Last = &status
	w.mu.Lock()
	w.latest = &status
	w.mu.Unlock()
	w.publish(pod, status)
	for _, a := range d.Actions {
		w.begin(ctx, pod, a)
	}
	return d
}

// begin starts one action.
func (w *worker) begin(ctx context.Context, pod *v1.Pod, a lifecycle.Action) {
	w.log.Debug("begin", "action", a.String())
	if a.Kind == lifecycle.Cancel {
		op := w.mem.Busy[a.Operation]
		op.Cancelled = true
		w.mem.Busy[a.Operation] = op
		w.cancels[a.Operation]()
		return
	}
	key := a.Key()
	if stop, again := w.cancels[key]; again {
		stop() // a kill that shall end earlier replaces the one under way
	}
	stopped := ctx.Done()
	ctx, cancel := context.WithCancel(ctx)
	w.cancels[key] = cancel
	w.mem.Busy[key] = lifecycle.Operation{Action: a, Deadline: time.Now().Add(a.Grace)}
	if a.Kind == lifecycle.StartContainer {
		w.mem.Backoffs[a.Container] = a.Backoff
	}
	job := w.job(pod, a)
	w.running.Add(1)
	go func() {
		defer w.running.Done()
		defer cancel()
		r := job.do(ctx)
		r.action = a
		select {
		case w.done <- r:
		case <-stopped:
		}
	}()
}

// finish remembers how an action ended.
func (w *worker) finish(r result) {
	a, key := r.action, r.action.Key()
	op := w.mem.Busy[key]
	if op.Action.Grace != a.Grace {
		return // a kill that was replaced
	}
	delete(w.mem.Busy, key)
	delete(w.cancels, key)
	w.mu.Lock()
	w.stale = true
	w.mu.Unlock()
	if r.err != nil {
		w.fail(key, a, r.err, op.Cancelled)
		return
	}
	delete(w.mem.Failures, key)
	switch a.Kind {
	case lifecycle.MountVolumes:
		w.mem.VolumesReady = true
		w.mu.Lock()
		w.volumes = r.volumes
		w.mu.Unlock()
	case lifecycle.StopSandbox:
		w.mem.Stopped[a.ID] = true
	case lifecycle.TearDown:
		w.mem.TornDown, w.mem.VolumesReady = true, false
		w.agent.released(w.uid)
	case lifecycle.DeletePod:
		w.mem.Deleted = true
	case lifecycle.Forget:
		w.mem.Forgotten = true
	}
}

// fail remembers a failure, for the status and for when to try again.
func (w *worker) fail(key string, a lifecycle.Action, err error, cancelled bool) {
	if cancelled || errors.Is(err, context.Canceled) {
		return
	}
	if cri.IsUnavailable(err) {
		w.log.Debug("runtime went away", "action", a.String())
		return // nobody's fault: looked at and tried again when it is back
	}
	f := lifecycle.Failure{Reason: "Failed", Message: image.Redact(err), At: time.Now(), Count: w.mem.Failures[key].Count + 1}
	if s := (*startError)(nil); errors.As(err, &s) {
		f.Reason, f.Message = s.reason, s.message
	}
	w.mem.Failures[key] = f
	switch a.Kind {
	case lifecycle.MountVolumes, lifecycle.CreateSandbox, lifecycle.StartContainer:
		w.log.Debug("action failed", "action", a.String(), "error", f.Message) // events and status tell it
	default:
		w.log.Warn("action failed", "action", a.String(), "error", f.Message)
	}
}

// objectsChanged writes the pod's files again and lets a start that misses an object be tried at once.
func (w *worker) objectsChanged(ctx context.Context, pod *v1.Pod) {
	for key, f := range w.mem.Failures {
		if f.Reason == lifecycle.ReasonConfigError || key == string(lifecycle.MountVolumes) {
			delete(w.mem.Failures, key)
		}
	}
	if !w.mem.VolumesReady {
		return
	}
	facts := w.agent.facts(pod, w.observed)
	w.running.Add(1)
	go func() {
		defer w.running.Done()
		if err := w.agent.volumes.Refresh(ctx, pod, facts); err != nil && ctx.Err() == nil {
			w.log.Warn("volumes are not up to date", "error", err)
		}
	}()
}
