package scheduler

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	corev1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// A filter says of a node whether a pod may run there. set looks at the pod once and reports whether the filter
// has anything to say about it; check is asked for each node and must be cheap; explain says why check said no.
type filter interface {
	set(*pod, *State) bool
	check(*node) bool
	explain(*node) []string
}

// filters are asked in the order of kube-scheduler's default plugins: the first that refuses a node gives the
// reasons for it.
func filters() []filter {
	return []filter{&namedNodes{}, &schedulable{}, &nodeName{}, &taints{}, &affinity{}, &freePorts{}, &fits{}, &spread{}, &podAffinity{}}
}

// schedulable refuses cordoned nodes (NodeUnschedulable).
type schedulable struct{ tolerated bool }

var unschedulableTaint = v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule}

func (f *schedulable) set(p *pod, _ *State) bool {
	f.tolerated = corev1.TolerationsTolerateTaint(klog.Background(), p.Spec.Tolerations, &unschedulableTaint, false)
	return !f.tolerated
}
func (f *schedulable) check(n *node) bool     { return !n.Spec.Unschedulable }
func (f *schedulable) explain(*node) []string { return []string{"node(s) were unschedulable"} }

// nodeName is for pods that name their node (NodeName). Such a pod is never waiting, but may be asked about.
type nodeName struct{ name string }

func (f *nodeName) set(p *pod, _ *State) bool {
	f.name = p.Spec.NodeName
	return f.name != ""
}
func (f *nodeName) check(n *node) bool { return n.Name == f.name }
func (f *nodeName) explain(*node) []string {
	return []string{"node(s) didn't match the requested node name"}
}

// taints refuses nodes with a taint the pod does not tolerate (TaintToleration).
type taints struct{ tolerations []v1.Toleration }

func (f *taints) set(p *pod, _ *State) bool {
	f.tolerations = p.Spec.Tolerations
	return true
}

func (f *taints) check(n *node) bool {
	_, untolerated := f.first(n)
	return !untolerated
}

// explain names the taint, as kube-scheduler did until 1.35; since then it says "untolerated taint(s)" and leaves
// people to look for them.
func (f *taints) explain(n *node) []string {
	t, _ := f.first(n)
	return []string{fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.Key, t.Value)}
}

func (f *taints) first(n *node) (v1.Taint, bool) {
	for i := range n.Spec.Taints {
		t := &n.Spec.Taints[i]
		if (t.Effect == v1.TaintEffectNoSchedule || t.Effect == v1.TaintEffectNoExecute) &&
			!corev1.TolerationsTolerateTaint(klog.Background(), f.tolerations, t, false) {
			return *t, true
		}
	}
	return v1.Taint{}, false
}

// affinity is the node selector and the required node affinity (NodeAffinity).
type affinity struct {
	required nodeaffinity.RequiredNodeAffinity
}

func (f *affinity) set(p *pod, _ *State) bool {
	f.required = nodeaffinity.GetRequiredNodeAffinity(p.Pod)
	return p.Spec.NodeSelector != nil || requiredNodeAffinity(p) != nil
}

func (f *affinity) check(n *node) bool {
	match, err := f.required.Match(n.Node)
	return match && err == nil
}

func (f *affinity) explain(*node) []string {
	return []string{"node(s) didn't match Pod's node affinity/selector"}
}

func requiredNodeAffinity(p *pod) *v1.NodeSelector {
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		return a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// namedNodes is for pods that can only run on nodes their affinity names, as those of a DaemonSet do: the other
// nodes are not worth a look (NodeAffinity's PreFilter).
type namedNodes struct{ names map[string]bool }

func (f *namedNodes) set(p *pod, _ *State) bool {
	required := requiredNodeAffinity(p)
	if required == nil || len(required.NodeSelectorTerms) == 0 {
		return false
	}
	f.names = map[string]bool{}
	for _, t := range required.NodeSelectorTerms {
		names := namesOf(t)
		if names == nil {
			return false // any node may match this term
		}
		for n := range names {
			f.names[n] = true
		}
	}
	return true
}

// namesOf is the intersection of the names a term allows; nil: all.
func namesOf(t v1.NodeSelectorTerm) map[string]bool {
	var names map[string]bool
	for _, r := range t.MatchFields {
		if r.Key != "metadata.name" || r.Operator != v1.NodeSelectorOpIn {
			continue
		}
		these := map[string]bool{}
		for _, v := range r.Values {
			if names == nil || names[v] {
				these[v] = true
			}
		}
		names = these
	}
	return names
}

func (f *namedNodes) check(n *node) bool { return f.names[n.Name] }
func (f *namedNodes) explain(*node) []string {
	return []string{"node(s) didn't satisfy plugin(s) [NodeAffinity]"}
}

// freePorts refuses nodes on which a host port is taken (NodePorts).
type freePorts struct{ want []hostPort }

func (f *freePorts) set(p *pod, _ *State) bool {
	f.want = p.ports
	return len(f.want) > 0
}

// check: a port on any address collides with the same port on every address.
func (f *freePorts) check(n *node) bool {
	for _, want := range f.want {
		for taken := range n.ports {
			if want.port == taken.port && want.protocol == taken.protocol && (want.ip == taken.ip || want.ip == "" || taken.ip == "") {
				return false
			}
		}
	}
	return true
}

func (f *freePorts) explain(*node) []string {
	return []string{"node(s) didn't have free ports for the requested pod ports"}
}
