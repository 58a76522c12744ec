package network

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gitopsd/gitopsd/internal/network/cni"
)

// proxiedNode is a node with the service proxy running against a fake API.
type proxiedNode struct {
	*testNode
	api *fake.Clientset
	log *record
}

func newProxied(t *testing.T) *proxiedNode {
	t.Helper()
	n := &proxiedNode{testNode: newNode(t), api: fake.NewClientset(), log: &record{t: t}}
	n.config.Logger = slog.New(slog.NewTextHandler(n.log, nil))
	n.config.checkPeriod = 50 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Run(ctx, n.config, n.api) }()
	t.Cleanup(func() {
		cancel()
		check(t, <-done)
	})
	return n
}

// record keeps what is logged.
type record struct {
	t  *testing.T
	mu sync.Mutex
	b  strings.Builder
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.t.Log(strings.TrimSpace(string(p)))
	return r.b.Write(p)
}

// misses returns "" when want was logged.
func (r *record) misses(want string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if strings.Contains(r.b.String(), want) {
		return ""
	}
	return fmt.Sprintf("nothing logged with %q", want)
}

func service(name, ip string, spec corev1.ServiceSpec) *corev1.Service {
	spec.ClusterIP, spec.ClusterIPs = ip, []string{ip}
	for i := range spec.Ports {
		spec.Ports[i].Name = strings.ToLower(string(spec.Ports[i].Protocol))
	}
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: spec}
}

func ports(port, nodePort int32) []corev1.ServicePort {
	return []corev1.ServicePort{{Port: port, NodePort: nodePort, Protocol: corev1.ProtocolTCP}, {Port: port, NodePort: nodePort, Protocol: corev1.ProtocolUDP}}
}

// slice lists pods as ready endpoints of a service; their port is 8080.
func slice(name string, pods ...*testPod) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, proto := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: ptr(strings.ToLower(string(proto))), Protocol: &proto, Port: ptr(int32(8080))})
	}
	for _, p := range pods {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{p.ip}, NodeName: ptr("node-a"), Conditions: discoveryv1.EndpointConditions{Ready: ptr(true)}})
	}
	return s
}

func ptr[T any](v T) *T { return &v }

func (n *proxiedNode) create(svc *corev1.Service, sl *discoveryv1.EndpointSlice) {
	n.t.Helper()
	ctx := context.Background()
	_, err := n.api.CoreV1().Services(svc.Namespace).Create(ctx, svc, metav1.CreateOptions{})
	check(n.t, err)
	_, err = n.api.DiscoveryV1().EndpointSlices(svc.Namespace).Create(ctx, sl, metav1.CreateOptions{})
	check(n.t, err)
	n.awaitRules(sl, 8080)
}

// awaitRules waits until the kernel has what a slice asks for: a packet that comes too early would be sent again only after a second.
func (n *proxiedNode) awaitRules(sl *discoveryv1.EndpointSlice, port int) {
	n.t.Helper()
	eventually(n.t, func() string {
		rules, _ := exec.Command("nft", "list", "table", "ip", n.config.Table).CombinedOutput()
		if len(sl.Endpoints) == 0 && strings.Contains(string(rules), "chain service/default/"+sl.Name) {
			return "rules without endpoints"
		}
		for _, e := range sl.Endpoints {
			at := []string{fmt.Sprintf("%s . %d", e.Addresses[0], port), fmt.Sprintf("%s:%d", e.Addresses[0], port)}
			if !strings.Contains(string(rules), at[0]) && !strings.Contains(string(rules), at[1]) {
				return "rules with " + e.Addresses[0]
			}
		}
		return ""
	})
}

func (n *proxiedNode) update(sl *discoveryv1.EndpointSlice) {
	n.t.Helper()
	n.updatePort(sl, 8080)
}

func (n *proxiedNode) updatePort(sl *discoveryv1.EndpointSlice, port int) {
	n.t.Helper()
	_, err := n.api.DiscoveryV1().EndpointSlices(sl.Namespace).Update(context.Background(), sl, metav1.UpdateOptions{})
	check(n.t, err)
	n.awaitRules(sl, port)
}

var bothNetworks = []string{"tcp4", "udp4"}

// onBothKinds runs a test without br_netfilter's calls and, where the module is there, with them.
func onBothKinds(t *testing.T, f func(t *testing.T)) {
	const setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	for _, value := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+value, func(t *testing.T) {
			needKernel(t)
			err := os.WriteFile(setting, []byte(value), 0)
			if err != nil && value == "1" {
				t.Skip("no br_netfilter:", err)
			}
			f(t)
		})
	}
}

func TestPodsReachEachOtherAndTheWorld(t *testing.T) {
	onBothKinds(t, func(t *testing.T) {
		n := newProxied(t)
		a, b := n.pod("a"), n.pod("b")
		n.outside.serve("outside", 9000)
		(*space)(nil).serveOn(t, "node", 9001)
		for _, net := range bothNetworks {
			expect(t, a.space, net, b.ip+":8080", "b "+a.ip)
			expect(t, nil, net, b.ip+":8080", "b 10.42.0.1")
			expect(t, a.space, net, "10.42.0.1:9001", "node "+a.ip)
			expect(t, a.space, net, outsideIP+":9000", "outside "+nodeIP) // masqueraded
			expect(t, n.outside, net, b.ip+":8080", "b "+outsideIP)
		}
		expect(t, a.space, "tcp4", nodeIP+":9001", "node "+a.ip)
	})
}

func TestServices(t *testing.T) {
	onBothKinds(t, func(t *testing.T) {
		n := newProxied(t)
		a, b := n.pod("a"), n.pod("b")
		n.create(service("web", "10.43.0.10", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: ports(80, 30080)}), slice("web", b))
		for _, net := range bothNetworks {
			expect(t, a.space, net, "10.43.0.10:80", "b "+a.ip)            // a pod
			expect(t, nil, net, "10.43.0.10:80", "b 10.42.0.1")            // the node
			expect(t, b.space, net, "10.43.0.10:80", "b 10.42.0.1")        // the endpoint itself
			expect(t, n.outside, net, nodeIP+":30080", "b 10.42.0.1")      // a machine outside
			expect(t, nil, net, nodeIP+":30080", "b 10.42.0.1")            // the node by its own address
			expect(t, nil, net, "127.0.0.1:30080", "b 10.42.0.1")          // and by loopback
			expect(t, a.space, net, nodeIP+":30080", "b 10.42.0.1")        // a pod by the node's address
			expect(t, b.space, net, nodeIP+":30080", "b 10.42.0.1")        // the endpoint itself by it
			expect(t, n.outside, net, "10.43.0.10:80", "b 10.42.0.1")      // outside, routed
			expect(t, a.space, net, "10.43.0.10:81", "connection refused") // not a port of it
			expect(t, a.space, net, "10.43.7.7:80", "connection refused")  // not a service
			expect(t, nil, net, "10.43.7.7:80", refusedLocally(net))
			expect(t, n.outside, net, nodeIP+":30081", "connection refused") // not a node port
			expect(t, a.space, net, "10.42.0.1:30080", "b 10.42.0.1")        // any address of the node will do
		}
		// Both endpoints get their share.
		n.update(slice("web", a, b))
		seen := map[string]bool{}
		eventually(t, func() string {
			name, _, _ := strings.Cut(a.ask("tcp4", "10.43.0.10:80"), " ")
			if seen[name] = true; seen["a"] && seen["b"] {
				return ""
			}
			return fmt.Sprint("only seen ", seen)
		})
		// Without an endpoint: refused at once, everywhere.
		n.update(slice("web"))
		for _, net := range bothNetworks {
			expect(t, a.space, net, "10.43.0.10:80", "connection refused")
			expect(t, nil, net, "10.43.0.10:80", refusedLocally(net))
			expect(t, n.outside, net, nodeIP+":30080", "connection refused")
			expect(t, nil, net, "127.0.0.1:30080", refusedLocally(net))
		}
		// Gone with the service.
		n.update(slice("web", b))
		expect(t, a.space, "tcp4", "10.43.0.10:80", "b "+a.ip)
		check(t, n.api.CoreV1().Services("default").Delete(context.Background(), "web", metav1.DeleteOptions{}))
		eventually(t, func() string {
			if rules := nftList(t, n.config.Table); strings.Contains(rules, "web") {
				return rules
			}
			return ""
		})
		expect(t, n.outside, "tcp4", nodeIP+":30080", "connection refused")
	})
}

// refusedLocally is what a program on the node gets whose packet a rule refuses: the kernel tells an unconnected UDP sender so.
func refusedLocally(network string) string {
	if network == "udp4" {
		return "operation not permitted"
	}
	return "connection refused"
}

func TestSourceAddressIsKeptByPolicyLocal(t *testing.T) {
	n := newProxied(t)
	a, b := n.pod("a"), n.pod("b")
	local := corev1.ServiceExternalTrafficPolicyLocal
	n.create(service("web", "10.43.0.10", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ExternalTrafficPolicy: local, Ports: ports(80, 30080)}), slice("web", b))
	for _, net := range bothNetworks {
		expect(t, n.outside, net, nodeIP+":30080", "b "+outsideIP)
		expect(t, a.space, net, nodeIP+":30080", "b "+a.ip)
		expect(t, nil, net, "127.0.0.1:30080", "b 10.42.0.1")
	}
}

func TestAffinity(t *testing.T) {
	n := newProxied(t)
	a, b, c := n.pod("a"), n.pod("b"), n.pod("c")
	n.create(service("web", "10.43.0.10", corev1.ServiceSpec{SessionAffinity: corev1.ServiceAffinityClientIP, Ports: ports(80, 0)}), slice("web", b, c))
	eventually(t, func() string { return notYet(a.ask("tcp4", "10.43.0.10:80"), a.ip) })
	first := a.ask("tcp4", "10.43.0.10:80")
	for range 20 {
		if got := a.ask("tcp4", "10.43.0.10:80"); got != first {
			t.Fatalf("first %q, then %q", first, got)
		}
	}
	// A table that was lost and one more endpoint change nothing for who is remembered... by a table that is there.
	n.update(slice("web", a, b, c))
	eventually(t, func() string {
		if strings.Contains(nftList(t, n.config.Table), a.ip+" . "+a.ip) {
			return ""
		}
		return "the new endpoint"
	})
	for range 20 {
		if got := a.ask("tcp4", "10.43.0.10:80"); got != first {
			t.Fatalf("first %q, then, with one more endpoint, %q", first, got)
		}
	}
	// The endpoint it stayed with goes.
	rest := b
	if strings.HasPrefix(first, "b ") {
		rest = c
	}
	n.update(slice("web", rest))
	expect(t, a.space, "tcp4", "10.43.0.10:80", rest.id+" "+a.ip)
}

func notYet(got, want string) string {
	if strings.HasSuffix(got, want) {
		return ""
	}
	return got
}

// A client that keeps its UDP port must not stay with an endpoint that is gone.
func TestStaleUDPFlows(t *testing.T) {
	n := newProxied(t)
	a, b, c := n.pod("a"), n.pod("b"), n.pod("c")
	n.create(service("dns", "10.43.0.53", corev1.ServiceSpec{Ports: ports(53, 0)}), slice("dns", b))
	expect(t, a.space, "udp4", "10.43.0.53:53", "b "+a.ip)
	flow := a.udpFlow("10.43.0.53:53")
	eventually(t, func() string { return differs(flow(), "b "+a.ip) })
	n.update(slice("dns", c))
	eventually(t, func() string { return differs(flow(), "c "+a.ip) })
	n.update(slice("dns"))
	eventually(t, func() string { return differs(flow(), "connection refused") })
	n.update(slice("dns", b))
	eventually(t, func() string { return differs(flow(), "b "+a.ip) })
}

func differs(got, want string) string {
	if got == want {
		return ""
	}
	return fmt.Sprintf("%q, not %q", got, want)
}

func TestHostPorts(t *testing.T) {
	onBothKinds(t, func(t *testing.T) {
		n := newProxied(t)
		a := n.pod("a")
		b := n.pod("b", cni.PortMapping{HostPort: 8000, ContainerPort: 8080, Protocol: "tcp"}, cni.PortMapping{HostPort: 8000, ContainerPort: 8080, Protocol: "udp"},
			cni.PortMapping{HostPort: 8001, ContainerPort: 8080, Protocol: "tcp", HostIP: nodeIP})
		for _, net := range bothNetworks {
			expect(t, n.outside, net, nodeIP+":8000", "b "+outsideIP)
			expect(t, nil, net, "127.0.0.1:8000", "b 10.42.0.1")
			expect(t, a.space, net, nodeIP+":8000", "b "+a.ip)
			expect(t, b.space, net, nodeIP+":8000", "b 10.42.0.1")
		}
		expect(t, n.outside, "tcp4", nodeIP+":8001", "b "+outsideIP)
		expect(t, nil, "tcp4", "127.0.0.1:8001", "connection refused")
		n.cni("DEL", "b", "")
		expect(t, n.outside, "tcp4", nodeIP+":8000", "connection refused")
	})
}

func TestRulesComeBack(t *testing.T) {
	n := newProxied(t)
	a, b := n.pod("a"), n.pod("b")
	n.create(service("web", "10.43.0.10", corev1.ServiceSpec{Ports: ports(80, 0)}), slice("web", b))
	expect(t, a.space, "tcp4", "10.43.0.10:80", "b "+a.ip)
	for _, damage := range []string{"flush ruleset", "delete table ip gdtest", "flush chain ip gdtest service/default/web/tcp/80",
		"delete element ip gdtest services { 10.43.0.10 . tcp . 80 }"} {
		out, err := exec.Command("nft", strings.Fields(damage)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", damage, err, out)
		}
		expect(t, a.space, "tcp4", "10.43.0.10:80", "b "+a.ip)
	}
}

func TestFirewallsOfOthersAreReported(t *testing.T) {
	n := newProxied(t)
	for _, table := range []string{
		`table ip filter { chain FORWARD { type filter hook forward priority filter; policy drop; }; chain INPUT { type filter hook input priority filter; policy drop; accept; }; }`,
		`table inet firewalld { chain filter_FORWARD { type filter hook forward priority filter; ct state established accept; counter reject with icmpx admin-prohibited; }; }`,
		`table inet harmless { chain forward { type filter hook forward priority filter; tcp dport 22 drop; }; }`,
	} {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(table)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	defer nft(t, "delete table ip filter; delete table inet firewalld; delete table inet harmless")
	for _, want := range []string{
		"forwards from and to 10.42.0.0/16 (interface gdtest0)",
		"(table ip filter, chain FORWARD: policy drop)", "(table inet firewalld, chain filter_FORWARD: last rule rejects)",
		"to this node, as to the API", "(table ip filter, chain INPUT: policy drop)",
	} {
		eventually(t, func() string { return n.log.misses(want) })
	}
	if n.log.misses("harmless") == "" {
		t.Error("a harmless chain was reported")
	}
}
