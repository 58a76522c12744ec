package objects

import (
	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// Of lists what a pod refers to: environment, volumes and pull secrets.
func Of(pod *v1.Pod) []Ref {
	var out []Ref
	podutil.VisitPodConfigmapNames(pod, func(name string) bool {
		out = append(out, Ref{ConfigMap, pod.Namespace, name})
		return true
	})
	podutil.VisitPodSecretNames(pod, func(name string) bool {
		out = append(out, Ref{Secret, pod.Namespace, name})
		return true
	})
	return out
}
