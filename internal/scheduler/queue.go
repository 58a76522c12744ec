package scheduler

import (
	"container/heap"
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
)

// How long a pod that was refused waits: at least its backoff, which doubles with every attempt, then for
// something to change in the cluster, and at most patience. The numbers are kube-scheduler's.
const (
	firstBackoff = time.Second
	lastBackoff  = 10 * time.Second
	patience     = 5 * time.Minute
)

// queue holds the pods that wait for a node, in the order in which they are tried: priority, then age. It has no
// clock: the time is told to it.
type queue struct {
	ready  readyHeap
	parked map[types.UID]*waiting // refused; until something changes
	index  map[types.UID]*waiting
}

// waiting is a pod in the queue.
type waiting struct {
	pod      *pod
	attempts int
	notUntil time.Time // of the backoff
	giveUp   time.Time // when a parked pod is tried although nothing changed
	place    int       // in the heap; -1: parked
}

func newQueue() *queue {
	return &queue{parked: map[types.UID]*waiting{}, index: map[types.UID]*waiting{}}
}

// add puts a pod in, or takes in its changes. A change of what was asked for makes a refused pod worth another
// try; a change of its status, which may be our own doing, does not.
func (q *queue) add(p *v1.Pod) {
	w := q.index[p.UID]
	if w == nil {
		w = &waiting{place: -1}
		q.index[p.UID] = w
	} else if sameWish(w.pod.Pod, p) {
		w.pod = newPod(p)
		return
	}
	w.pod = newPod(p)
	q.unpark(w)
	heap.Fix(&q.ready, w.place)
}

func sameWish(a, b *v1.Pod) bool {
	return maps.Equal(a.Labels, b.Labels) && equality.Semantic.DeepEqual(a.Spec, b.Spec)
}

func (q *queue) unpark(w *waiting) {
	if w.place < 0 {
		delete(q.parked, w.pod.UID)
		heap.Push(&q.ready, w)
	}
}

func (q *queue) remove(uid types.UID) {
	w := q.index[uid]
	if w == nil {
		return
	}
	delete(q.index, uid)
	delete(q.parked, uid)
	if w.place >= 0 {
		heap.Remove(&q.ready, w.place)
	}
}

// pop takes out the pod that is to be tried now, if there is one, and else says when there may be one: the zero
// time if only a change can bring it.
func (q *queue) pop(now time.Time) (*waiting, time.Time) {
	for _, w := range q.parked {
		if !w.giveUp.After(now) {
			q.unpark(w)
		}
	}
	if len(q.ready) > 0 {
		if w := q.ready[0]; !w.notUntil.After(now) {
			heap.Pop(&q.ready)
			delete(q.index, w.pod.UID)
			return w, time.Time{}
		}
		// The first is backing off: do not let it hold up those behind it.
		best := -1
		for i, w := range q.ready {
			if !w.notUntil.After(now) && (best < 0 || q.ready.Less(i, best)) {
				best = i
			}
		}
		if best >= 0 {
			w := q.ready[best]
			heap.Remove(&q.ready, best)
			delete(q.index, w.pod.UID)
			return w, time.Time{}
		}
	}
	return nil, q.next()
}

// next is when the first pod is due without anything happening.
func (q *queue) next() time.Time {
	var first time.Time
	earlier := func(t time.Time) {
		if first.IsZero() || t.Before(first) {
			first = t
		}
	}
	for _, w := range q.ready {
		earlier(w.notUntil)
	}
	for _, w := range q.parked {
		earlier(w.giveUp)
	}
	return first
}

// refused parks a pod that was popped and found no node.
func (q *queue) refused(w *waiting, now time.Time) {
	q.delay(w, now)
	w.giveUp = now.Add(patience)
	w.place = -1
	q.index[w.pod.UID], q.parked[w.pod.UID] = w, w
}

// again puts back a pod that was popped and could not be bound, for another try after its backoff.
func (q *queue) again(w *waiting, now time.Time) {
	q.delay(w, now)
	q.index[w.pod.UID] = w
	heap.Push(&q.ready, w)
}

func (q *queue) delay(w *waiting, now time.Time) {
	w.attempts++
	wait := firstBackoff
	for i := 1; i < w.attempts && wait < lastBackoff; i++ {
		wait *= 2
	}
	w.notUntil = now.Add(min(wait, lastBackoff))
}

// changed gives parked pods another try: something happened that may make room.
func (q *queue) changed() {
	for _, w := range q.parked {
		q.unpark(w)
	}
}

// company gives those parked pods another try that care for what else runs on a node.
func (q *queue) company() {
	for _, w := range q.parked {
		if len(w.pod.affinity) > 0 || len(w.pod.Spec.TopologySpreadConstraints) > 0 {
			q.unpark(w)
		}
	}
}

// readyHeap has the pod to be tried first at the top.
type readyHeap []*waiting

func (h readyHeap) Len() int           { return len(h) }
func (h readyHeap) Less(i, j int) bool { return before(h[i].pod.Pod, h[j].pod.Pod) }
func (h readyHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *readyHeap) Push(x any) {
	w := x.(*waiting)
	w.place = len(*h)
	*h = append(*h, w)
}

func (h *readyHeap) Pop() any {
	old := *h
	w := old[len(old)-1]
	*h = old[:len(old)-1]
	w.place = -1
	return w
}
