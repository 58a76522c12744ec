package network

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
)

// echo serves lines on a port: every connection gets back what it sends.
func (s *space) echo(port int) {
	s.do(func() {
		l, err := net.Listen("tcp4", fmt.Sprintf(":%d", port))
		check(s.t, err)
		s.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					_, _ = io.Copy(c, c)
					c.Close()
				}()
			}
		}()
	})
}

// connect opens a connection and returns a function that sends a line over it and tells whether it comes back.
func (s *space) connect(address string) func() error {
	s.t.Helper()
	var c net.Conn
	s.do(func() {
		var err error
		c, err = net.DialTimeout("tcp4", address, 5*time.Second)
		check(s.t, err)
	})
	s.t.Cleanup(func() { c.Close() })
	return func() error {
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		if _, err := io.WriteString(c, "ping"); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 4))
		return err
	}
}

// A connection goes on when its endpoint is taken out of the service, when there is none left, when the rules are lost and written anew, and
// when another process writes them.
func TestConnectionsGoOn(t *testing.T) {
	onBothKinds(t, func(t *testing.T) {
		n := newProxied(t)
		a, b, c := n.pod("a"), n.pod("b"), n.pod("c")
		b.echo(9090)
		c.echo(9090)
		only := func(pods ...*testPod) {
			t.Helper()
			sl := slice("echo", pods...)
			for i := range sl.Ports {
				sl.Ports[i].Port = ptr(int32(9090))
			}
			n.updatePort(sl, 9090)
		}
		n.create(service("echo", "10.43.0.20", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: ports(7, 30007)}), slice("echo", b))
		only(b)
		pings := map[string]func() error{
			"a pod":             a.connect("10.43.0.20:7"),
			"the endpoint":      b.connect("10.43.0.20:7"),
			"a machine outside": n.outside.connect(nodeIP + ":30007"),
			"the node":          (&space{t: t}).connect("10.43.0.20:7"),
			"loopback":          (&space{t: t}).connect("127.0.0.1:30007"),
		}
		all := func(when string) {
			t.Helper()
			for who, ping := range pings {
				if err := ping(); err != nil {
					t.Errorf("%s, %s: %v", when, who, err)
				}
			}
		}
		all("at first")
		only(b, c)
		all("with a second endpoint")
		only(c)
		all("with another endpoint only")
		only()
		all("without an endpoint")
		other, err := newTable(n.config.Table)
		check(t, err)
		_, err = other.apply(State{Config: n.config}.Rules())
		check(t, err)
		all("written by another process")
	})
}

// A table that is written anew, by the same process or another one, remembers clients.
func TestAffinityOutlivesTheTable(t *testing.T) {
	needKernel(t)
	s := State{Config: testConfig()}
	svc := service("web", "10.43.0.10", corev1.ServiceSpec{SessionAffinity: corev1.ServiceAffinityClientIP, Ports: ports(80, 0)})
	s.Services = append(s.Services, svc)
	s.Slices = append(s.Slices, slice("web", &testPod{ip: "10.42.0.5"}, &testPod{ip: "10.42.0.6"}))
	first, err := newTable(s.Table)
	check(t, err)
	defer func() { check(t, first.remove()) }()
	_, err = first.apply(s.Rules())
	check(t, err)
	set := Set{Name: "clients/default/web/tcp/80/10.42.0.5/8080"}
	nft(t, "add", "element", "ip", s.Table, set.Name, "{ 10.42.0.9 timeout 1h }")
	second, err := newTable(s.Table)
	check(t, err)
	_, err = second.apply(s.Rules())
	check(t, err)
	if list := nftList(t, s.Table); !strings.Contains(list, "10.42.0.9 timeout 1h") {
		t.Errorf("forgotten:\n%s", list)
	}
	s.Slices[0].Endpoints = s.Slices[0].Endpoints[1:]
	_, err = second.apply(s.Rules())
	check(t, err)
	if list := nftList(t, s.Table); strings.Contains(list, "10.42.0.9") {
		t.Errorf("remembered for an endpoint that is gone:\n%s", list)
	}
}

// A pod that may change its own routes must not reach what listens on the node's loopback only.
func TestPodsDoNotReachLoopback(t *testing.T) {
	n := newNode(t)
	a := n.pod("a")
	check(t, write("/proc/sys/net/ipv4/conf/"+n.config.Bridge+"/route_localnet", "1"))
	var toLoopback, toBridge net.Conn
	a.do(func() {
		check(t, write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1"))
		lo := netip.MustParsePrefix("127.0.0.0/8")
		for _, local := range []netip.Prefix{lo, netip.MustParsePrefix("127.0.0.1/32")} {
			check(t, netlink.RouteDel(&netlink.Route{LinkIndex: 1, Dst: ipNet(local), Table: 255, Type: 2, Scope: netlink.SCOPE_HOST}))
		}
		check(t, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("10.42.0.1"), Dst: ipNet(lo), Flags: int(netlink.FLAG_ONLINK),
			LinkIndex: mustLink(t, "eth0").Attrs().Index, Src: net.ParseIP(a.ip)}))
		var err error
		toLoopback, err = net.Dial("udp4", "127.0.0.1:9999")
		check(t, err)
		toBridge, err = net.Dial("udp4", "10.42.0.1:9999")
		check(t, err)
	})
	defer toLoopback.Close()
	defer toBridge.Close()
	server, err := net.ListenPacket("udp4", ":9999")
	check(t, err)
	defer server.Close()
	receive := func() string {
		buf := make([]byte, 16)
		size, _, err := server.ReadFrom(buf)
		check(t, err)
		return string(buf[:size])
	}
	first := func() string { // of two packets of the pod; they come in the order in which they were sent, if they come
		_, err := io.WriteString(toLoopback, "loopback")
		check(t, err)
		_, err = io.WriteString(toBridge, "bridge")
		check(t, err)
		return receive()
	}
	if got := first(); got != "loopback" {
		t.Fatalf("without our rule the first packet is the one to %s: this test would see nothing", got)
	}
	if got := receive(); got != "bridge" {
		t.Fatalf("the second packet is the one to %s", got)
	}
	tab, err := newTable(n.config.Table)
	check(t, err)
	_, err = tab.apply(State{Config: n.config}.Rules())
	check(t, err)
	if got := first(); got != "bridge" {
		t.Errorf("with our rules the first packet is the one to %s", got)
	}
}

// Two instances on one machine do not disturb each other.
func TestTwoInstances(t *testing.T) {
	one := newProxied(t)
	a, b := one.pod("a"), one.pod("b")
	one.create(service("web", "10.43.0.10", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: ports(80, 30080)}), slice("web", b))
	two := State{Config: one.config}
	two.Bridge, two.Table, two.DataDir, two.CNIConfDir = "gdother0", "gdother", t.TempDir(), t.TempDir()
	two.PodCIDR, two.ClusterCIDR, two.ServiceCIDR = netip.MustParsePrefix("10.52.0.0/24"), netip.MustParsePrefix("10.52.0.0/16"), netip.MustParsePrefix("10.53.0.0/16")
	check(t, EnsureNode(two.Config))
	defer func() { check(t, Remove(two.Config)) }()
	other := &testNode{t: t, config: two.Config, outside: one.outside}
	c := other.pod("c")
	two.Services = append(two.Services, service("web", "10.53.0.10", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: ports(80, 30081)}))
	two.Slices = append(two.Slices, slice("web", c))
	tab, err := newTable(two.Table)
	check(t, err)
	_, err = tab.apply(two.Rules())
	check(t, err)
	expect(t, a.space, "tcp4", "10.43.0.10:80", "b "+a.ip)
	expect(t, c.space, "tcp4", "10.53.0.10:80", "c 10.52.0.1")
	expect(t, one.outside, "tcp4", nodeIP+":30080", "b 10.42.0.1")
	expect(t, one.outside, "tcp4", nodeIP+":30081", "c 10.52.0.1")
	expect(t, c.space, "tcp4", nodeIP+":30080", "b 10.42.0.1")
	check(t, Remove(two.Config))
	expect(t, a.space, "tcp4", "10.43.0.10:80", "b "+a.ip)
}

// What the node says to itself is no service's traffic, even where the node's own address is an endpoint, as it is of the service of the
// API: connections of before go on, and those that follow keep their port. By the service's address it is reached all the same.
func TestTheNodesOwnConnectionsAreLeftAlone(t *testing.T) {
	onBothKinds(t, func(t *testing.T) {
		n, node := newProxied(t), &space{t: t}
		node.echo(8080)
		before := node.connect(nodeIP + ":8080")
		n.create(service("api", "10.43.0.1", corev1.ServiceSpec{Ports: ports(443, 0)}), slice("api", &testPod{ip: nodeIP}))
		check(t, node.connect("10.43.0.1:443")())
		check(t, netlink.ConntrackTableFlush(netlink.ConntrackTable)) // as if nothing had been tracked before
		if err := before(); err != nil {
			t.Errorf("a connection of before: %v", err)
		}
		l, err := net.Listen("tcp4", nodeIP+":0")
		check(t, err)
		defer l.Close()
		c, err := net.Dial("tcp4", l.Addr().String())
		check(t, err)
		defer c.Close()
		s, err := l.Accept()
		check(t, err)
		defer s.Close()
		if s.RemoteAddr().String() != c.LocalAddr().String() {
			t.Errorf("a connection from %s arrives as one from %s", c.LocalAddr(), s.RemoteAddr())
		}
	})
}
