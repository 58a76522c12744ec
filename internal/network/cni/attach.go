package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// attachment is the veth pair of one pod.
type attachment struct {
	conf   *Conf
	ip     netip.Addr
	ifName string // in the pod
	link   string // in the node's namespace
}

// attach makes the pair and everything that leads to the pod and out of it. It returns the pod's MAC.
func (a *attachment) attach(nsPath string) (mac string, err error) {
	pod, err := netns.GetFromPath(nsPath)
	if err != nil {
		return "", fmt.Errorf("open network namespace: %w", err)
	}
	defer pod.Close()
	bridge, err := netlink.LinkByName(a.conf.Bridge)
	if err != nil {
		return "", fmt.Errorf("find bridge: %w", err)
	}
	if old, err := netlink.LinkByName(a.link); err == nil { // of a call that was cut off
		if err := netlink.LinkDel(old); err != nil {
			return "", fmt.Errorf("delete old link: %w", err)
		}
	}
	podMAC := HardwareAddr(a.ip)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = a.link, a.conf.MTU, bridge.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: a.ifName, PeerNamespace: netlink.NsFd(pod), PeerMTU: uint32(a.conf.MTU), PeerHardwareAddr: podMAC}
	if err := netlink.LinkAdd(veth); err != nil {
		return "", fmt.Errorf("add link %s: %w", a.link, err)
	}
	defer func() {
		if err != nil {
			_ = netlink.LinkDel(veth)
		}
	}()
	if err := a.configurePod(pod, bridge.Attrs().HardwareAddr); err != nil {
		return "", err
	}
	return podMAC.String(), a.configurePort(bridge, podMAC)
}

// configurePort sets up the node's end. The port learns nothing and gets nothing flooded: its one address is told to
// the bridge, and the bridge's one address behind it to the node.
func (a *attachment) configurePort(bridge netlink.Link, podMAC net.HardwareAddr) error {
	port, err := netlink.LinkByName(a.link)
	if err != nil {
		return fmt.Errorf("find link %s: %w", a.link, err)
	}
	if err := setPort(port.Attrs().Index); err != nil {
		return fmt.Errorf("configure port %s: %w", a.link, err)
	}
	if err := netlink.LinkSetUp(port); err != nil {
		return fmt.Errorf("set link %s up: %w", a.link, err)
	}
	err = netlink.NeighSet(&netlink.Neigh{ // bridge fdb replace MAC dev PORT master static
		LinkIndex: port.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP, HardwareAddr: podMAC,
	})
	if err != nil {
		return fmt.Errorf("tell bridge %s where %s is: %w", a.conf.Bridge, podMAC, err)
	}
	err = netlink.NeighSet(&netlink.Neigh{
		LinkIndex: bridge.Attrs().Index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: a.ip.AsSlice(), HardwareAddr: podMAC,
	})
	if err != nil {
		return fmt.Errorf("set neighbour %s: %w", a.ip, err)
	}
	return nil
}

// Attributes of a bridge port, from linux/if_link.h.
const (
	brportMode           = 4 // hairpin
	brportLearning       = 8
	brportUnicastFlood   = 9
	brportMulticastFlood = 27
	brportBroadcastFlood = 30
)

// setPort sets all flags of a port in one message. Hairpin is for machines with br_netfilter: there a packet that a pod sends to itself through
// a Service is turned round inside the bridge, and leaves by the port it came by.
func setPort(index int) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	for attr, value := range map[int]byte{brportMode: 1, brportLearning: 0, brportUnicastFlood: 0, brportMulticastFlood: 0, brportBroadcastFlood: 0} {
		info.AddRtAttr(attr, []byte{value})
	}
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// configurePod sets up the pod's end: its address as /32, so that all it sends goes to the node, which is a permanent neighbour.
func (a *attachment) configurePod(pod netns.NsHandle, bridgeMAC net.HardwareAddr) error {
	h, err := netlink.NewHandleAt(pod, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer h.Close()
	eth, err := h.LinkByName(a.ifName)
	if err != nil {
		return fmt.Errorf("find %s in the pod: %w", a.ifName, err)
	}
	address := hostNet(a.ip)
	if err := h.AddrAdd(eth, &netlink.Addr{IPNet: &address}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add address %s: %w", a.ip, err)
	}
	if err := h.LinkSetUp(eth); err != nil {
		return fmt.Errorf("set %s up: %w", a.ifName, err)
	}
	err = h.NeighSet(&netlink.Neigh{
		LinkIndex: eth.Attrs().Index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: a.conf.Gateway.AsSlice(), HardwareAddr: bridgeMAC,
	})
	if err != nil {
		return fmt.Errorf("set neighbour %s: %w", a.conf.Gateway, err)
	}
	err = h.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: a.conf.Gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)})
	if err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	return nil
}
