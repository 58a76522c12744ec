package scheduler

import (
	"fmt"
	"sort"
	"strings"

	v1 "k8s.io/api/core/v1"
	corev1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// Decision is where a pod goes, or why it goes nowhere.
type Decision struct {
	Pod      *v1.Pod
	Node     string         // "": nowhere
	Feasible int            // nodes it could have gone to
	Nodes    int            // nodes there are
	Reasons  map[string]int // of the nodes that were refused: reason, on how many of them
}

// Message says why the pod goes nowhere, as kube-scheduler words it; "" if it goes somewhere.
func (d Decision) Message() string {
	switch {
	case d.Node != "":
		return ""
	case d.Nodes == 0:
		return "no nodes available to schedule pods"
	}
	reasons := make([]string, 0, len(d.Reasons))
	for reason, n := range d.Reasons {
		reasons = append(reasons, fmt.Sprintf("%d %s", n, reason))
	}
	sort.Strings(reasons)
	return fmt.Sprintf("0/%d nodes are available: %s.", d.Nodes, strings.Join(reasons, ", "))
}

// String is one line: the pod, and its node or the message.
func (d Decision) String() string {
	if d.Node != "" {
		return fmt.Sprintf("%s/%s -> %s", d.Pod.Namespace, d.Pod.Name, d.Node)
	}
	return fmt.Sprintf("%s/%s waits: %s", d.Pod.Namespace, d.Pod.Name, d.Message())
}

// Place decides on one pod and changes nothing. The same state and pod give the same decision.
func (s *State) Place(p *v1.Pod) Decision { return s.place(newPod(p)) }

func (s *State) place(p *pod) Decision {
	d := Decision{Pod: p.Pod, Nodes: len(s.nodes)}
	use := make([]filter, 0, 8)
	for _, f := range filters() {
		if f.set(p, s) {
			use = append(use, f)
		}
	}
	if p.broken != "" {
		d.Reasons = map[string]int{"node(s) cannot be compared with a selector of the pod (" + p.broken + ")": len(s.nodes)}
		return d
	}
	feasible := make([]*node, 0, len(s.nodes))
	for _, n := range s.nodes {
		if f := refusing(use, n); f == nil {
			feasible = append(feasible, n)
		} else if len(feasible) == 0 { // reasons are read only when no node is left
			d.refuse(f.explain(n))
		}
	}
	if d.Feasible = len(feasible); d.Feasible > 0 {
		d.Node, d.Reasons = s.best(p, feasible).Name, nil
	}
	return d
}

// refusing returns the first filter that says no.
func refusing(use []filter, n *node) filter {
	for _, f := range use {
		if !f.check(n) {
			return f
		}
	}
	return nil
}

func (d *Decision) refuse(reasons []string) {
	if d.Reasons == nil {
		d.Reasons = map[string]int{}
	}
	for _, r := range reasons {
		d.Reasons[r]++
	}
}

// Weights of what makes one feasible node better than another, each from 0 to 100. The first three are
// kube-scheduler's; its PodTopologySpread spreads replicas by default, which is the fourth.
const (
	weightLoad     = 1
	weightAffinity = 2
	weightTaints   = 3
	weightReplicas = 2
)

// best returns the node with the highest score, of equals the one with the fewest pods, of these the first by
// name.
func (s *State) best(p *pod, feasible []*node) *node {
	if len(feasible) == 1 {
		return feasible[0]
	}
	scores := make([]int64, len(feasible))
	weigh := func(weight int64, reverse bool, points func(*node) int64) {
		raw := make([]int64, len(feasible))
		var most int64
		for i, n := range feasible {
			raw[i] = points(n)
			most = max(most, raw[i])
		}
		for i := range scores {
			part := int64(0)
			if most > 0 {
				part = 100 * raw[i] / most
			}
			if reverse {
				part = 100 - part
			}
			scores[i] += weight * part
		}
	}
	for i, n := range feasible {
		scores[i] = weightLoad * idle(n, p.nonZero)
	}
	if terms := preferredAffinity(p); terms != nil {
		weigh(weightAffinity, false, terms.Score)
	}
	weigh(weightTaints, true, func(n *node) int64 { return avoided(n, p) })
	if replicas := s.owners[p.owner]; p.owner.uid != "" && len(replicas) > 0 {
		weigh(weightReplicas, true, func(n *node) int64 { return int64(replicas[n.Name]) })
	}
	win := 0
	for i := range feasible {
		if scores[i] > scores[win] || scores[i] == scores[win] && len(feasible[i].pods) < len(feasible[win].pods) {
			win = i
		}
	}
	return feasible[win]
}

// idle is how much of the node's CPU and memory would be left with the pod on it, from 0 to 100
// (LeastAllocated).
func idle(n *node, want resources) int64 {
	part := func(have, used int64) int64 {
		if have <= 0 || used > have {
			return 0
		}
		return 100 * (have - used) / have
	}
	return (part(n.allocatable.milliCPU, n.nonZero.milliCPU+want.milliCPU) + part(n.allocatable.memory, n.nonZero.memory+want.memory)) / 2
}

// preferred scores nodes by preferredDuringScheduling node affinity.
type preferred struct {
	terms *nodeaffinity.PreferredSchedulingTerms
}

func (t *preferred) Score(n *node) int64 { return t.terms.Score(n.Node) }

func preferredAffinity(p *pod) *preferred {
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil // a preference that cannot be read is none
	}
	return &preferred{terms}
}

// avoided counts the PreferNoSchedule taints that the pod does not tolerate.
func avoided(n *node, p *pod) int64 {
	var count int64
	for i := range n.Spec.Taints {
		t := &n.Spec.Taints[i]
		if t.Effect == v1.TaintEffectPreferNoSchedule && !corev1.TolerationsTolerateTaint(klog.Background(), p.Spec.Tolerations, t, false) {
			count++
		}
	}
	return count
}
