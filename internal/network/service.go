package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/gitopsd/gitopsd/internal/network/cni"
)

// Labels that take a Service or an EndpointSlice out of a service proxy's hands.
const (
	proxyNameLabel = "service.kubernetes.io/service-proxy-name"
	headlessLabel  = corev1.IsHeadlessService
)

// defaultAffinity is the API's default for sessionAffinityConfig.clientIP.timeoutSeconds.
const defaultAffinity = 3 * time.Hour

// State is everything the rules depend on.
type State struct {
	Config
	Services  []*corev1.Service
	Slices    []*discoveryv1.EndpointSlice
	HostPorts []cni.HostPorts
}

// protocol is an IP protocol number that Services may use.
type protocol uint8

const (
	tcp  protocol = 6
	udp  protocol = 17
	sctp protocol = 132
)

var protocols = map[corev1.Protocol]protocol{"": tcp, corev1.ProtocolTCP: tcp, corev1.ProtocolUDP: udp, corev1.ProtocolSCTP: sctp}

func (p protocol) String() string {
	switch p {
	case tcp:
		return "tcp"
	case udp:
		return "udp"
	case sctp:
		return "sctp"
	}
	return fmt.Sprint(uint8(p))
}

// servicePort is one port of a Service with all ways to reach it and all endpoints behind it.
type servicePort struct {
	name     string // namespace/name/protocol/port, unique
	protocol protocol
	port     uint16
	nodePort uint16 // 0: none

	clusterIPs  []netip.Addr
	externalIPs []netip.Addr
	balancerIPs []netip.Addr
	sources     []netip.Prefix // who may use balancerIPs; none: everybody
	affinity    time.Duration  // 0: none

	internalLocal, externalLocal bool // traffic policies

	all   []netip.AddrPort // endpoints for clients that may use any
	local []netip.AddrPort // endpoints on this node
}

// internal are the endpoints of the cluster IPs.
func (p *servicePort) internal() []netip.AddrPort {
	if p.internalLocal {
		return p.local
	}
	return p.all
}

// servicePorts returns the ports of all Services that have a cluster IP, sorted by name.
func (s State) servicePorts() []*servicePort {
	slicesOf := map[string][]*discoveryv1.EndpointSlice{}
	for _, slice := range s.Slices {
		if !proxied(slice.Labels) || slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		key := slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]
		slicesOf[key] = append(slicesOf[key], slice)
	}
	var ports []*servicePort
	for _, svc := range s.Services {
		if !proxied(svc.Labels) || svc.Spec.Type == corev1.ServiceTypeExternalName || len(ipv4(clusterIPs(svc))) == 0 {
			continue
		}
		for i := range svc.Spec.Ports {
			if p := s.servicePort(svc, &svc.Spec.Ports[i], slicesOf[svc.Namespace+"/"+svc.Name]); p != nil {
				ports = append(ports, p)
			}
		}
	}
	slices.SortFunc(ports, func(a, b *servicePort) int { return strings.Compare(a.name, b.name) })
	return ports
}

func proxied(labels map[string]string) bool {
	_, other := labels[proxyNameLabel]
	_, headless := labels[headlessLabel]
	return !other && !headless
}

func clusterIPs(svc *corev1.Service) []string {
	if len(svc.Spec.ClusterIPs) > 0 {
		return svc.Spec.ClusterIPs
	}
	return []string{svc.Spec.ClusterIP}
}

// ipv4 returns the addresses among ss, sorted; "None" and other families are left out.
func ipv4(ss []string) []netip.Addr {
	var ips []netip.Addr
	for _, s := range ss {
		if ip, err := netip.ParseAddr(s); err == nil && ip.Is4() {
			ips = append(ips, ip)
		}
	}
	slices.SortFunc(ips, netip.Addr.Compare)
	return slices.Compact(ips)
}

func (s State) servicePort(svc *corev1.Service, port *corev1.ServicePort, sl []*discoveryv1.EndpointSlice) *servicePort {
	proto, ok := protocols[port.Protocol]
	if !ok {
		return nil
	}
	p := &servicePort{
		name:     fmt.Sprintf("%s/%s/%s/%d", svc.Namespace, svc.Name, proto, port.Port),
		protocol: proto, port: uint16(port.Port),
		clusterIPs:  ipv4(clusterIPs(svc)),
		externalIPs: ipv4(svc.Spec.ExternalIPs),
	}
	spec := &svc.Spec
	if spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer {
		p.nodePort = uint16(port.NodePort)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		p.balancerIPs = balancerIPs(svc)
		for _, r := range spec.LoadBalancerSourceRanges {
			if prefix, err := netip.ParsePrefix(strings.TrimSpace(r)); err == nil && prefix.Addr().Is4() {
				p.sources = append(p.sources, prefix.Masked())
			}
		}
	}
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		p.affinity = defaultAffinity
		if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			p.affinity = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
		}
	}
	p.internalLocal = spec.InternalTrafficPolicy != nil && *spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	p.externalLocal = spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	eps := endpoints(port.Name, proto, sl)
	p.all = usable(eps)
	p.local = usable(slices.DeleteFunc(eps, func(e endpoint) bool { return e.node != s.NodeName }))
	return p
}

// balancerIPs are the addresses a load balancer gave to a Service, unless it delivers to node ports (ipMode Proxy).
func balancerIPs(svc *corev1.Service) []netip.Addr {
	var ss []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
			ss = append(ss, in.IP)
		}
	}
	return ipv4(ss)
}

// endpoint is one address behind a port, before it is decided whether it is used.
type endpoint struct {
	at                          netip.AddrPort
	node                        string
	ready, serving, terminating bool
}

// endpoints returns what the slices list for the port of a Service, sorted by address.
func endpoints(portName string, proto protocol, sl []*discoveryv1.EndpointSlice) []endpoint {
	var eps []endpoint
	for _, slice := range sl {
		for _, port := range slice.Ports {
			if port.Port == nil || deref(port.Name, "") != portName || protocols[deref(port.Protocol, corev1.ProtocolTCP)] != proto {
				continue
			}
			for _, e := range slice.Endpoints {
				for _, ip := range ipv4(e.Addresses) {
					ready := deref(e.Conditions.Ready, true)
					eps = append(eps, endpoint{
						at: netip.AddrPortFrom(ip, uint16(*port.Port)), node: deref(e.NodeName, ""),
						ready: ready, serving: deref(e.Conditions.Serving, ready), terminating: deref(e.Conditions.Terminating, false),
					})
				}
			}
		}
	}
	slices.SortFunc(eps, func(a, b endpoint) int { return a.at.Compare(b.at) })
	return eps
}

func deref[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}

// usable returns the addresses that get traffic, sorted: the ready ones; when there is none, those that end but still serve.
func usable(eps []endpoint) []netip.AddrPort {
	var ready, ending []netip.AddrPort
	for _, e := range eps {
		switch {
		case e.ready:
			ready = append(ready, e.at)
		case e.serving && e.terminating:
			ending = append(ending, e.at)
		}
	}
	if len(ready) == 0 {
		ready = ending
	}
	return slices.Compact(ready) // one endpoint may be in two slices for a moment
}
