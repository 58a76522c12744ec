package network

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gitopsd/gitopsd/internal/network/cni"
)

// addresses lists those in use.
func (n *testNode) addresses() []string {
	n.t.Helper()
	paths, err := filepath.Glob(filepath.Join(cni.IPAMDir(n.config.DataDir), cni.NetworkName, "10.*"))
	check(n.t, err)
	for i, p := range paths {
		paths[i] = filepath.Base(p)
	}
	return paths
}

// ports lists the pods' interfaces on the node.
func (n *testNode) ports() (names []string) {
	n.t.Helper()
	links, err := netlink.LinkList()
	check(n.t, err)
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, cni.LinkPrefix) && l.Attrs().Name != n.config.Bridge {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}

func TestPluginGivesBackWhatItTook(t *testing.T) {
	n := newNode(t)
	a, b := n.pod("a"), n.pod("b")
	if a.ip == b.ip || len(n.addresses()) != 2 || len(n.ports()) != 2 {
		t.Errorf("pods %s and %s, addresses %q, interfaces %q", a.ip, b.ip, n.addresses(), n.ports())
	}
	n.cni("CHECK", "a", a.path())
	n.cni("DEL", "a", a.path())
	n.cni("DEL", "a", "") // the namespace may be gone, and the runtime may ask again
	n.cni("DEL", "never", "")
	if out, err := n.tryCNI("CHECK", "a", a.path()); err == nil {
		t.Errorf("CHECK of a deleted pod: %s", out)
	}
	if got := n.addresses(); len(got) != 1 || got[0] != b.ip || len(n.ports()) != 1 {
		t.Errorf("addresses %q, interfaces %q", got, n.ports())
	}
	neighbours, err := netlink.NeighList(mustLink(t, n.config.Bridge).Attrs().Index, netlink.FAMILY_V4)
	check(t, err)
	neighbours = slices.DeleteFunc(neighbours, func(n netlink.Neigh) bool { return n.State != netlink.NUD_PERMANENT })
	if len(neighbours) != 1 || neighbours[0].IP.String() != b.ip {
		t.Errorf("neighbours %v", neighbours)
	}
	// The pod's namespace ends without a DEL: its interface goes with it, the address with the late DEL.
	n.cni("DEL", "b", "")
	if got := n.addresses(); len(got) != 0 {
		t.Errorf("addresses %q", got)
	}
}

func mustLink(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	check(t, err)
	return l
}

// A second ADD of the same pod, after one that was cut off, does not take a second address.
func TestPluginAddsOnce(t *testing.T) {
	n := newNode(t)
	first, second := newSpace(t), newSpace(t)
	n.cni("ADD", "a", first.path())
	n.cni("ADD", "a", second.path())
	defer n.cni("DEL", "a", "")
	if len(n.addresses()) != 1 || len(n.ports()) != 1 {
		t.Errorf("addresses %q, interfaces %q", n.addresses(), n.ports())
	}
}

func TestPluginFailsCleanly(t *testing.T) {
	n := newNode(t)
	if out, err := n.tryCNI("ADD", "a", "/proc/1/fd/none"); err == nil || !strings.Contains(string(out), "network namespace") {
		t.Errorf("ADD without a namespace: %v, %s", err, out)
	}
	if len(n.addresses()) != 0 || len(n.ports()) != 0 {
		t.Errorf("addresses %q, interfaces %q", n.addresses(), n.ports())
	}
	n.cni("STATUS", "", "")
	check(t, netlink.LinkDel(mustLink(t, n.config.Bridge)))
	if out, err := n.tryCNI("STATUS", "", ""); err == nil || !strings.Contains(string(out), `"code": 50`) {
		t.Errorf("STATUS without a bridge: %v, %s", err, out)
	}
	space := newSpace(t)
	if out, err := n.tryCNI("ADD", "a", space.path()); err == nil || !strings.Contains(string(out), "find bridge") {
		t.Errorf("ADD without a bridge: %v, %s", err, out)
	}
	if len(n.addresses()) != 0 {
		t.Errorf("addresses %q", n.addresses())
	}
}

// Every address of the podCIDR is given but the bridge's, at the same time, to one pod each; then there is none.
func TestPluginGivesEveryAddressOnce(t *testing.T) {
	n := newNode(t)
	n.config.PodCIDR = netip.MustParsePrefix("10.42.0.0/29")
	check(t, EnsureNode(n.config))
	const free = 5 // 10.42.0.2 to 10.42.0.6
	spaces := make([]*space, free)
	for i := range spaces {
		spaces[i] = newSpace(t)
	}
	var wg sync.WaitGroup
	for i, s := range spaces {
		wg.Go(func() { n.cni("ADD", fmt.Sprint("p", i), s.path()) })
	}
	wg.Wait()
	if got := n.addresses(); len(got) != free {
		t.Errorf("addresses %q", got)
	}
	if out, err := n.tryCNI("ADD", "late", newSpace(t).path()); err == nil || !strings.Contains(string(out), "no IP addresses available") {
		t.Errorf("one more: %v, %s", err, out)
	}
	for i := range spaces {
		n.cni("DEL", fmt.Sprint("p", i), "")
	}
}

func TestPluginCollectsGarbage(t *testing.T) {
	n := newNode(t)
	n.pod("a", cni.PortMapping{HostPort: 80, ContainerPort: 80, Protocol: "tcp"})
	b := n.pod("b", cni.PortMapping{HostPort: 81, ContainerPort: 80, Protocol: "tcp"})
	n.valid = []map[string]string{{"containerID": "b", "ifname": "eth0"}}
	n.cni("GC", "", "")
	if got := n.addresses(); len(got) != 1 || got[0] != b.ip {
		t.Errorf("addresses %q", got)
	}
	ports, err := cni.ReadHostPorts(n.config.DataDir)
	check(t, err)
	if len(ports) != 1 || ports[0].Mappings[0].HostPort != 81 {
		t.Errorf("host ports %v", ports)
	}
}

// EnsureNode changes nothing that is right, and repairs what is not.
func TestEnsureNode(t *testing.T) {
	n := newNode(t)
	conf := filepath.Join(n.config.CNIConfDir, ConfFile)
	before, err := os.Stat(conf)
	check(t, err)
	index := mustLink(t, n.config.Bridge).Attrs().Index
	a := n.pod("a")
	check(t, EnsureNode(n.config))
	after, err := os.Stat(conf)
	check(t, err)
	if !os.SameFile(before, after) || mustLink(t, n.config.Bridge).Attrs().Index != index {
		t.Error("something was made anew")
	}
	expect(t, nil, "tcp4", a.ip+":8080", "a 10.42.0.1")

	link := mustLink(t, n.config.Bridge)
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	check(t, err)
	check(t, netlink.AddrDel(link, &addrs[0]))
	check(t, netlink.LinkSetDown(link))
	check(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0))
	check(t, os.WriteFile(conf, []byte("{}"), 0o644))
	check(t, EnsureNode(n.config))
	expect(t, nil, "tcp4", a.ip+":8080", "a 10.42.0.1")
	data, err := os.ReadFile(conf)
	check(t, err)
	var list struct{ Plugins []cni.Conf }
	check(t, json.Unmarshal(data, &list))
	if c := list.Plugins[0]; c.Bridge != n.config.Bridge || c.MTU != 1400 || !c.Capabilities["portMappings"] {
		t.Errorf("configuration %s", data)
	}
}

func TestEnsureNodeRefuses(t *testing.T) {
	n := newNode(t)
	for want, change := range map[string]func(*Config){
		"is a veth":    func(c *Config) { c.Bridge = "uplink" },
		"overlap":      func(c *Config) { c.ServiceCIDR = c.ClusterCIDR },
		"too small":    func(c *Config) { c.PodCIDR = netip.MustParsePrefix("10.42.0.0/30") },
		"not an IPv4":  func(c *Config) { c.PodCIDR = netip.MustParsePrefix("fd00::/64") },
		"1 to 15 byte": func(c *Config) { c.Bridge = "a-name-that-is-too-long" },
		"no name":      func(c *Config) { c.Table = "" },
	} {
		c := n.config
		change(&c)
		if err := EnsureNode(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, not %q", err, want)
		}
	}
}

// After a reboot nobody calls DEL for the pods that were.
func TestRebootFreesAddresses(t *testing.T) {
	n := newNode(t)
	n.cni("ADD", "a", newSpace(t).path())
	check(t, EnsureNode(n.config))
	if len(n.addresses()) != 1 {
		t.Errorf("addresses %q", n.addresses())
	}
	check(t, os.WriteFile(filepath.Join(n.config.DataDir, "boot_id"), []byte("another\n"), 0o644))
	check(t, EnsureNode(n.config))
	if len(n.addresses()) != 0 {
		t.Errorf("addresses %q", n.addresses())
	}
}

func TestRunWaitsForPodCIDR(t *testing.T) {
	n := newNode(t)
	check(t, Remove(n.config))
	n.config.PodCIDR = netip.Prefix{}
	api := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: corev1.NodeSpec{PodCIDR: "10.42.7.0/24"}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Run(ctx, n.config, api) }()
	node, err := api.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a"}}, metav1.CreateOptions{})
	check(t, err)
	node.Spec.PodCIDR = "10.42.3.0/24"
	_, err = api.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
	check(t, err)
	eventually(t, func() string {
		if data, _ := os.ReadFile(filepath.Join(n.config.CNIConfDir, ConfFile)); !strings.Contains(string(data), "10.42.3.1") {
			return "no configuration with the node's podCIDR"
		}
		return ""
	})
	cancel()
	check(t, <-done)
}

func TestRemoveLeavesNothing(t *testing.T) {
	n := newNode(t)
	before := nodeTraces(t)
	check(t, Remove(n.config))
	bare := nodeTraces(t)
	check(t, EnsureNode(n.config))
	if got := nodeTraces(t); got != before {
		t.Errorf("made anew:\n%s\nbefore:\n%s", got, before)
	}
	n.cni("ADD", "a", newSpace(t).path(), cni.PortMapping{HostPort: 80, ContainerPort: 80, Protocol: "tcp"})
	tab, err := newTable(n.config.Table)
	check(t, err)
	_, err = tab.apply(State{Config: n.config}.Rules())
	check(t, err)
	check(t, Remove(n.config))
	check(t, Remove(n.config))
	eventually(t, func() string { return differs(nodeTraces(t), bare) })
	files, err := os.ReadDir(n.config.DataDir)
	check(t, err)
	for _, f := range files {
		if f.Name() != "net.d" {
			t.Errorf("left %s", f.Name())
		}
	}
}

// nodeTraces lists interfaces, routes and tables.
func nodeTraces(t *testing.T) string {
	t.Helper()
	var all []string
	links, err := netlink.LinkList()
	check(t, err)
	for _, l := range links {
		all = append(all, "interface "+l.Attrs().Name)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	check(t, err)
	for _, r := range routes {
		all = append(all, fmt.Sprint("route ", r.Dst, " ", r.Src))
	}
	return strings.Join(all, "\n") + nftTables(t)
}

// A thousand services, each with a node port, for TCP and UDP: written in one transaction, one of them changed by another.
func TestThousandServices(t *testing.T) {
	needKernel(t)
	s := State{Config: testConfig()}
	for i := range 1000 {
		name := fmt.Sprintf("service-with-a-name-of-some-length-%04d", i)
		svc := service(name, netip.AddrFrom4([4]byte{10, 43, byte(i >> 8), byte(i)}).String(), corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: ports(80, int32(20000+i))})
		s.Services = append(s.Services, svc)
		var pods []*testPod
		for j := range 3 {
			pods = append(pods, &testPod{ip: netip.AddrFrom4([4]byte{10, 42, byte(i>>7) + byte(j)*64, byte(i)}).String()})
		}
		s.Slices = append(s.Slices, slice(name, pods...))
	}
	tab, err := newTable(s.Table)
	check(t, err)
	defer func() { check(t, tab.remove()) }()
	began := time.Now()
	rules := s.Rules()
	computed := time.Since(began)
	_, err = tab.apply(rules)
	check(t, err)
	written := time.Since(began) - computed
	s.Slices[500].Endpoints = s.Slices[500].Endpoints[:2]
	began = time.Now()
	_, err = tab.apply(s.Rules())
	check(t, err)
	t.Logf("computed in %s, written in %s, one changed in %s", computed, written, time.Since(began))
	if found, err := tab.look(); found != asLeft || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
}
