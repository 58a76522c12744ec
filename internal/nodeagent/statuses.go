package nodeagent

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
)

// publication is what a worker published last.
type publication struct {
	status  v1.PodStatus
	written bool
}

// publish hands a status to the writer if it says something new.
func (w *worker) publish(pod *v1.Pod, status v1.PodStatus) {
	if w.mem.Gone || w.mem.Deleted {
		return
	}
	same := w.published.written && equality.Semantic.DeepEqual(w.published.status, status)
	if same && w.agent.statuses.agrees(pod, &status) {
		return
	}
	w.published = publication{status: status, written: true}
	w.agent.statuses.put(pod, status)
}

// statuses writes pod statuses: the newest of each pod, again and again until the API has it. Pods that changed
// several times while the API was away are written once.
type statuses struct {
	client kubernetes.Interface
	wake   chan struct{}

	mu      sync.Mutex
	pending map[types.UID]pending
	written map[types.UID]*v1.Pod // what the API answered last
}

type pending struct {
	pod    *v1.Pod
	status v1.PodStatus
}

func newStatuses(client kubernetes.Interface) *statuses {
	return &statuses{client: client, wake: make(chan struct{}, 1), pending: map[types.UID]pending{}, written: map[types.UID]*v1.Pod{}}
}

func (s *statuses) put(pod *v1.Pod, status v1.PodStatus) {
	s.mu.Lock()
	s.pending[pod.UID] = pending{pod, status}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// agrees says that the API shows the status, or has not yet shown what was written.
func (s *statuses) agrees(pod *v1.Pod, status *v1.PodStatus) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, waits := s.pending[pod.UID]; waits {
		return true
	}
	w := s.written[pod.UID]
	if w == nil {
		return false
	}
	if order, err := resourceversion.CompareResourceVersion(pod.ResourceVersion, w.ResourceVersion); err == nil && order < 0 {
		return true
	}
	return equality.Semantic.DeepEqual(pod.Status, *status)
}

func (s *statuses) forget(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, uid)
	delete(s.written, uid)
}

// run writes until ctx ends, a few pods at a time; on the way out it writes what is left, once.
func (s *statuses) run(ctx context.Context) error {
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			s.flush(last)
			return nil
		case <-s.wake:
		case <-retry:
		}
		retry = nil
		if !s.flush(ctx) {
			retry = time.After(time.Second) // what failed stays pending
		}
	}
}

// flush writes all that is pending and says whether all of it went through.
func (s *statuses) flush(ctx context.Context) bool {
	s.mu.Lock()
	batch := s.pending
	s.pending = map[types.UID]pending{}
	s.mu.Unlock()
	slots := make(chan struct{}, 8)
	var wg sync.WaitGroup
	var mu sync.Mutex
	ok := true
	for uid, p := range batch {
		slots <- struct{}{}
		wg.Add(1)
		go func() {
			defer func() { <-slots; wg.Done() }()
			if err := s.write(ctx, p.pod, p.status); err != nil {
				mu.Lock()
				ok = false
				mu.Unlock()
				s.mu.Lock()
				if _, newer := s.pending[uid]; !newer {
					s.pending[uid] = p
				}
				s.mu.Unlock()
			}
		}()
	}
	wg.Wait()
	return ok
}

// write brings the API to the status, if it still has this pod.
func (s *statuses) write(ctx context.Context, pod *v1.Pod, status v1.PodStatus) error {
	s.mu.Lock()
	base := pod
	if w := s.written[pod.UID]; w != nil {
		if order, err := resourceversion.CompareResourceVersion(pod.ResourceVersion, w.ResourceVersion); err == nil && order < 0 {
			base = w
		}
	}
	s.mu.Unlock()
	patch, err := statusPatch(pod.UID, base.Status, status)
	if err != nil {
		return fmt.Errorf("write status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	got := base
	if patch != nil {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		got, err = s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return nil // another pod, or none, has the name now
	case err != nil:
		return fmt.Errorf("write status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	s.mu.Lock()
	s.written[pod.UID] = got
	s.mu.Unlock()
	return nil
}

// statusPatch is the difference of two statuses, or nil; the UID in it makes the API refuse it for another pod.
func statusPatch(uid types.UID, from, to v1.PodStatus) ([]byte, error) {
	before, err := json.Marshal(v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}, Status: from})
	if err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	after, err := json.Marshal(v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}, Status: to})
	if err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	diff, err := strategicpatch.CreateTwoWayMergePatch(before, after, v1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("compare statuses: %w", err)
	}
	if string(diff) == "{}" {
		return nil, nil
	}
	var patch map[string]any
	if err := json.Unmarshal(diff, &patch); err != nil {
		return nil, fmt.Errorf("read status patch: %w", err)
	}
	patch["metadata"] = map[string]any{"uid": string(uid)}
	return json.Marshal(patch)
}
