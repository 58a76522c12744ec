package scheduler

import (
	"maps"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

var nonZeroList = v1.ResourceList{
	v1.ResourceCPU:    *resource.NewMilliQuantity(nonZeroMilliCPU, resource.DecimalSI),
	v1.ResourceMemory: *resource.NewQuantity(nonZeroMemory, resource.BinarySI),
}

// pod is a pod with what is looked at again and again worked out.
type pod struct {
	*v1.Pod
	request                resources // to be placed
	running                resources // once placed; differs while a resize is under way
	nonZero                resources
	ports                  []hostPort
	owner                  owner
	affinity, antiAffinity []term
	broken                 string // a selector that does not parse; the API server accepts none
}

// sameFor reports whether two versions of a pod are the same to all other pods.
func (p *pod) sameFor(o *pod) bool {
	spec, other := p.Spec, o.Spec
	spec.NodeName, other.NodeName = "", "" // assumed, and then confirmed
	return p.UID == o.UID && (p.DeletionTimestamp == nil) == (o.DeletionTimestamp == nil) && maps.Equal(p.Labels, o.Labels) &&
		p.running.equal(o.running) && equality.Semantic.DeepEqual(spec, other)
}

// term is a pod affinity term, ready to be matched.
type term struct {
	topologyKey       string
	namespaces        map[string]bool
	namespaceSelector labels.Selector
	selector          labels.Selector
}

func newPod(p *v1.Pod) *pod {
	out := &pod{Pod: p, request: request(p, false), running: request(p, true), nonZero: nonZeroRequest(p), ports: hostPorts(p)}
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		out.owner = owner{p.Namespace, ref.UID}
	}
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			out.affinity = out.terms(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		}
		if a.PodAntiAffinity != nil {
			out.antiAffinity = out.terms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		}
	}
	return out
}

func (p *pod) terms(in []v1.PodAffinityTerm) []term {
	out := make([]term, 0, len(in))
	for i := range in {
		t := &in[i]
		selector, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
		if err != nil {
			p.broken = err.Error()
			continue
		}
		// A nil namespaceSelector selects none, an empty one all.
		nsSelector, err := metav1.LabelSelectorAsSelector(t.NamespaceSelector)
		if err != nil {
			p.broken = err.Error()
			continue
		}
		names := map[string]bool{}
		for _, n := range t.Namespaces {
			names[n] = true
		}
		if len(names) == 0 && t.NamespaceSelector == nil {
			names[p.Namespace] = true
		}
		out = append(out, term{t.TopologyKey, names, nsSelector, selector})
	}
	return out
}

// matches reports whether the term means the pod.
func (t *term) matches(p *v1.Pod, s *State) bool {
	return (t.namespaces[p.Namespace] || t.namespaceSelector.Matches(s.namespaces[p.Namespace])) && t.selector.Matches(labels.Set(p.Labels))
}

// hostPort is a port of a node. Any address is "".
type hostPort struct {
	ip       string
	protocol v1.Protocol
	port     int32
}

func hostPorts(p *v1.Pod) []hostPort {
	var out []hostPort
	add := func(c *v1.Container) {
		for _, port := range c.Ports {
			if port.HostPort <= 0 {
				continue
			}
			h := hostPort{port.HostIP, port.Protocol, port.HostPort}
			if h.ip == "0.0.0.0" {
				h.ip = ""
			}
			if h.protocol == "" {
				h.protocol = v1.ProtocolTCP
			}
			out = append(out, h)
		}
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range p.Spec.Containers {
		add(&p.Spec.Containers[i])
	}
	return out
}
