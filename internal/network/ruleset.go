package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
)

// Ruleset is the whole content of the table. Its printed form is what `nft list table` would say, so it can be read, compared
// and kept as a golden file; two rulesets of the same text are the same.
type Ruleset struct {
	Table  string
	Sets   []Set   // sorted by name
	Chains []Chain // base chains first, then sorted by name
}

// Set is a named set or map.
type Set struct {
	Name     string
	Key      []nftables.SetDatatype
	Data     []nftables.SetDatatype // none: a set; verdict: a verdict map
	Dynamic  bool                   // filled by packets, not by us
	Elements []Element              // sorted
}

// Element is one member of a Set. Its fields print in nft's form.
type Element struct {
	Key   Key
	Chain string         // of a verdict map: where to go on
	To    netip.AddrPort // of a map to an endpoint
}

// Key is the key of an Element: the fields that the set's type has, in the order address, other address, protocol, port.
type Key struct {
	Addr, Other netip.Addr
	Protocol    protocol
	Port        uint16
}

func (k Key) String() string {
	var parts []string
	for _, a := range []netip.Addr{k.Addr, k.Other} {
		if a.IsValid() {
			parts = append(parts, a.String())
		}
	}
	if k.Protocol != 0 {
		parts = append(parts, k.Protocol.String(), fmt.Sprint(k.Port))
	}
	return strings.Join(parts, " . ")
}

func (e Element) String() string {
	switch {
	case e.Chain != "":
		return e.Key.String() + " : goto " + e.Chain
	case e.To.IsValid():
		return e.Key.String() + " : " + addrPort(e.To)
	}
	return e.Key.String()
}

func addrPort(a netip.AddrPort) string { return fmt.Sprintf("%s . %d", a.Addr(), a.Port()) }

// Chain is a base chain, when it has a Hook, or one that others go to.
type Chain struct {
	Name     string
	Type     nftables.ChainType
	Hook     string // prerouting, output, postrouting, forward
	Priority int
	Rules    []Rule
}

// Rule is a list of matches and a statement.
type Rule []Part

func (r Rule) String() string {
	texts := make([]string, len(r))
	for i, p := range r {
		texts[i] = p.String()
	}
	return strings.Join(texts, " ")
}

// Part is one expression of a rule: its text, and (in emit.go) what the kernel gets.
type Part interface {
	fmt.Stringer
	emitter
}

// The parts. Each one's text says all there is to it.
type (
	interfaceIs struct { // iifname or oifname
		in, not bool
		name    string
	}
	addressIn struct { // ip saddr or ip daddr
		source, not bool
		prefix      netip.Prefix
	}
	addressLocal struct{ source bool } // an address of this node
	isProtocol   struct{ protocol protocol }
	isNew        struct{} // first packet of a connection
	isTranslated struct{} // of a connection whose destination was changed
	isRedirect   struct{} // ICMP redirect
	inSet        struct {
		set string
		key keyKind
	}
	verdictOf struct {
		set string
		key keyKind
	}
	mark         struct{} // asks for the node's address as source, see marked
	marked       struct{}
	masquerade   struct{}
	rejectIt     struct{ reset bool }         // by a TCP reset, or by ICMP
	verdict      struct{ word, chain string } // drop, goto CHAIN
	toEndpointOf struct {
		set string
		key keyKind
	}
	toOneOf   struct{ endpoints []netip.AddrPort }
	toChainOf struct{ chains []string } // one of them, at random
	remember  struct {                  // the client's address, for a time after its last connection
		set     string
		timeout time.Duration
	}
)

// keyKind is what of a packet is looked up in a set.
type keyKind int

const (
	byService keyKind = iota // destination address, protocol and port
	byPort                   // protocol and destination port
	byPair                   // source and destination address
	byClient                 // source address
)

func (k keyKind) String() string {
	return [...]string{"ip daddr . meta l4proto . th dport", "meta l4proto . th dport", "ip saddr . ip daddr", "ip saddr"}[k]
}

// masqueradeMark is the bit of a packet's mark that asks for the node's address; other bits are left alone.
const masqueradeMark = 0x4000

func (p interfaceIs) String() string {
	return fmt.Sprintf("%s %s%q", pick(p.in, "iifname", "oifname"), pick(p.not, "!= ", ""), p.name)
}

func (p addressIn) String() string {
	return fmt.Sprintf("ip %s %s%s", pick(p.source, "saddr", "daddr"), pick(p.not, "!= ", ""), prefixText(p.prefix))
}

func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func (p addressLocal) String() string {
	return "fib " + pick(p.source, "saddr", "daddr") + " type local"
}
func (p isProtocol) String() string { return "meta l4proto " + p.protocol.String() }
func (isNew) String() string        { return "ct state new" }
func (isTranslated) String() string { return "ct status dnat" }
func (isRedirect) String() string   { return "icmp type redirect" }
func (p inSet) String() string      { return p.key.String() + " @" + p.set }
func (p verdictOf) String() string  { return p.key.String() + " vmap @" + p.set }
func (mark) String() string         { return fmt.Sprintf("meta mark set meta mark | 0x%08x", masqueradeMark) }
func (marked) String() string {
	return fmt.Sprintf("meta mark & 0x%08x == 0x%08x meta mark set meta mark ^ 0x%08x", masqueradeMark, masqueradeMark, masqueradeMark)
}
func (masquerade) String() string { return "masquerade fully-random" }
func (p rejectIt) String() string { return "reject" + pick(p.reset, " with tcp reset", "") }
func (p verdict) String() string  { return strings.TrimSpace(p.word + " " + p.chain) }
func (p toEndpointOf) String() string {
	return "dnat ip to " + p.key.String() + " map @" + p.set
}

func (p toOneOf) String() string {
	if len(p.endpoints) == 1 {
		return "dnat to " + p.endpoints[0].String()
	}
	return fmt.Sprintf("dnat ip to numgen random mod %d map %s", len(p.endpoints), choice(p.endpoints, addrPort))
}

func choice[T any](items []T, text func(T) string) string {
	texts := make([]string, len(items))
	for i, item := range items {
		texts[i] = fmt.Sprintf("%d : %s", i, text(item))
	}
	return "{ " + strings.Join(texts, ", ") + " }"
}

func (p toChainOf) String() string {
	if len(p.chains) == 1 {
		return "goto " + p.chains[0]
	}
	return fmt.Sprintf("numgen random mod %d vmap %s", len(p.chains), choice(p.chains, func(c string) string { return "goto " + c }))
}

func (p remember) String() string {
	return fmt.Sprintf("update @%s { ip saddr timeout %ds }", p.set, int(p.timeout.Seconds()))
}

func pick(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}

func (r Ruleset) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table ip %s {\n", r.Table)
	for _, s := range r.Sets {
		b.WriteString(s.String())
	}
	for _, c := range r.Chains {
		b.WriteString(c.String())
	}
	b.WriteString("}\n")
	return b.String()
}

func typeText(types []nftables.SetDatatype) string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.Name
	}
	return strings.Join(names, " . ")
}

func (s Set) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\t%s %s {\n\t\ttype %s", pick(len(s.Data) > 0, "map", "set"), s.Name, typeText(s.Key))
	if len(s.Data) > 0 {
		b.WriteString(" : " + typeText(s.Data))
	}
	b.WriteString("\n")
	if s.Dynamic {
		fmt.Fprintf(&b, "\t\tsize %d\n\t\tflags dynamic,timeout\n", clientsSize)
	}
	if len(s.Elements) > 0 {
		b.WriteString("\t\telements = {\n")
		for _, e := range s.Elements {
			fmt.Fprintf(&b, "\t\t\t%s,\n", e)
		}
		b.WriteString("\t\t}\n")
	}
	b.WriteString("\t}\n")
	return b.String()
}

func (c Chain) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\tchain %s {\n", c.Name)
	if c.Hook != "" {
		fmt.Fprintf(&b, "\t\ttype %s hook %s priority %d; policy accept;\n", c.Type, c.Hook, c.Priority)
	}
	for _, r := range c.Rules {
		fmt.Fprintf(&b, "\t\t%s\n", r)
	}
	b.WriteString("\t}\n")
	return b.String()
}

func compareElements(a, b Element) int {
	if c := a.Key.Addr.Compare(b.Key.Addr); c != 0 {
		return c
	}
	if c := a.Key.Other.Compare(b.Key.Other); c != 0 {
		return c
	}
	return slices.Compare([]int{int(a.Key.Protocol), int(a.Key.Port)}, []int{int(b.Key.Protocol), int(b.Key.Port)})
}
