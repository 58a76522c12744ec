// Package scheduler decides on which node a pod runs. Its core, State, has no clock, no I/O and no goroutine: nodes
// and pods go in, a Decision comes out, and a pod that cannot be placed says for every node why, in the words of
// kube-scheduler. Run is a thin loop around it: it watches, lets the core decide, binds, and writes the reasons
// down where people look for them.
//
// What makes a node feasible is what kube-scheduler's default plugins say, except for volumes, device claims and
// pod groups, which it does not look at. It never preempts. See docs/design/scheduler.md.
package scheduler

import (
	"maps"
	"sort"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// State is what the scheduler knows of a cluster. It is not safe for concurrent use.
type State struct {
	nodes      []*node // by name
	byName     map[string]*node
	placed     map[types.UID]*placement
	namespaces map[string]labels.Set

	antiAffine map[types.UID]*pod       // placed pods that want some pods kept away from them
	owners     map[owner]map[string]int // replicas by node
}

// owner identifies what replicas belong to.
type owner struct {
	namespace string
	uid       types.UID
}

// placement is a pod with the node it counts on. The node may be one that is not known (yet).
type placement struct {
	pod  *pod
	node string
}

// node is a node with what is placed on it.
type node struct {
	*v1.Node
	allocatable resources
	requested   resources
	nonZero     resources // requests with the defaults for those that say nothing; for the score
	pods        map[types.UID]*pod
	ports       map[hostPort]int
}

// NewState returns an empty cluster.
func NewState() *State {
	return &State{
		byName: map[string]*node{}, placed: map[types.UID]*placement{}, namespaces: map[string]labels.Set{},
		antiAffine: map[types.UID]*pod{}, owners: map[owner]map[string]int{},
	}
}

// SetNode adds a node or takes in its changes, and reports whether any of them may matter to a pod.
func (s *State) SetNode(n *v1.Node) (matters bool) {
	if old := s.byName[n.Name]; old != nil {
		matters = n.Spec.Unschedulable != old.Spec.Unschedulable || !maps.Equal(n.Labels, old.Labels) ||
			!equality.Semantic.DeepEqual(n.Spec.Taints, old.Spec.Taints) || !equality.Semantic.DeepEqual(n.Status.Allocatable, old.Status.Allocatable)
		old.Node = n
		if matters {
			old.allocatable = resourcesOf(n.Status.Allocatable)
		}
		return matters
	}
	fresh := &node{Node: n, allocatable: resourcesOf(n.Status.Allocatable), pods: map[types.UID]*pod{}, ports: map[hostPort]int{}}
	s.byName[n.Name] = fresh
	i := sort.Search(len(s.nodes), func(i int) bool { return s.nodes[i].Name >= n.Name })
	s.nodes = append(s.nodes, nil)
	copy(s.nodes[i+1:], s.nodes[i:])
	s.nodes[i] = fresh
	for _, p := range s.placed { // pods may be heard of before their node
		if p.node == n.Name {
			fresh.add(p.pod, 1)
		}
	}
	return true
}

// RemoveNode forgets a node. Pods on it stay known and count again when it comes back.
func (s *State) RemoveNode(name string) {
	if s.byName[name] == nil {
		return
	}
	delete(s.byName, name)
	i := sort.Search(len(s.nodes), func(i int) bool { return s.nodes[i].Name >= name })
	s.nodes = append(s.nodes[:i], s.nodes[i+1:]...)
}

// SetNamespace takes in a namespace's labels, which affinity terms may select by; nil forgets it.
func (s *State) SetNamespace(name string, l map[string]string) {
	if l == nil {
		delete(s.namespaces, name)
		return
	}
	s.namespaces[name] = l
}

// Assign counts the pod on the node, whether it is bound there or about to be, and reports whether that differs
// from what was known in anything that may matter to other pods. A pod is counted once: a second call replaces the
// first.
func (s *State) Assign(p *v1.Pod, nodeName string) (matters bool) {
	return s.assign(newPod(p), nodeName)
}

func (s *State) assign(p *pod, nodeName string) (matters bool) {
	if at := s.placed[p.UID]; at != nil && at.node == nodeName && at.pod.sameFor(p) {
		return false
	}
	s.Release(p.UID)
	s.placed[p.UID] = &placement{p, nodeName}
	if n := s.byName[nodeName]; n != nil {
		n.add(p, 1)
	}
	if len(p.antiAffinity) > 0 {
		s.antiAffine[p.UID] = p
	}
	if p.owner.uid != "" && p.DeletionTimestamp == nil {
		if s.owners[p.owner] == nil {
			s.owners[p.owner] = map[string]int{}
		}
		s.owners[p.owner][nodeName]++
	}
	return true
}

// Release frees what the pod took, if it was assigned.
func (s *State) Release(uid types.UID) {
	at := s.placed[uid]
	if at == nil {
		return
	}
	delete(s.placed, uid)
	delete(s.antiAffine, uid)
	if n := s.byName[at.node]; n != nil {
		n.add(at.pod, -1)
	}
	if replicas := s.owners[at.pod.owner]; replicas[at.node] > 0 {
		if replicas[at.node]--; replicas[at.node] == 0 {
			delete(replicas, at.node)
		}
		if len(replicas) == 0 {
			delete(s.owners, at.pod.owner)
		}
	}
}

// NodeOf tells where a pod counts; "" if nowhere.
func (s *State) NodeOf(uid types.UID) string {
	if at := s.placed[uid]; at != nil {
		return at.node
	}
	return ""
}

// add counts the pod by, 1 or -1, times.
func (n *node) add(p *pod, by int64) {
	n.requested.add(p.running, by)
	n.nonZero.add(p.nonZero, by)
	for _, port := range p.ports {
		if n.ports[port] += int(by); n.ports[port] <= 0 {
			delete(n.ports, port)
		}
	}
	if by > 0 {
		n.pods[p.UID] = p
	} else {
		delete(n.pods, p.UID)
	}
}

// Snapshot is a cluster at one moment: the input of Decide.
type Snapshot struct {
	Nodes      []*v1.Node
	Pods       []*v1.Pod                    // with spec.nodeName: placed; without: waiting
	Namespaces map[string]map[string]string // labels by name
}

// Decide places all waiting pods of a snapshot, the most important first and of these the oldest, each seeing
// those before it. The decisions are in that order. Pods that are gated, ending or over are left out.
func Decide(snap Snapshot) []Decision {
	s := NewState()
	for name, l := range snap.Namespaces {
		s.SetNamespace(name, l)
	}
	for _, n := range snap.Nodes {
		s.SetNode(n)
	}
	var waiting []*v1.Pod
	for _, p := range snap.Pods {
		switch {
		case over(p):
		case p.Spec.NodeName != "":
			s.Assign(p, p.Spec.NodeName)
		case waits(p):
			waiting = append(waiting, p)
		}
	}
	sort.SliceStable(waiting, func(i, j int) bool { return before(waiting[i], waiting[j]) })
	decisions := make([]Decision, 0, len(waiting))
	for _, p := range waiting {
		d := s.Place(p)
		if d.Node != "" {
			s.Assign(p, d.Node)
		}
		decisions = append(decisions, d)
	}
	return decisions
}

// before is the order of the queue: priority, then age, then name.
func before(a, b *v1.Pod) bool {
	if pa, pb := priority(a), priority(b); pa != pb {
		return pa > pb
	}
	if ta, tb := a.CreationTimestamp.Time, b.CreationTimestamp.Time; !ta.Equal(tb) {
		return ta.Before(tb)
	}
	if a.Namespace != b.Namespace {
		return a.Namespace < b.Namespace
	}
	return a.Name < b.Name
}

// over reports whether the pod uses nothing any more.
func over(p *v1.Pod) bool {
	return p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed
}

// waits reports whether the pod is to be placed. Of a gated pod the API server itself says so in its condition.
func waits(p *v1.Pod) bool {
	return p.Spec.NodeName == "" && !over(p) && p.DeletionTimestamp == nil && len(p.Spec.SchedulingGates) == 0
}

func priority(p *v1.Pod) int32 {
	if p.Spec.Priority != nil {
		return *p.Spec.Priority
	}
	return 0
}
