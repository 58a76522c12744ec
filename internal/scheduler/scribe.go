package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
)

// scribe writes the scheduler's decisions down: bindings, the PodScheduled condition, events. Conditions are
// written in the background, the newest only, and not at all if the pod says so already.
type scribe struct {
	cfg      Config
	recorder events.EventRecorder
	wake     chan struct{}

	mu   sync.Mutex
	todo map[types.UID]refusal
}

type refusal struct {
	pod     *v1.Pod
	message string
}

func newScribe(ctx context.Context, cfg Config, background *sync.WaitGroup) (*scribe, error) {
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: cfg.Client.EventsV1()})
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return nil, fmt.Errorf("record events: %w", err)
	}
	s := &scribe{cfg: cfg, recorder: broadcaster.NewRecorder(scheme.Scheme, cfg.Name), wake: make(chan struct{}, 1), todo: map[types.UID]refusal{}}
	background.Go(func() {
		defer broadcaster.Shutdown()
		s.run(ctx)
	})
	return s, nil
}

// bind makes the pod run on the node: POST pods/binding, which is all a scheduler may write of a pod's spec.
func (s *scribe) bind(ctx context.Context, p *v1.Pod, node string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err := s.cfg.Client.CoreV1().Pods(p.Namespace).Bind(ctx, &v1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		Target:     v1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("bind %s to %s: %w", key(p), node, err)
	}
	s.recorder.Eventf(p, nil, v1.EventTypeNormal, "Scheduled", "Binding", "Successfully assigned %v/%v to %v", p.Namespace, p.Name, node)
	return nil
}

// refuse has the reason written into the pod's condition.
func (s *scribe) refuse(p *v1.Pod, message string) {
	if said(p, message) {
		return
	}
	s.mu.Lock()
	s.todo[p.UID] = refusal{p, message}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// forget drops what was not written yet: the pod is bound or gone.
func (s *scribe) forget(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.todo, uid)
}

// said reports whether the pod's condition tells this already.
func said(p *v1.Pod, message string) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodScheduled {
			return c.Status == v1.ConditionFalse && c.Reason == v1.PodReasonUnschedulable && c.Message == message
		}
	}
	return false
}

func (s *scribe) run(ctx context.Context) {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-retry.C:
		}
		s.mu.Lock()
		todo := s.todo
		s.todo = map[types.UID]refusal{}
		s.mu.Unlock()
		for uid, r := range todo {
			err := s.write(ctx, r)
			if err == nil || ctx.Err() != nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				continue
			}
			s.cfg.Logger.Warn("write condition", "pod", key(r.pod), "err", err)
			s.mu.Lock()
			if _, newer := s.todo[uid]; !newer {
				s.todo[uid] = r
			}
			s.mu.Unlock()
			retry.Reset(time.Second)
		}
	}
}

// write patches the condition and then records the event, so that an event is never repeated for a pod that
// waits for the same reason.
func (s *scribe) write(ctx context.Context, r refusal) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	condition := v1.PodCondition{
		Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: v1.PodReasonUnschedulable, Message: r.message,
		ObservedGeneration: r.pod.Generation, LastTransitionTime: metav1.Now(),
	}
	for _, c := range r.pod.Status.Conditions {
		if c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse {
			condition.LastTransitionTime = c.LastTransitionTime
		}
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": r.pod.UID}, // not a later pod of the same name
		"status":   map[string]any{"conditions": []v1.PodCondition{condition}},
	})
	if err != nil {
		return fmt.Errorf("encode condition: %w", err)
	}
	_, err = s.cfg.Client.CoreV1().Pods(r.pod.Namespace).Patch(ctx, r.pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("patch condition of %s: %w", key(r.pod), err)
	}
	s.recorder.Eventf(r.pod, nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", truncate(r.message))
	return nil
}

// truncate keeps a note within what an event may hold (events.k8s.io/v1, NoteLengthLimit).
func truncate(message string) string {
	const longest, suffix = 1024, " ..."
	if len(message) <= longest {
		return message
	}
	return message[:longest-len(suffix)] + suffix
}
