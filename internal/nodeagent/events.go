package nodeagent

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/reference"

	"github.com/gitopsd/gitopsd/internal/nodeagent/image"
	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
)

// events speaks through the Events API, in kubelet's name and words, which users and tools look for.
type events struct {
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
	node        *v1.ObjectReference
}

func newEvents(ctx context.Context, client kubernetes.Interface, nodeName string) *events {
	b := record.NewBroadcaster(record.WithContext(ctx))
	b.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: client.CoreV1().Events("")})
	return &events{
		broadcaster: b,
		recorder:    b.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: nodeName}),
		node:        &v1.ObjectReference{Kind: "Node", Name: nodeName, UID: types.UID(nodeName)},
	}
}

func (e *events) close() { e.broadcaster.Shutdown() }

func (e *events) pod(pod *v1.Pod, kind, reason, message string) {
	e.recorder.Event(pod, kind, reason, image.RedactText(message))
}

// container speaks about one container of a pod.
func (e *events) container(pod *v1.Pod, name, kind, reason, message string) {
	ref, err := reference.GetPartialReference(scheme.Scheme, pod, fieldPath(pod, name))
	if err != nil {
		return
	}
	e.recorder.Event(ref, kind, reason, image.RedactText(message))
}

func (e *events) about(kind, reason, message string) {
	e.recorder.Event(e.node, kind, reason, image.RedactText(message))
}

func fieldPath(pod *v1.Pod, name string) string {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return fmt.Sprintf("spec.initContainers{%s}", name)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return fmt.Sprintf("spec.ephemeralContainers{%s}", name)
		}
	}
	return fmt.Sprintf("spec.containers{%s}", name)
}

// tellWaiting speaks when a container begins to wait for a backoff.
func (w *worker) tellWaiting(pod *v1.Pod, st v1.PodStatus) {
	all := append(append([]v1.ContainerStatus{}, st.InitContainerStatuses...), st.ContainerStatuses...)
	for _, s := range all {
		reason := ""
		if s.State.Waiting != nil {
			reason = s.State.Waiting.Reason
		}
		// One event for each attempt: what is waited for the first time, or again after it ran.
		mark := fmt.Sprintf("%s %d", reason, s.RestartCount)
		if w.reasons[s.Name] == mark {
			continue
		}
		w.reasons[s.Name] = mark
		switch reason {
		case lifecycle.ReasonCrashLoop:
			w.agent.events.container(pod, s.Name, v1.EventTypeWarning, "BackOff", fmt.Sprintf("Back-off restarting failed container %s in pod %s_%s(%s)",
				s.Name, pod.Name, pod.Namespace, pod.UID))
		case lifecycle.ReasonImagePullBackOff:
			w.agent.events.container(pod, s.Name, v1.EventTypeNormal, "BackOff", fmt.Sprintf("Back-off pulling image %q", s.Image))
			w.agent.events.container(pod, s.Name, v1.EventTypeWarning, "Failed", "Error: ImagePullBackOff")
		}
	}
}
