package scheduler

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/names"
	schedruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/metrics"
)

var (
	seed  = flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the random clusters")
	cases = flag.Int("cases", 300, "random clusters to compare with kube-scheduler")
)

// ours are the plugins of kube-scheduler's default profile whose rules this scheduler has.
var ours = []string{
	names.NodeUnschedulable, names.NodeName, names.TaintToleration, names.NodeAffinity, names.NodePorts,
	names.NodeResourcesFit, names.PodTopologySpread, names.InterPodAffinity,
}

// TestOracle asks kube-scheduler's own plugins about random clusters. Feasible nodes, and the message for a pod
// that has none, must be the same.
func TestOracle(t *testing.T) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	metrics.Register()
	t.Logf("go test -run TestOracle -seed %d -cases %d", *seed, *cases)
	var asked, refused int
	for i := range *cases {
		rng := rand.New(rand.NewPCG(*seed, uint64(i)))
		snap := randomSnapshot(rng)
		asked, refused = compare(t, snap, i, asked, refused)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d pods compared, %d of them had no node", asked, refused)
	if *cases >= 100 && (refused < asked/10 || refused > asked*9/10) {
		t.Errorf("the clusters are not interesting: %d of %d pods have no node", refused, asked)
	}
}

func compare(t *testing.T, snap Snapshot, number, asked, refused int) (int, int) {
	s := NewState()
	for name, l := range snap.Namespaces {
		s.SetNamespace(name, l)
	}
	for _, n := range snap.Nodes {
		s.SetNode(n)
	}
	var placed, waiting []*v1.Pod
	for _, p := range snap.Pods {
		if p.Spec.NodeName != "" {
			placed = append(placed, p)
			s.Assign(p, p.Spec.NodeName)
		} else {
			waiting = append(waiting, p)
		}
	}
	k := newKube(t, snap, placed)
	for _, p := range waiting {
		asked++
		feasible, message := k.ask(t, p)
		d := s.Place(p)
		got := fmt.Sprintf("%d feasible, %q", d.Feasible, unnamed(d.Message()))
		want := fmt.Sprintf("%d feasible, %q", len(feasible), message)
		if got != want || d.Node != "" && !feasible[d.Node] {
			t.Errorf("cluster %d, pod %s:\nours %s on %q\nkube %s %v\npod %+v", number, p.Name, got, d.Node, want, feasible, p.Spec)
		}
		if len(feasible) == 0 {
			refused++
		}
	}
	return asked, refused
}

// unnamed takes the taint's name out of our message, which kube-scheduler no longer tells.
func unnamed(message string) string {
	const text = "node(s) had untolerated taint"
	head, tail, ok := strings.Cut(message, ": ")
	if !ok {
		return message
	}
	counts := map[string]int{}
	for _, part := range strings.Split(strings.TrimSuffix(tail, "."), ", ") {
		var n int
		fmt.Sscan(part, &n)
		_, reason, _ := strings.Cut(part, " ")
		if strings.HasPrefix(reason, text) {
			reason = text + "(s)"
		}
		counts[reason] += n
	}
	parts := make([]string, 0, len(counts))
	for reason, n := range counts {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	return head + ": " + strings.Join(parts, ", ") + "."
}

// kube is kube-scheduler's framework around a snapshot.
type kube struct {
	framework.Framework
	nodes []fwk.NodeInfo
}

func newKube(t *testing.T, snap Snapshot, placed []*v1.Pod) *kube {
	t.Helper()
	var objects []runtime.Object
	for name, l := range snap.Namespaces {
		objects = append(objects, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: l}})
	}
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	for _, o := range objects {
		if err := factory.Core().V1().Namespaces().Informer().GetIndexer().Add(o); err != nil {
			t.Fatal(err)
		}
	}
	profile := &config.KubeSchedulerProfile{SchedulerName: v1.DefaultSchedulerName, Plugins: &config.Plugins{
		QueueSort: config.PluginSet{Enabled: []config.Plugin{{Name: names.PrioritySort}}},
		Bind:      config.PluginSet{Enabled: []config.Plugin{{Name: names.DefaultBinder}}},
	}}
	defaults, err := latest.Default()
	if err != nil {
		t.Fatal(err)
	}
	profile.PluginConfig = defaults.Profiles[0].PluginConfig
	for _, name := range ours {
		// NodeName and NodeUnschedulable have no PreFilter; the framework refuses a plugin for a point it is not for.
		if name != names.NodeName && name != names.NodeUnschedulable && name != names.TaintToleration {
			profile.Plugins.PreFilter.Enabled = append(profile.Plugins.PreFilter.Enabled, config.Plugin{Name: name})
		}
		profile.Plugins.Filter.Enabled = append(profile.Plugins.Filter.Enabled, config.Plugin{Name: name})
	}
	snapshot := cache.NewSnapshot(placed, snap.Nodes)
	f, err := schedruntime.NewFramework(t.Context(), plugins.NewInTreeRegistry(), profile,
		schedruntime.WithSnapshotSharedLister(snapshot), schedruntime.WithInformerFactory(factory), schedruntime.WithClientSet(client))
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := snapshot.NodeInfos().List()
	if err != nil {
		t.Fatal(err)
	}
	return &kube{f, nodes}
}

// ask does what schedulePod does up to the scores (pkg/scheduler/schedule_one.go, findNodesThatFitPod).
func (k *kube) ask(t *testing.T, p *v1.Pod) (map[string]bool, string) {
	t.Helper()
	if len(k.nodes) == 0 {
		return nil, "no nodes available to schedule pods"
	}
	ctx := context.Background()
	state := framework.NewCycleState()
	fit := framework.FitError{Pod: p, NumAllNodes: len(k.nodes), Diagnosis: framework.Diagnosis{NodeToStatus: framework.NewDefaultNodeToStatus()}}
	pre, status, rejectors := k.RunPreFilterPlugins(ctx, state, p)
	if !status.IsSuccess() {
		t.Fatalf("PreFilter: %v", status)
	}
	feasible := map[string]bool{}
	if !pre.AllNodes() {
		fit.Diagnosis.NodeToStatus.SetAbsentNodesStatus(fwk.NewStatus(fwk.UnschedulableAndUnresolvable, fmt.Sprintf("node(s) didn't satisfy plugin(s) %v", slices.Sorted(slices.Values(rejectors.UnsortedList())))))
	}
	for _, n := range k.nodes {
		name := n.Node().Name
		if !pre.AllNodes() && !pre.NodeNames.Has(name) {
			continue
		}
		if status := k.RunFilterPlugins(ctx, state, p, n); status.IsSuccess() {
			feasible[name] = true
		} else {
			fit.Diagnosis.NodeToStatus.Set(name, status)
		}
	}
	if len(feasible) > 0 {
		return feasible, ""
	}
	return nil, fit.Error()
}

// randomSnapshot makes clusters small enough that every rule bites now and then.
func randomSnapshot(rng *rand.Rand) Snapshot {
	g := &generator{rng}
	snap := Snapshot{Namespaces: map[string]map[string]string{"n1": {"team": "a"}, "n2": {"team": "b"}}}
	nodes := rng.IntN(6)
	for i := range nodes {
		snap.Nodes = append(snap.Nodes, g.node(i))
	}
	for i := range rng.IntN(12) {
		p := g.pod(fmt.Sprintf("placed-%d", i))
		if nodes > 0 {
			p.Spec.NodeName = fmt.Sprintf("node-%d", rng.IntN(nodes))
			snap.Pods = append(snap.Pods, p)
		}
	}
	for i := range 1 + rng.IntN(6) {
		snap.Pods = append(snap.Pods, g.pod(fmt.Sprintf("waiting-%d", i)))
	}
	return snap
}

type generator struct{ *rand.Rand }

func (g *generator) maybe(percent int) bool { return g.IntN(100) < percent }

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

func (g *generator) node(i int) *v1.Node {
	name := fmt.Sprintf("node-%d", i)
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"disk": pick(g, "ssd", "hdd"), "size": pick(g, "1", "5", "10")}}}
	if g.maybe(90) {
		n.Labels[v1.LabelHostname] = name
	}
	if g.maybe(80) {
		n.Labels[v1.LabelTopologyZone] = pick(g, "z1", "z2")
	}
	n.Status.Allocatable = v1.ResourceList{
		v1.ResourceCPU: *resource.NewMilliQuantity(int64(500+g.IntN(3000)), resource.DecimalSI), v1.ResourceMemory: *resource.NewQuantity(int64(1+g.IntN(8))<<29, resource.BinarySI),
		v1.ResourcePods: *resource.NewQuantity(int64(1+g.IntN(8)), resource.DecimalSI), v1.ResourceEphemeralStorage: *resource.NewQuantity(int64(1+g.IntN(4))<<30, resource.BinarySI),
	}
	if g.maybe(40) {
		n.Status.Allocatable["example.com/gpu"] = *resource.NewQuantity(int64(g.IntN(3)), resource.DecimalSI)
		n.Status.Allocatable["hugepages-2Mi"] = *resource.NewQuantity(int64(g.IntN(3))<<21, resource.BinarySI)
	}
	n.Spec.Unschedulable = g.maybe(10)
	for g.maybe(25) {
		n.Spec.Taints = append(n.Spec.Taints, v1.Taint{Key: pick(g, "k1", "k2"), Value: pick(g, "", "v1", "v2"),
			Effect: pick(g, v1.TaintEffectNoSchedule, v1.TaintEffectNoExecute, v1.TaintEffectPreferNoSchedule)})
	}
	return n
}

func (g *generator) requests() v1.ResourceRequirements {
	r := v1.ResourceList{}
	if g.maybe(70) {
		r[v1.ResourceCPU] = *resource.NewMilliQuantity(int64(g.IntN(1200)), resource.DecimalSI)
	}
	if g.maybe(60) {
		r[v1.ResourceMemory] = *resource.NewQuantity(int64(g.IntN(4))<<28, resource.BinarySI)
	}
	if g.maybe(15) {
		r[v1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(g.IntN(4))<<29, resource.BinarySI)
	}
	if g.maybe(10) {
		r["example.com/gpu"] = *resource.NewQuantity(int64(g.IntN(2)), resource.DecimalSI)
	}
	if g.maybe(5) {
		r["hugepages-2Mi"] = *resource.NewQuantity(2<<20, resource.BinarySI)
	}
	return v1.ResourceRequirements{Requests: r}
}

func (g *generator) pod(name string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Namespace: pick(g, "n1", "n2"), Labels: map[string]string{"app": pick(g, "a", "b", "c"), "rev": pick(g, "1", "2")}}}
	always := v1.ContainerRestartPolicyAlways
	for range 1 + g.IntN(2) {
		c := v1.Container{Resources: g.requests()}
		if g.maybe(15) {
			c.Ports = []v1.ContainerPort{{HostPort: pick[int32](g, 80, 443), HostIP: pick(g, "", "0.0.0.0", "127.0.0.1"), Protocol: pick(g, v1.ProtocolTCP, v1.ProtocolUDP)}}
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	for g.maybe(20) {
		c := v1.Container{Resources: g.requests()}
		if g.maybe(50) {
			c.RestartPolicy = &always
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
	if g.maybe(10) {
		p.Spec.Overhead = g.requests().Requests
	}
	if g.maybe(10) {
		now := metav1.Now()
		p.DeletionTimestamp = &now
	}
	for g.maybe(25) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, v1.Toleration{Key: pick(g, "k1", "k2", ""), Operator: pick(g, v1.TolerationOpEqual, v1.TolerationOpExists),
			Value: pick(g, "", "v1"), Effect: pick(g, "", v1.TaintEffectNoSchedule, v1.TaintEffectNoExecute)})
	}
	if g.maybe(10) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, v1.Toleration{Key: v1.TaintNodeUnschedulable, Operator: v1.TolerationOpExists})
	}
	g.relations(p)
	return p
}

func (g *generator) relations(p *v1.Pod) {
	if g.maybe(20) {
		p.Spec.NodeSelector = map[string]string{"disk": pick(g, "ssd", "hdd", "tape")}
	}
	p.Spec.Affinity = &v1.Affinity{}
	if g.maybe(20) {
		required := &v1.NodeSelector{}
		for range 1 + g.IntN(2) {
			required.NodeSelectorTerms = append(required.NodeSelectorTerms, g.nodeTerm())
		}
		p.Spec.Affinity.NodeAffinity = &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: required}
	}
	if g.maybe(12) {
		p.Spec.Affinity.PodAffinity = &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: g.podTerms()}
	}
	if g.maybe(12) {
		p.Spec.Affinity.PodAntiAffinity = &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: g.podTerms()}
	}
	for g.maybe(15) {
		c := v1.TopologySpreadConstraint{MaxSkew: int32(1 + g.IntN(2)), TopologyKey: pick(g, v1.LabelHostname, v1.LabelTopologyZone),
			WhenUnsatisfiable: pick(g, v1.DoNotSchedule, v1.ScheduleAnyway), LabelSelector: g.selector()}
		if g.maybe(30) {
			c.MatchLabelKeys = []string{"rev"}
		}
		if g.maybe(30) {
			two := int32(2)
			c.MinDomains, c.WhenUnsatisfiable = &two, v1.DoNotSchedule
		}
		if g.maybe(30) {
			policy := pick(g, v1.NodeInclusionPolicyHonor, v1.NodeInclusionPolicyIgnore)
			c.NodeTaintsPolicy, c.NodeAffinityPolicy = &policy, &policy
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
}

func (g *generator) nodeTerm() v1.NodeSelectorTerm {
	var t v1.NodeSelectorTerm
	if g.maybe(30) {
		t.MatchFields = []v1.NodeSelectorRequirement{{Key: "metadata.name", Operator: pick(g, v1.NodeSelectorOpIn, v1.NodeSelectorOpNotIn), Values: []string{fmt.Sprintf("node-%d", g.IntN(4))}}}
	}
	for g.maybe(60) {
		r := v1.NodeSelectorRequirement{Key: pick(g, "disk", "size", v1.LabelTopologyZone), Operator: pick(g, v1.NodeSelectorOpIn, v1.NodeSelectorOpNotIn, v1.NodeSelectorOpExists, v1.NodeSelectorOpDoesNotExist)}
		if r.Operator == v1.NodeSelectorOpIn || r.Operator == v1.NodeSelectorOpNotIn {
			r.Values = []string{pick(g, "ssd", "hdd", "z1", "5")}
		}
		if r.Key == "size" && g.maybe(50) {
			r.Operator, r.Values = pick(g, v1.NodeSelectorOpGt, v1.NodeSelectorOpLt), []string{"4"}
		}
		t.MatchExpressions = append(t.MatchExpressions, r)
	}
	return t
}

func (g *generator) selector() *metav1.LabelSelector {
	switch g.IntN(4) {
	case 0:
		return nil
	case 1:
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: pick(g, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn), Values: []string{"a", "b"}}}}
	}
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(g, "a", "b")}}
}

func (g *generator) podTerms() []v1.PodAffinityTerm {
	var terms []v1.PodAffinityTerm
	for range 1 + g.IntN(2) {
		t := v1.PodAffinityTerm{TopologyKey: pick(g, v1.LabelHostname, v1.LabelTopologyZone), LabelSelector: g.selector()}
		if g.maybe(20) {
			t.Namespaces = []string{pick(g, "n1", "n2", "none")}
		}
		if g.maybe(20) {
			t.NamespaceSelector = pick(g, &metav1.LabelSelector{}, &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}})
		}
		terms = append(terms, t)
	}
	return terms
}
