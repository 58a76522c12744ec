package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"

	"github.com/gitopsd/gitopsd/internal/network/cni"
)

// Names of the sets.
const (
	setServices      = "services"          // where a service's address and port lead
	setNodePorts     = "node-ports"        // where a node port leads
	setRefused       = "refused"           // services without an endpoint
	setRefusedPorts  = "refused-ports"     // node ports without an endpoint
	setHairpin       = "hairpin"           // pods that may reach themselves through a service
	setHostPorts     = "host-ports"        // pods' ports on every address of the node
	setHostPortsAddr = "host-ports-ip"     // pods' ports on one address of the node
	chainDrop        = "no-local-endpoint" // policy Local, and all endpoints are elsewhere
	clientsSize      = 65535               // clients remembered for one endpoint
	endpointLimit    = 1000                // of one port: the kernel takes no larger anonymous map in one message
)

// Priorities of the base chains: beside those of NAT, and one before it for what is refused.
const (
	priorityBefore = -110
	priorityDNAT   = -100
	priorityFilter = 0
	prioritySNAT   = 100
)

var (
	serviceKey = []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService}
	portKey    = []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}
	pairKey    = []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeIPAddr}
	endpointAt = []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeInetService}
	toChain    = []nftables.SetDatatype{nftables.TypeVerdict}

	loopback = netip.MustParsePrefix("127.0.0.0/8")
)

// builder collects the rules of a State.
type builder struct {
	State
	sets   map[string]*Set
	keys   map[string]map[Key]bool // of each set
	chains []Chain
}

// Rules returns what the table must contain: a function of s alone.
func (s State) Rules() Ruleset {
	b := &builder{State: s, sets: map[string]*Set{}, keys: map[string]map[Key]bool{}}
	b.declare(setServices, serviceKey, toChain)
	b.declare(setNodePorts, portKey, toChain)
	b.declare(setRefused, serviceKey, nil)
	b.declare(setRefusedPorts, portKey, nil)
	b.declare(setHairpin, pairKey, nil)
	b.declare(setHostPorts, portKey, endpointAt)
	b.declare(setHostPortsAddr, serviceKey, endpointAt)
	b.chain(chainDrop, Rule{verdict{word: "drop"}})
	for _, p := range s.servicePorts() {
		b.addService(p)
	}
	b.addHostPorts()
	r := Ruleset{Table: s.Table}
	for _, set := range b.sets {
		slices.SortFunc(set.Elements, compareElements)
		r.Sets = append(r.Sets, *set)
	}
	slices.SortFunc(r.Sets, func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(b.chains, func(a, b Chain) int { return strings.Compare(a.Name, b.Name) })
	r.Chains = append(s.baseChains(), b.chains...)
	return r
}

// baseChains are the same whatever the services are.
func (s State) baseChains() []Chain {
	fromPods := interfaceIs{in: true, name: s.Bridge}
	var refuse, unknown []Rule
	for _, r := range []Rule{{isProtocol{tcp}, rejectIt{reset: true}}, {rejectIt{}}} { // ICMP is limited in rate: clients would wait
		refuse = append(refuse,
			slices.Concat(Rule{isNew{}, inSet{setRefused, byService}}, r),
			slices.Concat(Rule{isNew{}, addressLocal{}, inSet{setRefusedPorts, byPort}}, r))
		// A cluster IP that no service has, or not this port.
		unknown = append(unknown, slices.Concat(Rule{addressIn{prefix: s.ServiceCIDR.Masked()}}, r))
	}
	translate := []Rule{
		{verdictOf{setServices, byService}},
		{addressLocal{}, verdictOf{setNodePorts, byPort}},
		{toEndpointOf{setHostPortsAddr, byService}},
		{addressLocal{}, toEndpointOf{setHostPorts, byPort}},
	}
	outside := Rule{addressIn{prefix: s.ServiceCIDR.Masked()}, addressIn{source: true, not: true, prefix: s.ClusterCIDR.Masked()}, mark{}}
	return []Chain{
		{Name: "before-prerouting", Type: nftables.ChainTypeFilter, Hook: "prerouting", Priority: priorityBefore,
			// Node ports on 127.0.0.1 need route_localnet; no pod may come in by it.
			Rules: append([]Rule{{fromPods, addressIn{prefix: loopback}, verdict{word: "drop"}}}, refuse...)},
		{Name: "before-output", Type: nftables.ChainTypeFilter, Hook: "output", Priority: priorityBefore, Rules: refuse},
		{Name: "nat-prerouting", Type: nftables.ChainTypeNAT, Hook: "prerouting", Priority: priorityDNAT, Rules: append([]Rule{outside}, translate...)},
		{Name: "nat-output", Type: nftables.ChainTypeNAT, Hook: "output", Priority: priorityDNAT, Rules: translate},
		{Name: "filter-forward", Type: nftables.ChainTypeFilter, Hook: "forward", Priority: priorityFilter, Rules: unknown},
		{Name: "filter-output", Type: nftables.ChainTypeFilter, Hook: "output", Priority: priorityFilter, Rules: append([]Rule{
			{interfaceIs{name: s.Bridge}, isRedirect{}, verdict{word: "drop"}}}, unknown...)},
		{Name: "nat-postrouting", Type: nftables.ChainTypeNAT, Hook: "postrouting", Priority: prioritySNAT, Rules: []Rule{
			{marked{}, masquerade{}},
			// What a program sends to itself without a service stays as it is: the API is an endpoint with the host's own address.
			{isTranslated{}, inSet{setHairpin, byPair}, masquerade{}},
			{interfaceIs{name: s.Bridge}, addressIn{source: true, prefix: loopback}, masquerade{}},
			{interfaceIs{not: true, name: s.Bridge}, addressIn{source: true, prefix: s.PodCIDR.Masked()},
				addressIn{not: true, prefix: s.ClusterCIDR.Masked()}, masquerade{}},
		}},
	}
}

func (b *builder) declare(name string, key, data []nftables.SetDatatype) *Set {
	set := &Set{Name: name, Key: key, Data: data}
	b.sets[name], b.keys[name] = set, map[Key]bool{}
	return set
}

// add puts e into a set, unless another one has its key: the first wins.
func (b *builder) add(set string, e Element) {
	if !b.keys[set][e.Key] {
		b.keys[set][e.Key] = true
		b.sets[set].Elements = append(b.sets[set].Elements, e)
	}
}

func (b *builder) chain(name string, rules ...Rule) {
	b.chains = append(b.chains, Chain{Name: name, Rules: rules})
}

func (b *builder) hairpin(endpoints []netip.AddrPort) {
	for _, e := range endpoints {
		b.add(setHairpin, Element{Key: Key{Addr: e.Addr(), Other: e.Addr()}})
	}
}

// addService adds all ways to p.
func (b *builder) addService(p *servicePort) {
	b.hairpin(p.all)
	inside := b.addEndpoints("service/"+p.name, p, p.internal())
	for _, ip := range p.clusterIPs {
		b.lead(Key{Addr: ip, Protocol: p.protocol, Port: p.port}, inside, p.all)
	}
	if p.nodePort == 0 && len(p.externalIPs) == 0 && len(p.balancerIPs) == 0 {
		return
	}
	outside := b.addExternal(p)
	for _, ip := range p.externalIPs {
		b.lead(Key{Addr: ip, Protocol: p.protocol, Port: p.port}, outside, p.all)
	}
	if len(p.balancerIPs) > 0 {
		through := b.addFirewall(p, outside)
		for _, ip := range p.balancerIPs {
			b.lead(Key{Addr: ip, Protocol: p.protocol, Port: p.port}, through, p.all)
		}
	}
	if p.nodePort == 0 {
		return
	}
	key := Key{Protocol: p.protocol, Port: p.nodePort}
	if len(p.all) == 0 {
		b.add(setRefusedPorts, Element{Key: key})
	} else {
		b.add(setNodePorts, Element{Key: key, Chain: outside})
	}
}

// lead makes key lead to chain, or be refused when there is no endpoint anywhere.
func (b *builder) lead(key Key, chain string, endpoints []netip.AddrPort) {
	if len(endpoints) == 0 {
		b.add(setRefused, Element{Key: key})
	} else {
		b.add(setServices, Element{Key: key, Chain: chain})
	}
}

// addEndpoints makes the chain that picks one of endpoints and returns its name. With endpoints on other nodes only, it drops: a client
// tries again, and the endpoint may come.
func (b *builder) addEndpoints(name string, p *servicePort, endpoints []netip.AddrPort) string {
	if len(endpoints) == 0 {
		return chainDrop
	}
	endpoints = endpoints[:min(len(endpoints), endpointLimit)]
	if p.affinity == 0 {
		b.chain(name, Rule{isProtocol{p.protocol}, toOneOf{endpoints}})
		return name
	}
	var rules []Rule
	var to []string
	for _, at := range endpoints {
		chain, clients := b.addEndpoint(p, at)
		rules = append(rules, Rule{inSet{clients, byClient}, verdict{"goto", chain}})
		to = append(to, chain)
	}
	b.chain(name, append(rules, Rule{toChainOf{to}})...)
	return name
}

// addEndpoint makes the chain that leads to one endpoint and the set of the clients that stay with it. A client is forgotten some time after
// its last connection, or with the endpoint.
func (b *builder) addEndpoint(p *servicePort, at netip.AddrPort) (chain, clients string) {
	id := fmt.Sprintf("%s/%s/%d", p.name, at.Addr(), at.Port())
	chain, clients = "endpoint/"+id, "clients/"+id
	if b.sets[clients] == nil {
		b.declare(clients, []nftables.SetDatatype{nftables.TypeIPAddr}, nil).Dynamic = true
		b.chain(chain, Rule{isProtocol{p.protocol}, remember{clients, p.affinity}, toOneOf{[]netip.AddrPort{at}}})
	}
	return chain, clients
}

// addExternal makes the chain for those who come from outside and returns its name. Policy Cluster gives them the node's address, so that
// the answer comes back this way; policy Local keeps theirs and stays on this node, but for clients inside the cluster.
func (b *builder) addExternal(p *servicePort) string {
	if len(p.all) == 0 {
		return chainDrop
	}
	name := "external/" + p.name
	all := "service/" + p.name
	if p.internalLocal {
		all = b.addEndpoints("all/"+p.name, p, p.all)
	}
	if !p.externalLocal {
		b.chain(name, Rule{mark{}, verdict{"goto", all}})
		return name
	}
	local := b.addEndpoints("local/"+p.name, p, p.local)
	b.chain(name,
		Rule{addressIn{source: true, prefix: b.ClusterCIDR.Masked()}, verdict{"goto", all}},
		Rule{addressLocal{source: true}, mark{}, verdict{"goto", all}},
		Rule{verdict{"goto", local}})
	return name
}

// addFirewall makes the chain that lets only p's sources through to chain, when it names any.
func (b *builder) addFirewall(p *servicePort, chain string) string {
	if len(p.sources) == 0 || chain == chainDrop {
		return chain
	}
	name := "firewall/" + p.name
	var rules []Rule
	for _, prefix := range p.sources {
		rules = append(rules, Rule{addressIn{source: true, prefix: prefix}, verdict{"goto", chain}})
	}
	b.chain(name, append(rules, Rule{verdict{word: "drop"}})...)
	return name
}

// addHostPorts leads ports of the node to pods. Of two pods that want one port, the one with the lower address has it.
func (b *builder) addHostPorts() {
	pods := slices.SortedFunc(slices.Values(b.HostPorts), func(a, b cni.HostPorts) int { return a.PodIP.Compare(b.PodIP) })
	for _, pod := range pods {
		for _, m := range pod.Mappings {
			proto, ok := hostPortProtocols[strings.ToLower(m.Protocol)]
			if !ok || m.HostPort <= 0 || m.HostPort > 65535 || m.ContainerPort <= 0 || m.ContainerPort > 65535 {
				continue
			}
			to := netip.AddrPortFrom(pod.PodIP, uint16(m.ContainerPort))
			b.hairpin([]netip.AddrPort{to})
			e := Element{Key: Key{Protocol: proto, Port: uint16(m.HostPort)}, To: to}
			ip, err := netip.ParseAddr(m.HostIP)
			switch {
			case m.HostIP == "" || err == nil && ip.IsUnspecified():
				b.add(setHostPorts, e)
			case err == nil && ip.Is4():
				e.Key.Addr = ip
				b.add(setHostPortsAddr, e)
			}
		}
	}
}

var hostPortProtocols = map[string]protocol{"": tcp, "tcp": tcp, "udp": udp, "sctp": sctp}
