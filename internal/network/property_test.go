package network

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gitopsd/gitopsd/internal/network/cni"
)

// randomState makes services of all kinds, with clashes of addresses, ports and names as an API would not allow them.
func randomState(r *rand.Rand) State {
	s := State{Config: testConfig()}
	protos := []corev1.Protocol{"", corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP, "ICMP"}
	types := []corev1.ServiceType{"", corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName}
	one := func(list ...string) string { return list[r.IntN(len(list))] }
	for i := range r.IntN(6) {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("s", i), Namespace: one("a", "b")}}
		svc.Spec.Type = types[r.IntN(len(types))]
		svc.Spec.ClusterIP = one("10.43.0.1", "10.43.0.2", "10.43.0.3", "None", "", "fd00::1")
		if r.IntN(3) == 0 {
			svc.Spec.ExternalIPs = []string{one("203.0.113.1", "203.0.113.2", "10.43.0.1", "nonsense")}
			svc.Spec.LoadBalancerSourceRanges = []string{one("192.0.2.0/24", "0.0.0.0/0", "::/0", "nonsense")}
			svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: one("203.0.113.3", "", "fd00::2")}}
		}
		if r.IntN(3) == 0 {
			svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		}
		if r.IntN(3) == 0 {
			svc.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
		}
		if r.IntN(3) == 0 {
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
		for j := range r.IntN(3) {
			svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: one("", "x", "y"), Port: int32(80 + j), NodePort: int32(r.IntN(2) * (30000 + r.IntN(3))), Protocol: protos[r.IntN(len(protos))]})
		}
		s.Services = append(s.Services, svc)
		for k := range r.IntN(3) {
			s.Slices = append(s.Slices, randomSlice(r, svc, k))
		}
	}
	for i := range r.IntN(3) {
		s.HostPorts = append(s.HostPorts, cni.HostPorts{PodIP: netip.AddrFrom4([4]byte{10, 42, 0, byte(2 + i)}), Mappings: []cni.PortMapping{
			{HostPort: r.IntN(3) * 80, ContainerPort: 8080, Protocol: one("tcp", "UDP", "", "icmp"), HostIP: one("", "0.0.0.0", "192.0.2.1", "fd00::1", "nonsense")}}})
	}
	return s
}

func randomSlice(r *rand.Rand, svc *corev1.Service, k int) *discoveryv1.EndpointSlice {
	sl := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(svc.Name, "-", k), Namespace: svc.Namespace,
		Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}}, AddressType: discoveryv1.AddressTypeIPv4}
	for _, p := range svc.Spec.Ports {
		sl.Ports = append(sl.Ports, discoveryv1.EndpointPort{Name: ptr(p.Name), Protocol: ptr(p.Protocol), Port: ptr(int32(8080 + r.IntN(2)))})
	}
	for range r.IntN(4) {
		e := discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.42.%d.%d", r.IntN(2), 2+r.IntN(4))}, NodeName: ptr([]string{"node-a", "node-b"}[r.IntN(2)])}
		for _, c := range []**bool{&e.Conditions.Ready, &e.Conditions.Serving, &e.Conditions.Terminating} {
			if r.IntN(2) == 0 {
				*c = ptr(r.IntN(2) == 0)
			}
		}
		sl.Endpoints = append(sl.Endpoints, e)
	}
	return sl
}

// Of any state: what is referred to exists, nothing is there twice, order of input does not matter, and nothing that clients may reach
// leads to an endpoint that gets no traffic.
func TestRulesAreSound(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := randomState(r)
		rules := s.Rules()
		if problem := unsound(rules); problem != "" {
			t.Fatalf("seed %d: %s\n%s", seed, problem, rules)
		}
		r.Shuffle(len(s.Services), func(i, j int) { s.Services[i], s.Services[j] = s.Services[j], s.Services[i] })
		r.Shuffle(len(s.Slices), func(i, j int) { s.Slices[i], s.Slices[j] = s.Slices[j], s.Slices[i] })
		r.Shuffle(len(s.HostPorts), func(i, j int) { s.HostPorts[i], s.HostPorts[j] = s.HostPorts[j], s.HostPorts[i] })
		if again := s.Rules(); again.String() != rules.String() {
			t.Fatalf("seed %d: another order of input gives\n%s\nnot\n%s", seed, again, rules)
		}
		usable := map[string]bool{}
		for _, p := range s.servicePorts() {
			for _, e := range slices.Concat(p.all, p.local) {
				usable[e.String()] = true
			}
		}
		for _, c := range rules.Chains {
			for _, rule := range c.Rules {
				for _, part := range rule {
					if to, ok := part.(toOneOf); ok {
						for _, e := range to.endpoints {
							if !usable[e.String()] {
								t.Fatalf("seed %d: %s gets traffic\n%s", seed, e, rules)
							}
						}
					}
				}
			}
		}
	}
}

// unsound returns what is wrong with a ruleset in itself.
func unsound(r Ruleset) string {
	chains, sets := map[string]bool{}, map[string]bool{}
	for _, c := range r.Chains {
		if chains[c.Name] {
			return "two chains " + c.Name
		}
		chains[c.Name] = true
	}
	for _, s := range r.Sets {
		if sets[s.Name] {
			return "two sets " + s.Name
		}
		sets[s.Name] = true
		keys := map[Key]bool{}
		for _, e := range s.Elements {
			if keys[e.Key] {
				return fmt.Sprintf("two elements %s in %s", e.Key, s.Name)
			}
			keys[e.Key] = true
			if e.Chain != "" && !chains[e.Chain] {
				return "no chain " + e.Chain
			}
		}
	}
	for _, c := range r.Chains {
		for word := range strings.FieldsSeq(c.String()) {
			if set, ok := strings.CutPrefix(word, "@"); ok && !sets[set] {
				return "no set " + set
			}
		}
		for _, rule := range c.Rules {
			for _, part := range rule {
				if v, ok := part.(verdict); ok && v.word == "goto" && !chains[v.chain] {
					return "no chain " + v.chain
				}
			}
		}
	}
	return ""
}

// Through any states the kernel follows, and has what nft makes of the text.
func TestKernelFollowsAnyStates(t *testing.T) {
	needKernel(t)
	tab, err := newTable(testConfig().Table)
	check(t, err)
	defer func() { check(t, tab.remove()) }()
	for seed := range uint64(60) {
		rules := randomState(rand.New(rand.NewPCG(seed, 2))).Rules()
		if _, err := tab.apply(rules); err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, rules)
		}
		ours := sorted(nftList(t, rules.Table))
		mirror := rules
		mirror.Table = "gdmirror"
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(mirror.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("seed %d: %v\n%s\n%s", seed, err, out, mirror)
		}
		theirs := sorted(nftList(t, mirror.Table))
		nft(t, "delete", "table", "ip", mirror.Table)
		if ours != theirs {
			t.Fatalf("seed %d: the kernel has\n%s\nnft makes\n%s", seed, ours, theirs)
		}
	}
}
