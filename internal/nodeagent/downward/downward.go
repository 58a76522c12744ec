// Package downward tells a pod's own facts to its containers: the values of fieldRef and resourceFieldRef, in
// environment variables and in files. It is pure.
package downward

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	podshelper "k8s.io/kubernetes/pkg/apis/core/pods"
	"k8s.io/kubernetes/pkg/fieldpath"
)

// Facts are what the pod object itself does not hold yet.
type Facts struct {
	PodIPs      []string
	HostIPs     []string
	Allocatable v1.ResourceList // of the node: stands in where a container has no limit
}

// Field is the value of a fieldRef.
func (f Facts) Field(pod *v1.Pod, ref *v1.ObjectFieldSelector) (string, error) {
	path, _, err := podshelper.ConvertDownwardAPIFieldLabel(ref.APIVersion, ref.FieldPath, "")
	if err != nil {
		return "", fmt.Errorf("read field %s: %w", ref.FieldPath, err)
	}
	switch path {
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(f.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(f.HostIPs, ","), nil
	case "status.podIP":
		return first(f.PodIPs), nil
	case "status.podIPs":
		return strings.Join(f.PodIPs, ","), nil
	}
	v, err := fieldpath.ExtractFieldPathAsString(pod, path)
	if err != nil {
		return "", fmt.Errorf("read field %s: %w", ref.FieldPath, err)
	}
	return v, nil
}

// Resource is the value of a resourceFieldRef; without a container name in it that of the container given.
func (f Facts) Resource(pod *v1.Pod, ref *v1.ResourceFieldSelector, container string) (string, error) {
	if ref.ContainerName != "" {
		container = ref.ContainerName
	}
	v, err := resource.ExtractResourceValueByContainerNameAndNodeAllocatable(ref, pod, container, f.Allocatable)
	if err != nil {
		return "", fmt.Errorf("read resource %s of container %s: %w", ref.Resource, container, err)
	}
	return v, nil
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
