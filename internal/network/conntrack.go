package network

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// flows decides which tracked UDP flows are stale. UDP has no end: a client that sends from one port again and again stays with an
// endpoint that is gone, or with the silence of a service that had none.
type flows struct {
	services  map[netip.AddrPort]map[netip.AddrPort]bool // service address → its endpoints
	nodePorts map[uint16]map[netip.AddrPort]bool
}

// flows returns where UDP flows to services may lead.
func (s State) flows() flows {
	f := flows{services: map[netip.AddrPort]map[netip.AddrPort]bool{}, nodePorts: map[uint16]map[netip.AddrPort]bool{}}
	s.Services = slices.DeleteFunc(slices.Clone(s.Services), func(svc *corev1.Service) bool {
		return !slices.ContainsFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return p.Protocol == corev1.ProtocolUDP })
	})
	if len(s.Services) == 0 {
		return f
	}
	for _, p := range s.servicePorts() {
		if p.protocol != udp {
			continue
		}
		to := map[netip.AddrPort]bool{}
		for _, e := range p.all {
			to[e] = true
		}
		for _, ips := range [][]netip.Addr{p.clusterIPs, p.externalIPs, p.balancerIPs} {
			for _, ip := range ips {
				f.services[netip.AddrPortFrom(ip, p.port)] = to
			}
		}
		if p.nodePort != 0 {
			f.nodePorts[p.nodePort] = to
		}
	}
	return f
}

// stale tells whether a flow to a service goes to something that is not its endpoint. from is where answers come from.
func (f flows) stale(to, from netip.AddrPort) bool {
	endpoints, ok := f.services[to]
	if !ok {
		// A flow to the node itself that was never translated is some program's own.
		if endpoints, ok = f.nodePorts[to.Port()]; !ok || from.Addr() == to.Addr() && len(endpoints) == 0 {
			return false
		}
	}
	return !endpoints[from]
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f flows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	from, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return ok1 && ok2 && f.stale(netip.AddrPortFrom(to.Unmap(), flow.Forward.DstPort), netip.AddrPortFrom(from.Unmap(), flow.Reverse.SrcPort))
}

// forget ends the flows that are stale.
func (f flows) forget() error {
	if len(f.services) == 0 && len(f.nodePorts) == 0 {
		return nil
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f); err != nil {
		return fmt.Errorf("forget stale UDP flows: %w", err)
	}
	return nil
}
