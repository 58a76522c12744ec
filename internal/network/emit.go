package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Registers of the kernel's rule machine. Values longer than four bytes take several in a row; reg1 is the first four of them under its old name.
const (
	reg1    = unix.NFT_REG_1
	reg1_1  = unix.NFT_REG32_01
	reg1_2  = unix.NFT_REG32_02
	regAddr = reg1   // of an endpoint in reg1
	regPort = reg1_1 // of an endpoint in reg1
)

// emitter is what a Part tells the kernel.
type emitter interface {
	emit(e *emission) error
}

// emission collects the expressions of one rule. Anonymous maps become part of the transaction at once.
type emission struct {
	conn  *nftables.Conn
	table *nftables.Table
	exprs []expr.Any
}

func (e *emission) add(exprs ...expr.Any) error {
	e.exprs = append(e.exprs, exprs...)
	return nil
}

func loadAddr(source bool, register uint32) expr.Any {
	offset := uint32(16) // of the IPv4 header
	if source {
		offset = 12
	}
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}
}

// load puts a key into reg1 and the registers after it.
func (k keyKind) load() []expr.Any {
	port := func(register uint32) expr.Any {
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
	}
	switch k {
	case byService:
		return []expr.Any{loadAddr(false, reg1), &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1_1}, port(reg1_2)}
	case byPort:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1}, port(reg1_1)}
	case byClient:
		return []expr.Any{loadAddr(true, reg1)}
	default:
		return []expr.Any{loadAddr(true, reg1), loadAddr(false, reg1_1)}
	}
}

func compare(register uint32, not bool, data []byte) expr.Any {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	return &expr.Cmp{Op: op, Register: register, Data: data}
}

func native(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

func (p interfaceIs) emit(e *emission) error {
	key := expr.MetaKeyOIFNAME
	if p.in {
		key = expr.MetaKeyIIFNAME
	}
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, p.name)
	return e.add(&expr.Meta{Key: key, Register: reg1}, compare(reg1, p.not, name))
}

func (p addressIn) emit(e *emission) error {
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.prefix.Bits()))
	err := e.add(loadAddr(p.source, reg1))
	if p.prefix.Bits() < 32 {
		err = e.add(&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: mask, Xor: make([]byte, 4)})
	}
	if err != nil {
		return err
	}
	return e.add(compare(reg1, p.not, p.prefix.Masked().Addr().AsSlice()))
}

func (p addressLocal) emit(e *emission) error {
	return e.add(&expr.Fib{Register: reg1, ResultADDRTYPE: true, FlagSADDR: p.source, FlagDADDR: !p.source},
		compare(reg1, false, native(unix.RTN_LOCAL)))
}

func (p isProtocol) emit(e *emission) error {
	return e.add(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1}, compare(reg1, false, []byte{byte(p.protocol)}))
}

func (isNew) emit(e *emission) error {
	return e.add(&expr.Ct{Register: reg1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: native(expr.CtStateBitNEW), Xor: make([]byte, 4)},
		compare(reg1, true, make([]byte, 4)))
}

func (isTranslated) emit(e *emission) error {
	const dnat = 1 << 5 // IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h
	return e.add(&expr.Ct{Register: reg1, Key: expr.CtKeySTATUS},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: native(dnat), Xor: make([]byte, 4)},
		compare(reg1, true, make([]byte, 4)))
}

func (isRedirect) emit(e *emission) error {
	const icmpRedirect = 5
	return e.add(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1}, compare(reg1, false, []byte{unix.IPPROTO_ICMP}),
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1}, compare(reg1, false, []byte{icmpRedirect}))
}

func (p inSet) emit(e *emission) error {
	_ = e.add(p.key.load()...)
	return e.add(&expr.Lookup{SourceRegister: reg1, SetName: p.set})
}

func (p verdictOf) emit(e *emission) error {
	_ = e.add(p.key.load()...)
	return e.add(&expr.Lookup{SourceRegister: reg1, SetName: p.set, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT})
}

func (mark) emit(e *emission) error {
	return e.add(&expr.Meta{Key: expr.MetaKeyMARK, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: native(^uint32(masqueradeMark)), Xor: native(masqueradeMark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg1})
}

func (marked) emit(e *emission) error {
	return e.add(&expr.Meta{Key: expr.MetaKeyMARK, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: native(masqueradeMark), Xor: make([]byte, 4)},
		compare(reg1, false, native(masqueradeMark)),
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: native(^uint32(0)), Xor: native(masqueradeMark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg1})
}

func (masquerade) emit(e *emission) error { return e.add(&expr.Masq{FullyRandom: true}) }

// icmpPortUnreachable is what a packet to a closed port is answered with.
const icmpPortUnreachable = 3

func (p rejectIt) emit(e *emission) error {
	if p.reset {
		return e.add(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
	}
	return e.add(&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable})
}

func (p verdict) emit(e *emission) error {
	switch p.word {
	case "drop":
		return e.add(&expr.Verdict{Kind: expr.VerdictDrop})
	case "goto":
		return e.add(&expr.Verdict{Kind: expr.VerdictGoto, Chain: p.chain})
	}
	return fmt.Errorf("unknown verdict %q", p.word)
}

// toEndpoint sends the packet to the endpoint in reg1.
func (e *emission) toEndpoint() error {
	return e.add(&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: regAddr, RegProtoMin: regPort, Specified: true})
}

func (p toEndpointOf) emit(e *emission) error {
	_ = e.add(p.key.load()...)
	_ = e.add(&expr.Lookup{SourceRegister: reg1, SetName: p.set, IsDestRegSet: true, DestRegister: reg1})
	return e.toEndpoint()
}

func (p toOneOf) emit(e *emission) error {
	if err := e.choose(p.endpoints); err != nil {
		return err
	}
	return e.toEndpoint()
}

// choose puts one of the endpoints into reg1, at random.
func (e *emission) choose(endpoints []netip.AddrPort) error {
	if len(endpoints) == 1 {
		at := endpointBytes(endpoints[0])
		return e.add(&expr.Immediate{Register: regAddr, Data: at[:4]}, &expr.Immediate{Register: regPort, Data: at[4:6]})
	}
	elements := make([]nftables.SetElement, len(endpoints))
	for i, at := range endpoints {
		elements[i].Val = endpointBytes(at)
	}
	return e.draw(nftables.MustConcatSetType(endpointAt...), elements, reg1)
}

func (p toChainOf) emit(e *emission) error {
	if len(p.chains) == 1 {
		return e.add(&expr.Verdict{Kind: expr.VerdictGoto, Chain: p.chains[0]})
	}
	elements := make([]nftables.SetElement, len(p.chains))
	for i, c := range p.chains {
		elements[i].VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: c}
	}
	return e.draw(nftables.TypeVerdict, elements, unix.NFT_REG_VERDICT)
}

// draw puts what one of the elements holds into a register, at random. The keys are numbers in network order: the library declares
// them so, and nft would print others wrongly.
func (e *emission) draw(kind nftables.SetDatatype, elements []nftables.SetElement, register uint32) error {
	for i := range elements {
		elements[i].Key = binary.BigEndian.AppendUint32(nil, uint32(i))
	}
	set := &nftables.Set{Table: e.table, Anonymous: true, Constant: true, IsMap: true, KeyType: nftables.TypeInteger, DataType: kind}
	if err := e.conn.AddSet(set, elements); err != nil {
		return fmt.Errorf("add anonymous map: %w", err)
	}
	return e.add(&expr.Numgen{Register: reg1, Modulus: uint32(len(elements)), Type: unix.NFT_NG_RANDOM},
		&expr.Byteorder{SourceRegister: reg1, DestRegister: reg1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Lookup{SourceRegister: reg1, DestRegister: register, IsDestRegSet: true, SetID: set.ID, SetName: set.Name})
}

func (p remember) emit(e *emission) error {
	return e.add(loadAddr(true, reg1),
		&expr.Dynset{SrcRegKey: reg1, SetName: p.set, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: p.timeout})
}

// endpointBytes is an endpoint as a map holds it: address, port, padding.
func endpointBytes(at netip.AddrPort) []byte {
	b := binary.BigEndian.AppendUint16(at.Addr().AsSlice(), at.Port())
	return append(b, 0, 0)
}

// bytes is a key as a set holds it: every field padded to four bytes.
func (k Key) bytes() []byte {
	var b []byte
	for _, a := range []netip.Addr{k.Addr, k.Other} {
		if a.IsValid() {
			b = append(b, a.AsSlice()...)
		}
	}
	if k.Protocol != 0 {
		b = append(b, byte(k.Protocol), 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, k.Port)
		b = append(b, 0, 0)
	}
	return b
}

func (e Element) set() nftables.SetElement {
	el := nftables.SetElement{Key: e.Key.bytes()}
	switch {
	case e.Chain != "":
		el.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: e.Chain}
	case e.To.IsValid():
		el.Val = endpointBytes(e.To)
	}
	return el
}
