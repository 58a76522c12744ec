package nodeagent

import (
	"context"
	"sort"
	"sync"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"github.com/gitopsd/gitopsd/internal/nodeagent/admit"
	"github.com/gitopsd/gitopsd/internal/nodeagent/cri"
	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
	"github.com/gitopsd/gitopsd/internal/nodeagent/objects"
)

// workers are the pods of the node, each with its worker.
type workers struct {
	agent *agent
	ctx   context.Context
	wg    sync.WaitGroup

	mu  sync.Mutex
	all map[types.UID]*worker
}

func newWorkers(ctx context.Context, a *agent) *workers {
	return &workers{agent: a, ctx: ctx, all: map[types.UID]*worker{}}
}

// wait returns when all workers have ended, after the context did.
func (ws *workers) wait() { ws.wg.Wait() }

// set takes a pod as the API has it.
func (ws *workers) set(pod *v1.Pod) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if podutil.IsPodPhaseTerminal(pod.Status.Phase) {
		ws.agent.objects.Use(pod.UID, nil)
	} else {
		ws.agent.objects.Use(pod.UID, objects.Of(pod))
	}
	if w := ws.all[pod.UID]; w != nil {
		w.update(pod)
		return
	}
	w := newWorker(ws.agent, pod)
	if pod.DeletionTimestamp == nil && pod.Status.StartTime == nil && !podutil.IsPodPhaseTerminal(pod.Status.Phase) {
		if no := admit.Check(pod, ws.present(), ws.agent.machine.Node()); no != nil {
			w.rejected = &lifecycle.Failure{Reason: no.Reason, Message: "Pod was rejected: " + no.Message}
			ws.agent.events.pod(pod, v1.EventTypeWarning, no.Reason, no.Message)
		}
	}
	ws.start(w)
}

func (ws *workers) start(w *worker) {
	ws.all[w.uid] = w
	ws.wg.Add(1)
	go func() {
		defer ws.wg.Done()
		w.run(ws.ctx)
		if ws.ctx.Err() == nil {
			ws.mu.Lock()
			delete(ws.all, w.uid)
			ws.mu.Unlock()
			ws.agent.released(w.uid)
		}
	}()
}

// present are the pods that take up room.
func (ws *workers) present() []*v1.Pod {
	var out []*v1.Pod
	for _, w := range ws.all {
		w.mu.Lock()
		pod, rejected := w.pod, w.rejected != nil
		w.mu.Unlock()
		if !rejected && !podutil.IsPodPhaseTerminal(pod.Status.Phase) {
			out = append(out, pod)
		}
	}
	return out
}

// drop says that the API no longer has the pod.
func (ws *workers) drop(uid types.UID) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if w := ws.all[uid]; w != nil {
		w.remove()
	}
}

func (ws *workers) get(uid types.UID) *worker {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.all[uid]
}

// find returns the worker of a pod by name; the one that is not gone if there are several.
func (ws *workers) find(namespace, name string) *worker {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var found *worker
	for _, w := range ws.all {
		w.mu.Lock()
		match, gone := w.pod.Namespace == namespace && w.pod.Name == name, w.gone
		w.mu.Unlock()
		if match && (found == nil || !gone) {
			found = w
		}
	}
	return found
}

// list returns all workers, by namespace and name of their pods.
func (ws *workers) list() []*worker {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var out []*worker
	for _, w := range ws.all {
		out = append(out, w)
	}
	sort.Slice(out, func(i, j int) bool {
		a, b := out[i].current(), out[j].current()
		if a.Namespace != b.Namespace {
			return a.Namespace < b.Namespace
		}
		return a.Name < b.Name
	})
	return out
}

// look has the worker of a pod look at the runtime.
func (ws *workers) look(uid types.UID) {
	if w := ws.get(uid); w != nil {
		w.look()
	}
}

// adopt makes workers for pods that the runtime holds and the API does not know, so that they are ended in order.
func (ws *workers) adopt(ctx context.Context) error {
	found, err := ws.agent.cri.Pods(ctx, ws.agent.cfg.NodeName)
	if err != nil {
		return err
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for uid, p := range found {
		if ws.all[uid] == nil {
			ws.agent.cfg.Log.Info("pod is gone from the API and is ended", "pod", p.Namespace+"/"+p.Name)
			w := newWorker(ws.agent, orphan(p))
			w.gone = true
			ws.start(w)
		}
	}
	return nil
}

// orphan is as much of a pod as the runtime remembers.
func orphan(p cri.Pod) *v1.Pod {
	grace := int64(v1.DefaultTerminationGracePeriodSeconds)
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID}}
	pod.Spec.TerminationGracePeriodSeconds = &grace
	seen := map[string]bool{}
	for _, c := range p.Containers {
		if !seen[c] {
			seen[c] = true
			pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: c})
		}
	}
	return pod
}

// sweep removes what is left on disk of pods that nobody knows.
func (ws *workers) sweep() {
	a := ws.agent
	dirs, err := a.volumes.Pods()
	if err != nil {
		a.cfg.Log.Warn("pod folders cannot be listed", "error", err)
	}
	for _, uid := range dirs {
		if ws.get(uid) == nil {
			if err := a.volumes.Remove(uid); err != nil {
				a.cfg.Log.Warn("folder of a gone pod cannot be removed", "uid", uid, "error", err)
			}
		}
	}
	if a.cgroups == nil {
		return
	}
	for _, uid := range a.cgroups.Pods() {
		if ws.get(uid) == nil {
			if err := a.cgroups.Remove(uid); err != nil {
				a.cfg.Log.Warn("cgroup of a gone pod cannot be removed", "uid", uid, "error", err)
			}
		}
	}
}
