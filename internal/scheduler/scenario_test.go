package scheduler

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestScenarios runs the stories of testdata. A story is told in these words:
//
//	nodes                 one node a line, with its properties; a node that is there changes
//	place                 one pod a line; prints where each goes, and counts it there
//	gone  POD...          pods that are deleted
//	lost  NODE...         nodes that are deleted
//	namespace NAME label=k=v
//
// Properties of nodes: cpu= memory= pods= (110 by default), any resource by its name with a slash, label=k=v,
// zone=, taint=k=v:Effect, cordoned. Of pods: cpu= memory=, resources with a slash, init.cpu= (an init container),
// sidecar.cpu=, overhead.cpu=, label=k=v, select=k=v, affinity=k=v|v2 (required), name=a|b (required, by node name),
// prefer=WEIGHT:k=v, tolerate=k=v:Effect, port=N[/UDP][@ip], priority=, age=SECONDS, owner=, on=NODE (there
// already), near=k=v@topologyKey, apart=k=v@topologyKey, spread=SKEW:k=v@topologyKey, gated, ending, done.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := NewState()
		pods := map[string]*v1.Pod{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "nodes":
				for _, line := range lines(d.Input) {
					s.SetNode(parseNode(t, line))
				}
			case "namespace":
				s.SetNamespace(d.CmdArgs[0].Key, pairs(d.CmdArgs[1].Vals))
			case "gone":
				for _, a := range d.CmdArgs {
					s.Release(pods[a.Key].UID)
				}
			case "lost":
				for _, a := range d.CmdArgs {
					s.RemoveNode(a.Key)
				}
			case "place":
				return place(t, s, pods, d.Input)
			default:
				d.Fatalf(t, "unknown word %q", d.Cmd)
			}
			return ""
		})
	})
}

func place(t *testing.T, s *State, pods map[string]*v1.Pod, input string) string {
	q := newQueue()
	for _, line := range lines(input) {
		p := parsePod(t, line)
		pods[p.Name] = p
		switch {
		case over(p):
		case p.Spec.NodeName != "":
			s.Assign(p, p.Spec.NodeName)
		case waits(p):
			q.add(p)
		}
	}
	var out strings.Builder
	for w, _ := q.pop(time.Time{}); w != nil; w, _ = q.pop(time.Time{}) {
		d := s.place(w.pod)
		if d.Node != "" {
			s.assign(w.pod, d.Node)
		}
		fmt.Fprintln(&out, strings.TrimPrefix(d.String(), "default/"))
	}
	return out.String()
}

func lines(input string) []string {
	var out []string
	for _, l := range strings.Split(input, "\n") {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "#") {
			out = append(out, l)
		}
	}
	return out
}

func pairs(in []string) map[string]string {
	out := map[string]string{}
	for _, kv := range in {
		k, v, _ := strings.Cut(kv, "=")
		out[k] = v
	}
	return out
}

func parseNode(t *testing.T, line string) *v1.Node {
	words := strings.Fields(line)
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: words[0], Labels: map[string]string{v1.LabelHostname: words[0]}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{v1.ResourcePods: resource.MustParse("110")}}}
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "cordoned":
			n.Spec.Unschedulable = true
		case "label":
			k, v, _ := strings.Cut(value, "=")
			n.Labels[k] = v
		case "zone":
			n.Labels[v1.LabelTopologyZone] = value
		case "taint":
			n.Spec.Taints = append(n.Spec.Taints, parseTaint(value))
		default:
			n.Status.Allocatable[v1.ResourceName(key)] = quantity(t, value)
		}
	}
	return n
}

func quantity(t *testing.T, s string) resource.Quantity {
	t.Helper()
	q, err := resource.ParseQuantity(s)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return q
}

func parseTaint(s string) v1.Taint {
	kv, effect, _ := strings.Cut(s, ":")
	k, v, _ := strings.Cut(kv, "=")
	return v1.Taint{Key: k, Value: v, Effect: v1.TaintEffect(effect)}
}

func parsePod(t *testing.T, line string) *v1.Pod {
	words := strings.Fields(line)
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: words[0], UID: types.UID(words[0]), Labels: map[string]string{}}}
	p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{}, PodAffinity: &v1.PodAffinity{}, PodAntiAffinity: &v1.PodAntiAffinity{}}
	p.Spec.Containers = []v1.Container{{Name: "main", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{}}}}
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		if !parseWish(t, p, key, value) && !parseRelation(t, p, key, value) {
			p.Spec.Containers[0].Resources.Requests[v1.ResourceName(key)] = quantity(t, value)
		}
	}
	return p
}

// parseWish knows the words about the pod itself.
func parseWish(t *testing.T, p *v1.Pod, key, value string) bool {
	always := v1.ContainerRestartPolicyAlways
	list := func(name string) v1.ResourceList {
		return v1.ResourceList{v1.ResourceName(name): quantity(t, value)}
	}
	kind, name, _ := strings.Cut(key, ".")
	switch {
	case kind == "init" && name != "":
		p.Spec.InitContainers = append(p.Spec.InitContainers, v1.Container{Resources: v1.ResourceRequirements{Requests: list(name)}})
	case kind == "sidecar" && name != "":
		p.Spec.InitContainers = append(p.Spec.InitContainers, v1.Container{RestartPolicy: &always, Resources: v1.ResourceRequirements{Requests: list(name)}})
	case kind == "overhead" && name != "":
		p.Spec.Overhead = list(name)
	case key == "namespace":
		p.Namespace = value
	case key == "label":
		k, v, _ := strings.Cut(value, "=")
		p.Labels[k] = v
	case key == "priority":
		n, _ := strconv.Atoi(value)
		n32 := int32(n)
		p.Spec.Priority = &n32
	case key == "age":
		n, _ := strconv.Atoi(value)
		p.CreationTimestamp = metav1.NewTime(time.Unix(1_000_000-int64(n), 0))
	case key == "owner":
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(value), Controller: &yes}}
	case key == "port":
		p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, parsePort(value))
	case key == "on":
		p.Spec.NodeName = value
	case key == "gated":
		p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "x"}}
	case key == "ending":
		now := metav1.Now()
		p.DeletionTimestamp = &now
	case key == "done":
		p.Status.Phase = v1.PodSucceeded
	default:
		return false
	}
	return true
}

func parsePort(s string) v1.ContainerPort {
	s, ip, _ := strings.Cut(s, "@")
	number, protocol, _ := strings.Cut(s, "/")
	n, _ := strconv.Atoi(number)
	return v1.ContainerPort{HostPort: int32(n), HostIP: ip, Protocol: v1.Protocol(protocol)}
}

// parseRelation knows the words about nodes and other pods.
func parseRelation(t *testing.T, p *v1.Pod, key, value string) bool {
	a := p.Spec.Affinity
	what, topology, _ := strings.Cut(value, "@")
	term := func() v1.PodAffinityTerm {
		return v1.PodAffinityTerm{TopologyKey: topology, LabelSelector: &metav1.LabelSelector{MatchLabels: pairs([]string{what})}}
	}
	required := func(t v1.NodeSelectorTerm) {
		if a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
			a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &v1.NodeSelector{}
		}
		r := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		r.NodeSelectorTerms = append(r.NodeSelectorTerms, t)
	}
	in := func(s string) v1.NodeSelectorRequirement {
		k, v, _ := strings.Cut(s, "=")
		return v1.NodeSelectorRequirement{Key: k, Operator: v1.NodeSelectorOpIn, Values: strings.Split(v, "|")}
	}
	weight, rest, _ := strings.Cut(what, ":")
	n, _ := strconv.Atoi(weight)
	switch key {
	case "select":
		p.Spec.NodeSelector = pairs([]string{value})
	case "affinity":
		required(v1.NodeSelectorTerm{MatchExpressions: []v1.NodeSelectorRequirement{in(value)}})
	case "name":
		required(v1.NodeSelectorTerm{MatchFields: []v1.NodeSelectorRequirement{in("metadata.name=" + value)}})
	case "prefer":
		a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution,
			v1.PreferredSchedulingTerm{Weight: int32(n), Preference: v1.NodeSelectorTerm{MatchExpressions: []v1.NodeSelectorRequirement{in(rest)}}})
	case "tolerate":
		taint := parseTaint(value)
		tol := v1.Toleration{Key: taint.Key, Operator: v1.TolerationOpEqual, Value: taint.Value, Effect: taint.Effect}
		if taint.Value == "" {
			tol.Operator = v1.TolerationOpExists
		}
		p.Spec.Tolerations = append(p.Spec.Tolerations, tol)
	case "near":
		a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, term())
	case "apart":
		a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, term())
	case "spread":
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, v1.TopologySpreadConstraint{
			MaxSkew: int32(n), TopologyKey: topology, WhenUnsatisfiable: v1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: pairs([]string{rest})}})
	default:
		return false
	}
	return true
}
