// Package network connects the pods of a node: EnsureNode makes the bridge and the CNI configuration, Run is the service
// proxy, Remove takes everything away.
//
// In: the node's podCIDR, Services, EndpointSlices and pods' host ports. Out: routes, and the rules of one table of nftables that is
// gitopsd's own. What the rules shall be is a pure function of what was watched, and prints; a thin writer makes the kernel follow it.
//
// Every packet between pods is routed by the node, never switched from port to port, so translation of addresses sees both
// directions. It never touches a rule of others; where theirs drop what pods send, it says so.
package network

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/gitopsd/gitopsd/internal/network/cni"
)

const (
	// ConfFile is the name of the CNI configuration in Config.CNIConfDir.
	ConfFile = "10-gitopsd.conflist"

	bootIDFile = "/proc/sys/kernel/random/boot_id"
	defaultMTU = 1500
)

// Config is the network of a node. Two instances on one machine must differ in Bridge, Table and every CIDR.
type Config struct {
	// NodeName is the name of this node: its endpoints are local.
	NodeName string
	// Bridge is the interface all pods are behind, as gitopsd0.
	Bridge string
	// Table is the nftables table (family ip) that holds the rules, as gitopsd.
	Table string
	// PodCIDR is the node's share of ClusterCIDR; its first address is the bridge's. Unset, Run waits for it in the Node's spec.
	PodCIDR netip.Prefix
	// ClusterCIDR holds the addresses of all pods; what they send elsewhere gets the node's address.
	ClusterCIDR netip.Prefix
	// ServiceCIDR holds the cluster IPs.
	ServiceCIDR netip.Prefix
	// CNIConfDir gets the CNI configuration, DataDir keeps the addresses in use and host ports.
	CNIConfDir, DataDir string
	// MTU of the pods' interfaces. 0: that of the default route's interface.
	MTU int
	// Drain is told which pods the rules lead to. Optional.
	Drain *Drain
	// Logger gets warnings and errors. Default: slog.Default().
	Logger *slog.Logger

	checkPeriod time.Duration // how often others' changes to table, bridge or settings are looked for
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Drain == nil {
		c.Drain = NewDrain()
	}
	if c.MTU == 0 {
		c.MTU = uplinkMTU()
	}
	if c.checkPeriod == 0 {
		c.checkPeriod = 5 * time.Second
	}
	return c
}

// Gateway is the bridge's address.
func (c Config) Gateway() netip.Addr { return c.PodCIDR.Masked().Addr().Next() }

func (c Config) check() error {
	for _, p := range []struct {
		name   string
		prefix netip.Prefix
	}{{"PodCIDR", c.PodCIDR}, {"ClusterCIDR", c.ClusterCIDR}, {"ServiceCIDR", c.ServiceCIDR}} {
		if !p.prefix.IsValid() || !p.prefix.Addr().Is4() {
			return fmt.Errorf("check network configuration: %s %q is not an IPv4 prefix", p.name, p.prefix)
		}
	}
	switch {
	case c.PodCIDR.Bits() > 29:
		return fmt.Errorf("check network configuration: PodCIDR %s is too small", c.PodCIDR)
	case c.ServiceCIDR.Overlaps(c.ClusterCIDR):
		return fmt.Errorf("check network configuration: ServiceCIDR %s and ClusterCIDR %s overlap", c.ServiceCIDR, c.ClusterCIDR)
	case c.Bridge == "" || len(c.Bridge) > 15:
		return fmt.Errorf("check network configuration: bridge name %q must have 1 to 15 bytes", c.Bridge)
	case c.Table == "":
		return errors.New("check network configuration: the table has no name")
	}
	return nil
}

// EnsureNode makes bridge, routes, kernel settings and CNI configuration what c says. It changes nothing that is right already, so it can
// be called at any time. An address of another podCIDR is taken from the bridge.
func EnsureNode(c Config) error {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return err
	}
	if err := c.ensureBridge(); err != nil {
		return fmt.Errorf("set up bridge %s: %w", c.Bridge, err)
	}
	if err := forgetOldBoot(c.DataDir); err != nil {
		return fmt.Errorf("release addresses of before the reboot: %w", err)
	}
	return c.writeConf()
}

func (c Config) ensureBridge() error {
	mac := cni.HardwareAddr(c.Gateway())
	link, err := netlink.LinkByName(c.Bridge)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = c.Bridge, c.MTU, mac
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return err
		}
		link, err = netlink.LinkByName(c.Bridge)
	}
	if err != nil {
		return err
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("there is an interface of this name, and it is a %s: choose another name", link.Type())
	}
	if !bytes.Equal(link.Attrs().HardwareAddr, mac) { // pods have it as a permanent neighbour
		if err := netlink.LinkSetHardwareAddr(link, mac); err != nil {
			return fmt.Errorf("set MAC: %w", err)
		}
	}
	if link.Attrs().MTU != c.MTU {
		if err := netlink.LinkSetMTU(link, c.MTU); err != nil {
			return fmt.Errorf("set MTU: %w", err)
		}
	}
	if err := c.ensureAddress(link); err != nil {
		return err
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("set up: %w", err)
		}
	}
	if err := c.ensureSettings(); err != nil {
		return err
	}
	return c.ensureServiceRoute(link)
}

// ensureAddress makes the gateway the bridge's one address.
func (c Config) ensureAddress(link netlink.Link) error {
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	want := ipNet(netip.PrefixFrom(c.Gateway(), c.PodCIDR.Bits()))
	have := false
	for _, a := range addrs {
		if a.IPNet.String() == want.String() {
			have = true
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return fmt.Errorf("take address %s: %w", a.IPNet, err)
		}
	}
	if have {
		return nil
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: want}); err != nil {
		return fmt.Errorf("add address %s: %w", want, err)
	}
	return nil
}

// ensureServiceRoute leads what the node itself sends to a cluster IP to the bridge, so that it is sent at all without a default route,
// and with an address that pods can answer. Before it leaves, the proxy's rules have turned it elsewhere.
func (c Config) ensureServiceRoute(link netlink.Link) error {
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(c.ServiceCIDR.Masked()), Src: c.Gateway().AsSlice(), Scope: netlink.SCOPE_LINK}
	have, err := netlink.RouteListFiltered(netlink.FAMILY_V4, route, netlink.RT_FILTER_DST|netlink.RT_FILTER_OIF|netlink.RT_FILTER_SRC)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	if len(have) > 0 {
		return nil
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("route %s: %w", c.ServiceCIDR, err)
	}
	return nil
}

// ensureSettings turns on forwarding for the machine, and for the bridge what sending a packet back to where it came from needs.
func (c Config) ensureSettings() error {
	conf := "/proc/sys/net/ipv4/conf/" + c.Bridge + "/"
	for _, s := range []struct{ path, value string }{
		{"/proc/sys/net/ipv4/ip_forward", "1"},
		{conf + "forwarding", "1"},
		{conf + "send_redirects", "0"}, // pods must not be told of a shorter way: there is none
	} {
		if err := write(s.path, s.value); err != nil {
			return err
		}
	}
	return nil
}

// writeConf writes the CNI configuration, when it is not the same already: the runtime reads it again at each change.
func (c Config) writeConf() error {
	data, err := cni.Conf{Bridge: c.Bridge, Subnet: c.PodCIDR.Masked(), Gateway: c.Gateway(), MTU: c.MTU, DataDir: c.DataDir}.List()
	if err != nil {
		return err
	}
	path := filepath.Join(c.CNIConfDir, ConfFile)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) {
		return nil
	}
	if err := os.MkdirAll(c.CNIConfDir, 0o755); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	tmp := filepath.Join(c.CNIConfDir, "."+ConfFile)
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	return os.Rename(tmp, path)
}

// forgetOldBoot drops the addresses and host ports of pods that a reboot ended: nobody called DEL for them.
func forgetOldBoot(dataDir string) error {
	boot, err := os.ReadFile(bootIDFile)
	if err != nil {
		return err
	}
	path := filepath.Join(dataDir, "boot_id")
	have, err := os.ReadFile(path)
	if err == nil && bytes.Equal(have, boot) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, dir := range []string{cni.IPAMDir(dataDir), cni.HostPortDir(dataDir)} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(cni.HostPortDir(dataDir), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, boot, 0o644)
}

// uplinkMTU is that of the interface with the default route.
func uplinkMTU() int {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return defaultMTU
	}
	mtu := 0
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		link, err := netlink.LinkByIndex(r.LinkIndex)
		if err == nil && (mtu == 0 || link.Attrs().MTU < mtu) {
			mtu = link.Attrs().MTU
		}
	}
	if mtu == 0 {
		return defaultMTU
	}
	return mtu
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
