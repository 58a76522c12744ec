package scheduler

import (
	"maps"
	"sort"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
)

// resources is a ResourceList in the units in which it is compared: thousandths of a CPU, bytes, and whole numbers
// of everything else that is counted.
type resources struct {
	milliCPU, memory, ephemeral, pods int64
	others                            map[v1.ResourceName]int64
}

func resourcesOf(l v1.ResourceList) resources {
	var r resources
	for name, q := range l {
		switch name {
		case v1.ResourceCPU:
			r.milliCPU = q.MilliValue()
		case v1.ResourceMemory:
			r.memory = q.Value()
		case v1.ResourceEphemeralStorage:
			r.ephemeral = q.Value()
		case v1.ResourcePods:
			r.pods = q.Value()
		default:
			if counted(name) {
				if r.others == nil {
					r.others = map[v1.ResourceName]int64{}
				}
				r.others[name] = q.Value()
			}
		}
	}
	return r
}

// counted reports whether a name stands for something a node has a number of: extended resources have a domain,
// huge pages and volume slots a prefix.
func counted(name v1.ResourceName) bool {
	s := string(name)
	return strings.Contains(s, "/") && !strings.HasPrefix(s, v1.DefaultResourceRequestsPrefix) ||
		strings.HasPrefix(s, v1.ResourceHugePagesPrefix) || strings.HasPrefix(s, v1.ResourceAttachableVolumesPrefix)
}

func (r *resources) add(o resources, by int64) {
	r.milliCPU += by * o.milliCPU
	r.memory += by * o.memory
	r.ephemeral += by * o.ephemeral
	for name, n := range o.others {
		if r.others == nil {
			r.others = map[v1.ResourceName]int64{}
		}
		r.others[name] += by * n
	}
}

func (r resources) nothing() bool {
	return r.milliCPU == 0 && r.memory == 0 && r.ephemeral == 0 && len(r.others) == 0
}

func (r resources) equal(o resources) bool {
	return r.milliCPU == o.milliCPU && r.memory == o.memory && r.ephemeral == o.ephemeral && r.pods == o.pods && maps.Equal(r.others, o.others)
}

// request is what a pod needs: the sum of its containers, or the largest step of its start if that is more,
// and its overhead (KEP-753).
func request(p *v1.Pod, placed bool) resources {
	return resourcesOf(resource.PodRequests(p, resource.PodResourcesOptions{UseStatusResources: placed}))
}

// What a container that requests nothing is taken for when nodes are compared, as in kube-scheduler
// (pkg/scheduler/util, DefaultMilliCPURequest): without it a thousand of them would weigh nothing.
const (
	nonZeroMilliCPU = 100
	nonZeroMemory   = 200 << 20
)

func nonZeroRequest(p *v1.Pod) resources {
	return resourcesOf(resource.PodRequests(p, resource.PodResourcesOptions{NonMissingContainerRequests: nonZeroList}))
}

// fits is kube-scheduler's NodeResourcesFit.
type fits struct{ want resources }

func (f *fits) set(p *pod, _ *State) bool {
	f.want = p.request
	return true
}

func (f *fits) check(n *node) bool { return len(f.lacking(n, true)) == 0 }

func (f *fits) explain(n *node) []string { return f.lacking(n, false) }

// lacking lists what the node has too little of; only the first if that is enough to know.
func (f *fits) lacking(n *node, first bool) []string {
	var out []string
	if int64(len(n.pods))+1 > n.allocatable.pods {
		out = append(out, "Too many pods")
	}
	if f.want.nothing() || first && out != nil {
		return out
	}
	for _, r := range []struct {
		name             string
		want, have, used int64
	}{
		{"cpu", f.want.milliCPU, n.allocatable.milliCPU, n.requested.milliCPU},
		{"memory", f.want.memory, n.allocatable.memory, n.requested.memory},
		{"ephemeral-storage", f.want.ephemeral, n.allocatable.ephemeral, n.requested.ephemeral},
	} {
		if r.want > 0 && r.want > r.have-r.used {
			out = append(out, "Insufficient "+r.name)
		}
	}
	if len(f.want.others) > 0 {
		out = append(out, f.lackingOthers(n)...)
	}
	return out
}

func (f *fits) lackingOthers(n *node) []string {
	var out []string
	for name, want := range f.want.others {
		if want > 0 && want > n.allocatable.others[name]-n.requested.others[name] {
			out = append(out, "Insufficient "+string(name))
		}
	}
	sort.Strings(out)
	return out
}
