package network

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/network/cni"
)

// space is a network namespace.
type space struct {
	t  *testing.T
	ns netns.NsHandle
}

// newSpace makes a network namespace that lives as long as the test.
func newSpace(t *testing.T) *space {
	t.Helper()
	made := make(chan netns.NsHandle)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		check(t, unix.Unshare(unix.CLONE_NEWNET))
		ns, err := netns.Get()
		check(t, err)
		made <- ns
	}()
	s := &space{t: t, ns: <-made}
	t.Cleanup(func() { s.ns.Close() })
	s.do(func() {
		lo, err := netlink.LinkByName("lo")
		check(t, err)
		check(t, netlink.LinkSetUp(lo))
	})
	return s
}

// path is how another program finds the namespace.
func (s *space) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.ns) }

// do runs f inside the namespace. Sockets that f makes stay there. A nil space is the node.
func (s *space) do(f func()) {
	if s == nil || s.ns == 0 {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked, see newSpace
		check(s.t, netns.Set(s.ns))
		f()
	}()
	<-done
}

// serve answers on a port, TCP and UDP, with name and the address the client comes from.
func (s *space) serve(name string, port int) {
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
				fmt.Fprintf(c, "%s %s", name, c.RemoteAddr().(*net.TCPAddr).IP)
				c.Close()
			}
		}()
		u, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
		check(s.t, err)
		s.t.Cleanup(func() { u.Close() })
		go func() {
			buf := make([]byte, 64)
			for {
				_, from, err := u.ReadFrom(buf)
				if err != nil {
					return
				}
				fmt.Fprintf(packetWriter{u, from}, "%s %s", name, from.(*net.UDPAddr).IP)
			}
		}()
	})
}

// serveOn is serve for the node.
func (s *space) serveOn(t *testing.T, name string, port int) { (&space{t: t}).serve(name, port) }

// udpFlow returns a function that asks by the same socket each time.
func (s *space) udpFlow(address string) func() string {
	var c net.Conn
	s.do(func() {
		var err error
		c, err = net.Dial("udp4", address)
		check(s.t, err)
	})
	s.t.Cleanup(func() { c.Close() })
	return func() string {
		_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond))
		buf := make([]byte, 64)
		if _, err := c.Write([]byte("?")); err != nil {
			return reason(err)
		}
		n, err := c.Read(buf)
		if err != nil {
			return reason(err)
		}
		return string(buf[:n])
	}
}

type packetWriter struct {
	net.PacketConn
	to net.Addr
}

func (w packetWriter) Write(p []byte) (int, error) { return w.WriteTo(p, w.to) }

// ask connects to an address and returns what the server says, or the error's last part.
func (s *space) ask(network, address string) (answer string) {
	s.do(func() {
		d := net.Dialer{Timeout: 2 * time.Second}
		c, err := d.Dial(network, address)
		if err != nil {
			answer = reason(err)
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		if network == "udp4" {
			if _, err := c.Write([]byte("?")); err != nil {
				answer = reason(err)
				return
			}
			buf := make([]byte, 64)
			n, err := c.Read(buf)
			if answer = string(buf[:n]); err != nil {
				answer = reason(err)
			}
			return
		}
		data, err := io.ReadAll(c)
		if answer = string(data); err != nil {
			answer = reason(err)
		}
	})
	return answer
}

func reason(err error) string {
	s := err.Error()
	return s[strings.LastIndex(s, ": ")+2:]
}

// testNode is a node in the test's own namespace: its bridge, an uplink and one machine outside.
type testNode struct {
	t       *testing.T
	config  Config
	outside *space              // 192.0.2.2; the node is 192.0.2.1
	valid   []map[string]string // what GC is told to keep
	confMu  sync.Mutex
	conf    []byte // the CNI configuration of the last call
}

const nodeIP, outsideIP = "192.0.2.1", "192.0.2.2"

func newNode(t *testing.T) *testNode {
	t.Helper()
	needKernel(t)
	n := &testNode{t: t, config: testConfig(), outside: newSpace(t)}
	dir := t.TempDir()
	n.config.CNIConfDir, n.config.DataDir = dir+"/net.d", dir
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "uplink"
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(n.outside.ns)}))
	t.Cleanup(func() {
		link, err := netlink.LinkByName("uplink")
		check(t, err)
		check(t, netlink.LinkDel(link))
		check(t, Remove(n.config))
	})
	setAddress(t, "uplink", nodeIP+"/24")
	n.outside.do(func() {
		setAddress(t, "eth0", outsideIP+"/24")
		// The way to pods and cluster IPs is through the node.
		check(t, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(nodeIP), Dst: ipNet(netip.MustParsePrefix("10.32.0.0/11"))}))
	})
	check(t, EnsureNode(n.config))
	return n
}

func setAddress(t *testing.T, link, addr string) {
	l, err := netlink.LinkByName(link)
	check(t, err)
	a, err := netlink.ParseAddr(addr)
	check(t, err)
	check(t, netlink.AddrAdd(l, a))
	check(t, netlink.LinkSetUp(l))
}

// testPod is a pod that the CNI plugin's program connected.
type testPod struct {
	*space
	node *testNode
	id   string
	ip   string
}

func (n *testNode) pod(id string, ports ...cni.PortMapping) *testPod {
	n.t.Helper()
	p := &testPod{space: newSpace(n.t), node: n, id: id}
	var result struct {
		IPs []struct{ Address string }
	}
	check(n.t, json.Unmarshal(n.cni("ADD", id, p.path(), ports...), &result))
	p.ip = strings.TrimSuffix(result.IPs[0].Address, "/32")
	n.t.Cleanup(func() { n.cni("DEL", id, "") })
	p.serve(id, 8080)
	return p
}

// cni calls the plugin's program as a container runtime does.
func (n *testNode) cni(command, id, path string, ports ...cni.PortMapping) []byte {
	n.t.Helper()
	out, err := n.tryCNI(command, id, path, ports...)
	if err != nil {
		n.t.Fatalf("CNI %s %s: %v\n%s", command, id, err, out)
	}
	return out
}

func (n *testNode) tryCNI(command, id, path string, ports ...cni.PortMapping) ([]byte, error) {
	var list struct{ Plugins []map[string]any }
	check(n.t, json.Unmarshal(n.readConf(), &list))
	conf := list.Plugins[0]
	conf["cniVersion"], conf["name"] = cni.Version, cni.NetworkName
	conf["runtimeConfig"] = map[string]any{"portMappings": ports}
	conf["cni.dev/valid-attachments"] = n.valid
	in, err := json.Marshal(conf)
	check(n.t, err)
	cmd := exec.Command(plugin)
	cmd.Stdin = bytes.NewReader(in)
	cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + path, "CNI_IFNAME=eth0", "CNI_PATH=/nowhere"}
	return cmd.CombinedOutput()
}

// readConf returns the CNI configuration, or what it last was: a runtime has read it before it was removed.
func (n *testNode) readConf() []byte {
	n.confMu.Lock()
	defer n.confMu.Unlock()
	if data, err := os.ReadFile(n.config.CNIConfDir + "/" + ConfFile); err == nil {
		n.conf = data
	}
	return n.conf
}

// expect asks until the answer is want.
func expect(t *testing.T, from *space, network, address, want string) {
	t.Helper()
	began := time.Now()
	defer func() {
		if d := time.Since(began); d > time.Second {
			t.Logf("%s %s took %s", network, address, d)
		}
	}()
	eventually(t, func() string {
		if got := from.ask(network, address); got != want {
			return fmt.Sprintf("%s %s answers %q, not %q", network, address, got, want)
		}
		return ""
	})
}
