// Package admit decides whether a pod that was bound to this node can run here: the node's last word, after a scheduler
// that may have seen an older state. It is pure; a refusal has the reason and words that kubelet would give.
package admit

import (
	"fmt"
	"sort"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Refusal says why not.
type Refusal struct{ Reason, Message string }

// Check admits the pod beside those present, or says why not.
func Check(pod *v1.Pod, present []*v1.Pod, node *v1.Node) *Refusal {
	if node == nil {
		return nil
	}
	for _, check := range []func(*v1.Pod, []*v1.Pod, *v1.Node) *Refusal{operatingSystem, affinity, ports, resources} {
		if no := check(pod, present, node); no != nil {
			return no
		}
	}
	return nil
}

func operatingSystem(pod *v1.Pod, _ []*v1.Pod, node *v1.Node) *Refusal {
	if os := pod.Spec.OS; os != nil && os.Name != v1.Linux {
		return &Refusal{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}
	}
	if want := pod.Spec.NodeSelector[v1.LabelOSStable]; want != "" && want != node.Labels[v1.LabelOSStable] {
		return &Refusal{"PodOSSelectorNodeLabelDoesNotMatch", "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"}
	}
	return nil
}

func affinity(pod *v1.Pod, _ []*v1.Pod, node *v1.Node) *Refusal {
	ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node)
	if err != nil || !ok {
		return &Refusal{"NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
	}
	return nil
}

// ports refuses a host port that another pod holds.
func ports(pod *v1.Pod, present []*v1.Pod, _ *v1.Node) *Refusal {
	wanted := hostPorts(pod)
	for _, other := range present {
		for _, have := range hostPorts(other) {
			for _, want := range wanted {
				if conflict(want, have) {
					return &Refusal{"NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
				}
			}
		}
	}
	return nil
}

func hostPorts(pod *v1.Pod) []v1.ContainerPort {
	var out []v1.ContainerPort
	all := append(append([]v1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...)
	for i := range all {
		for _, p := range all[i].Ports {
			if p.HostPort > 0 {
				out = append(out, p)
			}
		}
	}
	return out
}

func conflict(a, b v1.ContainerPort) bool {
	if a.HostPort != b.HostPort || proto(a) != proto(b) {
		return false
	}
	every := func(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
	return every(a.HostIP) || every(b.HostIP) || a.HostIP == b.HostIP
}

func proto(p v1.ContainerPort) v1.Protocol {
	if p.Protocol == "" {
		return v1.ProtocolTCP
	}
	return p.Protocol
}

// resources refuses a pod whose requests do not fit beside those of the others.
func resources(pod *v1.Pod, present []*v1.Pod, node *v1.Node) *Refusal {
	free := node.Status.Allocatable
	if limit := free.Pods().Value(); limit > 0 && int64(len(present)) >= limit {
		return &Refusal{"OutOfpods", fmt.Sprintf("Node didn't have enough resource: pods, requested: 1, used: %d, capacity: %d", len(present), limit)}
	}
	wanted := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	names := make([]string, 0, len(wanted))
	for name := range wanted {
		names = append(names, string(name))
	}
	sort.Strings(names)
	for _, n := range names {
		name := v1.ResourceName(n)
		want := amount(name, wanted)
		if want == 0 {
			continue
		}
		have, known := free[name]
		if !known && !native(name) {
			continue // given out by others
		}
		var used int64
		for _, other := range present {
			used += amount(name, resourcehelper.PodRequests(other, resourcehelper.PodResourcesOptions{}))
		}
		capacity := amount(name, v1.ResourceList{name: have})
		if want > capacity-used {
			return &Refusal{"OutOf" + n, fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", n, want, used, capacity)}
		}
	}
	return nil
}

func native(name v1.ResourceName) bool {
	return name == v1.ResourceCPU || name == v1.ResourceMemory || name == v1.ResourceEphemeralStorage
}

func amount(name v1.ResourceName, list v1.ResourceList) int64 {
	q := list[name]
	if name == v1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}
