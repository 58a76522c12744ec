package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Config is what Run needs to know.
type Config struct {
	Client kubernetes.Interface
	Logger *slog.Logger // nil: silent
	Name   string       // pods with this spec.schedulerName are ours; "": default-scheduler
	Binds  int          // bindings under way at once; 0: 16
}

// Run schedules until ctx ends, and returns nil then. It is the only writer of spec.nodeName of pods that have
// its name, and of their PodScheduled condition as long as they wait.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Name == "" {
		cfg.Name = v1.DefaultSchedulerName
	}
	if cfg.Binds <= 0 {
		cfg.Binds = 16
	}
	var background sync.WaitGroup
	defer background.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	in, err := watch(ctx, cfg.Client, &background)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("watch cluster: %w", err)
	}
	scribe, err := newScribe(ctx, cfg, &background)
	if err != nil {
		return err
	}
	l := &loop{
		cfg: cfg, state: NewState(), queue: newQueue(), now: time.Now, scribe: scribe,
		assumed: map[types.UID]bool{}, outcomes: make(chan outcome), background: &background,
	}
	l.run(ctx, in)
	return nil
}

// loop owns the state and the queue. Nothing else touches them.
type loop struct {
	cfg        Config
	state      *State
	queue      *queue
	now        func() time.Time
	scribe     *scribe
	assumed    map[types.UID]bool // assigned in the state, not seen in the cluster
	binding    int
	outcomes   chan outcome
	background *sync.WaitGroup
}

// outcome is how a binding ended.
type outcome struct {
	waiting *waiting
	node    string
	err     error
}

func (l *loop) run(ctx context.Context, in *inbox) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-in.wake:
			for _, e := range in.empty() {
				l.take(e)
			}
		case o := <-l.outcomes:
			l.bound(o)
		case <-timer.C:
		}
		if next := l.place(ctx); !next.IsZero() {
			timer.Reset(max(0, next.Sub(l.now())))
		}
	}
}

// place tries every pod that is due, as far as there is room for bindings, and says when the next is due.
func (l *loop) place(ctx context.Context) time.Time {
	for l.binding < l.cfg.Binds {
		w, next := l.queue.pop(l.now())
		if w == nil {
			return next
		}
		d := l.state.place(w.pod)
		if d.Node == "" {
			l.cfg.Logger.Debug("pod waits", "pod", key(w.pod.Pod), "reason", d.Message())
			l.scribe.refuse(w.pod.Pod, d.Message())
			l.queue.refused(w, l.now())
			continue
		}
		l.state.assign(w.pod, d.Node) // assumed: the next pod must see it
		l.assumed[w.pod.UID] = true
		l.queue.company()
		l.binding++
		l.background.Go(func() {
			o := outcome{w, d.Node, l.scribe.bind(ctx, w.pod.Pod, d.Node)}
			select {
			case l.outcomes <- o:
			case <-ctx.Done():
			}
		})
	}
	return time.Time{} // an outcome will come
}

func key(p *v1.Pod) string { return p.Namespace + "/" + p.Name }

// bound takes in the end of a binding. What was assumed stays so until the watch confirms it. An error after the
// watch has confirmed it is an answer that was lost.
func (l *loop) bound(o outcome) {
	l.binding--
	uid := o.waiting.pod.UID
	switch {
	case o.err == nil:
		l.cfg.Logger.Debug("pod bound", "pod", key(o.waiting.pod.Pod), "node", o.node)
	case !l.assumed[uid]:
	default:
		l.cfg.Logger.Warn("bind pod", "pod", key(o.waiting.pod.Pod), "node", o.node, "err", o.err)
		delete(l.assumed, uid)
		l.state.Release(uid)
		l.queue.changed()
		if !apierrors.IsNotFound(o.err) {
			l.queue.again(o.waiting, l.now())
		}
	}
}

// take takes in what happened in the cluster.
func (l *loop) take(e event) {
	switch {
	case e.node != nil && e.deleted:
		l.state.RemoveNode(e.node.Name)
	case e.node != nil:
		if l.state.SetNode(e.node) {
			l.queue.changed()
		}
	case e.namespace != nil && e.deleted:
		l.state.SetNamespace(e.namespace.Name, nil)
	case e.namespace != nil:
		l.state.SetNamespace(e.namespace.Name, labels.Merge(e.namespace.Labels, nil))
		l.queue.company()
	case e.pod != nil:
		l.takePod(e.pod, e.deleted)
	}
}

// takePod is where a pod's life meets the queue: it waits, or it counts on a node, or it is over.
func (l *loop) takePod(p *v1.Pod, deleted bool) {
	switch {
	case deleted || over(p):
		l.queue.remove(p.UID)
		l.scribe.forget(p.UID)
		delete(l.assumed, p.UID)
		if l.state.NodeOf(p.UID) != "" {
			l.state.Release(p.UID)
			l.queue.changed() // there is room now
		}
	case p.Spec.NodeName != "":
		l.queue.remove(p.UID)
		l.scribe.forget(p.UID)
		delete(l.assumed, p.UID)
		known := l.state.NodeOf(p.UID) == p.Spec.NodeName
		switch matters := l.state.Assign(p, p.Spec.NodeName); {
		case matters && known:
			l.queue.changed() // it ends, or needs less, or has other labels
		case matters:
			l.queue.company()
		}
	case l.assumed[p.UID]: // its binding is under way
	case !waits(p) || p.Spec.SchedulerName != l.cfg.Name:
		l.queue.remove(p.UID)
	default:
		l.queue.add(p)
	}
}
