package scheduler

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// spread is the topologySpreadConstraints that say DoNotSchedule (PodTopologySpread).
type spread struct {
	constraints []constraint
	labels      labels.Set
}

type constraint struct {
	*v1.TopologySpreadConstraint
	selector labels.Selector
	counts   map[string]int // matching pods by the value of the topology key, of the nodes that count
	least    int
}

func (f *spread) set(p *pod, s *State) bool {
	f.labels, f.constraints = p.Labels, nil
	for i := range p.Spec.TopologySpreadConstraints {
		c := &p.Spec.TopologySpreadConstraints[i]
		if c.WhenUnsatisfiable != v1.DoNotSchedule {
			continue
		}
		selector, err := spreadSelector(c, p.Labels)
		if err != nil {
			p.broken = err.Error()
			continue
		}
		f.constraints = append(f.constraints, constraint{c, selector, map[string]int{}, 0})
	}
	if len(f.constraints) == 0 {
		return false
	}
	f.count(p, s)
	return true
}

// spreadSelector is the constraint's selector narrowed to the pod's own values of matchLabelKeys.
func spreadSelector(c *v1.TopologySpreadConstraint, own map[string]string) (labels.Selector, error) {
	selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
	if err != nil || len(c.MatchLabelKeys) == 0 {
		return selector, err
	}
	narrow := labels.Set{}
	for _, key := range c.MatchLabelKeys {
		if v, ok := own[key]; ok {
			narrow[key] = v
		}
	}
	requirements, selectable := selector.Requirements()
	if len(narrow) == 0 || !selectable {
		return selector, nil
	}
	return labels.SelectorFromSet(narrow).Add(requirements...), nil
}

// count looks at every pod of every node that has all topology keys and that the constraint counts.
func (f *spread) count(p *pod, s *State) {
	required := nodeaffinity.GetRequiredNodeAffinity(p.Pod)
	tolerated := &taints{tolerations: p.Spec.Tolerations}
	for _, n := range s.nodes {
		if !f.hasKeys(n) {
			continue
		}
		for i := range f.constraints {
			if c := &f.constraints[i]; c.countsNode(n, required, tolerated) {
				c.counts[n.Labels[c.TopologyKey]] += c.matching(n, p.Namespace)
			}
		}
	}
	for i := range f.constraints {
		f.constraints[i].settle()
	}
}

func (f *spread) hasKeys(n *node) bool {
	for _, c := range f.constraints {
		if _, ok := n.Labels[c.TopologyKey]; !ok {
			return false
		}
	}
	return true
}

func (c *constraint) countsNode(n *node, required nodeaffinity.RequiredNodeAffinity, tolerated *taints) bool {
	if c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == v1.NodeInclusionPolicyHonor {
		if match, _ := required.Match(n.Node); !match {
			return false
		}
	}
	return c.NodeTaintsPolicy == nil || *c.NodeTaintsPolicy == v1.NodeInclusionPolicyIgnore || tolerated.check(n)
}

func (c *constraint) matching(n *node, namespace string) int {
	if c.selector.Empty() {
		return 0
	}
	found := 0
	for _, p := range n.pods {
		if p.DeletionTimestamp == nil && p.Namespace == namespace && c.selector.Matches(labels.Set(p.Labels)) {
			found++
		}
	}
	return found
}

// settle finds the smallest count, which is none while there are fewer domains than there should be.
func (c *constraint) settle() {
	const most = 1<<31 - 1
	c.least = most
	for _, n := range c.counts {
		c.least = min(c.least, n)
	}
	domains := int32(1)
	if c.MinDomains != nil {
		domains = *c.MinDomains
	}
	if len(c.counts) < int(domains) {
		c.least = 0
	}
}

func (f *spread) check(n *node) bool { return f.refusal(n) == "" }

func (f *spread) explain(n *node) []string { return []string{f.refusal(n)} }

func (f *spread) refusal(n *node) string {
	const text = "node(s) didn't match pod topology spread constraints"
	for i := range f.constraints {
		c := &f.constraints[i]
		value, ok := n.Labels[c.TopologyKey]
		if !ok {
			return text + " (missing required label)"
		}
		self := 0
		if c.selector.Matches(f.labels) {
			self = 1
		}
		if c.counts[value]+self-c.least > int(c.MaxSkew) {
			return text
		}
	}
	return ""
}

// podAffinity is the required affinity and anti-affinity between pods, of the pod and of those that are there
// already (InterPodAffinity).
type podAffinity struct {
	pod                      *pod
	wanted, unwanted, repels map[domain]int // matching pods by domain
	first                    bool           // nobody matches yet, and the pod itself does
}

// domain is a value of a topology key: a set of nodes.
type domain struct{ key, value string }

func (f *podAffinity) set(p *pod, s *State) bool {
	f.pod, f.wanted, f.unwanted, f.repels = p, map[domain]int{}, map[domain]int{}, map[domain]int{}
	for uid, other := range s.antiAffine {
		n := s.byName[s.placed[uid].node]
		if n == nil {
			continue
		}
		for i := range other.antiAffinity {
			if t := &other.antiAffinity[i]; t.matches(p.Pod, s) {
				note(f.repels, n, t.topologyKey)
			}
		}
	}
	if len(p.affinity) == 0 && len(p.antiAffinity) == 0 {
		return len(f.repels) > 0
	}
	for _, n := range s.nodes {
		for _, other := range n.pods {
			f.meet(n, other, s)
		}
	}
	f.first = len(f.wanted) == 0 && matchesAll(p.affinity, p.Pod, s)
	return true
}

func (f *podAffinity) meet(n *node, other *pod, s *State) {
	if matchesAll(f.pod.affinity, other.Pod, s) {
		for i := range f.pod.affinity {
			note(f.wanted, n, f.pod.affinity[i].topologyKey)
		}
	}
	for i := range f.pod.antiAffinity {
		if t := &f.pod.antiAffinity[i]; t.matches(other.Pod, s) {
			note(f.unwanted, n, t.topologyKey)
		}
	}
}

func note(in map[domain]int, n *node, key string) {
	if value, ok := n.Labels[key]; ok {
		in[domain{key, value}]++
	}
}

func matchesAll(terms []term, p *v1.Pod, s *State) bool {
	for i := range terms {
		if !terms[i].matches(p, s) {
			return false
		}
	}
	return len(terms) > 0
}

func (f *podAffinity) check(n *node) bool { return f.refusal(n) == "" }

func (f *podAffinity) explain(n *node) []string { return []string{f.refusal(n)} }

func (f *podAffinity) refusal(n *node) string {
	if !f.company(n) {
		return "node(s) didn't match pod affinity rules"
	}
	for _, t := range f.pod.antiAffinity {
		if value, ok := n.Labels[t.topologyKey]; ok && f.unwanted[domain{t.topologyKey, value}] > 0 {
			return "node(s) didn't match pod anti-affinity rules"
		}
	}
	for d := range f.repels {
		if value, ok := n.Labels[d.key]; ok && value == d.value {
			return "node(s) didn't satisfy existing pods anti-affinity rules"
		}
	}
	return ""
}

// company reports whether the pods that this one wants near are there, or it is the first of them.
func (f *podAffinity) company(n *node) bool {
	there := true
	for _, t := range f.pod.affinity {
		value, ok := n.Labels[t.topologyKey]
		if !ok {
			return false
		}
		there = there && f.wanted[domain{t.topologyKey, value}] > 0
	}
	return there || f.first
}
