package scheduler

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// fresh is a random cluster on which nothing runs yet.
func fresh(seed, i uint64) Snapshot {
	rng := rand.New(rand.NewPCG(seed, i))
	snap := randomSnapshot(rng)
	for _, p := range snap.Pods {
		p.Spec.NodeName, p.DeletionTimestamp = "", nil
	}
	return snap
}

// Whatever is decided, no node carries more than it has, no host port is given twice, and no pod lies next to one
// that it keeps away.
func TestDecisionsNeverOverAllocate(t *testing.T) {
	t.Logf("-seed %d", *seed)
	for i := range uint64(500) {
		snap := fresh(*seed, i)
		s := NewState()
		for _, n := range snap.Nodes {
			s.SetNode(n)
		}
		for _, d := range Decide(snap) {
			if d.Node != "" {
				s.Assign(d.Pod, d.Node)
			}
			if (d.Node == "") == (d.Message() == "") {
				t.Fatalf("cluster %d: %s says %q on node %q", i, d.Pod.Name, d.Message(), d.Node)
			}
		}
		for _, n := range s.nodes {
			over := n.requested.milliCPU > n.allocatable.milliCPU || n.requested.memory > n.allocatable.memory ||
				n.requested.ephemeral > n.allocatable.ephemeral || int64(len(n.pods)) > n.allocatable.pods
			for name, used := range n.requested.others {
				over = over || used > n.allocatable.others[name]
			}
			holders := map[hostPort]types.UID{} // one pod may name a port twice here; the API server would refuse it
			for uid, p := range n.pods {
				for _, port := range p.ports {
					holder, taken := holders[port]
					over = over || taken && holder != uid
					holders[port] = uid
				}
			}
			if over {
				t.Fatalf("cluster %d: %s carries %+v of %+v, ports %v", i, n.Name, n.requested, n.allocatable, n.ports)
			}
		}
	}
}

// The decisions depend on the cluster and not on the order in which it is told.
func TestDecisionsDoNotDependOnOrder(t *testing.T) {
	t.Logf("-seed %d", *seed)
	for i := range uint64(200) {
		snap := fresh(*seed, i)
		want := printed(Decide(snap))
		rng := rand.New(rand.NewPCG(*seed, i))
		rng.Shuffle(len(snap.Nodes), func(i, j int) { snap.Nodes[i], snap.Nodes[j] = snap.Nodes[j], snap.Nodes[i] })
		rng.Shuffle(len(snap.Pods), func(i, j int) { snap.Pods[i], snap.Pods[j] = snap.Pods[j], snap.Pods[i] })
		if got := printed(Decide(snap)); got != want {
			t.Fatalf("cluster %d:\n%s\nin another order:\n%s", i, want, got)
		}
	}
}

func printed(ds []Decision) string {
	var b strings.Builder
	for _, d := range ds {
		fmt.Fprintln(&b, d)
	}
	return b.String()
}

// A state that things came to and went from is the same as one they never were in.
func TestReleaseUndoesAssign(t *testing.T) {
	for i := range uint64(200) {
		snap := fresh(*seed, i)
		if len(snap.Nodes) == 0 {
			continue
		}
		s := NewState()
		for _, n := range snap.Nodes {
			s.SetNode(n)
		}
		before := fmt.Sprintf("%+v %+v %d %d", s.nodes[0].requested.milliCPU, s.nodes[0].ports, len(s.owners), len(s.antiAffine))
		for _, p := range snap.Pods {
			s.Assign(p, snap.Nodes[0].Name)
			s.Assign(p, snap.Nodes[len(snap.Nodes)-1].Name)
		}
		for _, p := range snap.Pods {
			s.Release(p.UID)
			s.Release(p.UID)
		}
		after := fmt.Sprintf("%+v %+v %d %d", s.nodes[0].requested.milliCPU, s.nodes[0].ports, len(s.owners), len(s.antiAffine))
		if before != after {
			t.Fatalf("cluster %d (-seed %d): %s became %s", i, *seed, before, after)
		}
	}
}

func TestQueueOrderAndBackoff(t *testing.T) {
	q, now := newQueue(), time.Unix(0, 0)
	pod := func(name string, prio int32) *v1.Pod {
		p := &v1.Pod{}
		p.Name, p.UID, p.Spec.Priority = name, types.UID(name), &prio
		return p
	}
	pop := func() string {
		if w, _ := q.pop(now); w != nil {
			q.refused(w, now)
			return w.pod.Name
		}
		return "-"
	}
	q.add(pod("low", 1))
	q.add(pod("high", 2))
	if got := pop() + pop() + pop(); got != "highlow-" {
		t.Errorf("order: %s", got)
	}
	q.changed()
	if got := pop(); got != "-" {
		t.Errorf("%s does not back off", got)
	}
	now = now.Add(firstBackoff)
	q.add(pod("new", 0))
	if got := pop() + pop() + pop() + pop(); got != "highlownew-" {
		t.Errorf("after the backoff: %s", got)
	}
	now = now.Add(patience - time.Second)
	if got := pop(); got != "-" {
		t.Errorf("%s is tried though nothing changed", got)
	}
	now = now.Add(2 * time.Second)
	if got := pop() + pop() + pop(); got != "highlownew" {
		t.Errorf("after %s: %s", patience, got)
	}
	// The status of a pod changes when its reason is written; that is no reason to try again.
	now = now.Add(time.Minute)
	changed := pod("high", 2)
	changed.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled}}
	q.add(changed)
	if got := pop(); got != "-" {
		t.Errorf("%s is tried after a change of status", got)
	}
	changed = pod("high", 2)
	changed.Labels = map[string]string{"a": "b"}
	q.add(changed)
	if got := pop(); got != "high" {
		t.Errorf("%s after a change of labels", got)
	}
}

func BenchmarkPlace(b *testing.B) {
	for _, nodes := range []int{10, 100, 1000, 5000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			s := NewState()
			for i := range nodes {
				s.SetNode(parseNode(&testing.T{}, fmt.Sprintf("n%d cpu=32 memory=64Gi pods=1000 zone=z%d", i, i%3)))
			}
			pods := make([]*v1.Pod, 1000)
			for i := range pods {
				pods[i] = parsePod(&testing.T{}, fmt.Sprintf("p%d cpu=10m memory=16Mi owner=o%d", i, i%50))
			}
			b.ResetTimer()
			for i := range b.N {
				p := pods[i%len(pods)]
				s.Assign(p, s.Place(p).Node)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
		})
	}
}
