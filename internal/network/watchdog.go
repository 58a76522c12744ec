package network

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// condition is what became of the table since our last write.
type condition int

const (
	asLeft  condition = iota
	changed           // by somebody else
	unknown           // somebody wrote before we had looked at our own work
)

// look tells whether the table is as we left it; when it is not, the next apply writes all of it. As long as nobody changes any table, that
// costs one question to the kernel, and one reading of the table after each write of ours.
func (t *table) look() (condition, error) {
	if t.applied == nil {
		return unknown, nil
	}
	gen, err := t.generation()
	if err != nil {
		return unknown, err
	}
	if gen == t.gen && t.print != nil {
		return asLeft, nil
	}
	print, err := t.fingerprint()
	if err != nil {
		return unknown, fmt.Errorf("read table %s: %w", t.table.Name, err)
	}
	after, err := t.generation()
	switch {
	case err != nil:
		return unknown, err
	case after != gen:
		return asLeft, nil // somebody is at it: what was read may be half of it; the next look will tell
	case t.print == nil && gen == t.gen:
		t.print = print
	case t.print == nil:
		t.applied = nil
		return unknown, nil
	case !bytes.Equal(print, t.print):
		t.applied = nil
		return changed, nil
	}
	t.gen = gen
	return asLeft, nil
}

// fingerprint is a hash of what the kernel tells of the table. That includes handles, so a rule that was removed and put back counts as changed.
func (t *table) fingerprint() ([]byte, error) {
	sum := sha256.New()
	name := append([]byte(t.table.Name), 0)
	dumps := []struct {
		kind  netlink.HeaderType
		attrs []netlink.Attribute
	}{
		{unix.NFT_MSG_GETCHAIN, []netlink.Attribute{{Type: unix.NFTA_CHAIN_TABLE, Data: name}}},
		{unix.NFT_MSG_GETRULE, []netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: name}}},
	}
	for _, set := range []string{setServices, setNodePorts, setRefused, setRefusedPorts, setHairpin, setHostPorts, setHostPortsAddr} {
		dumps = append(dumps, struct {
			kind  netlink.HeaderType
			attrs []netlink.Attribute
		}{unix.NFT_MSG_GETSETELEM, []netlink.Attribute{
			{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: name}, {Type: unix.NFTA_SET_ELEM_LIST_SET, Data: append([]byte(set), 0)}}})
	}
	for _, d := range dumps {
		messages, err := request(d.kind, netlink.Request|netlink.Dump, unix.NFPROTO_IPV4, d.attrs)
		if errors.Is(err, unix.ENOENT) {
			return []byte("no table"), nil
		}
		if err != nil {
			return nil, err
		}
		var parts [][]byte
		for _, m := range messages {
			switch {
			case d.kind == unix.NFT_MSG_GETSETELEM:
				parts = append(parts, listed(m)...)
			case d.kind != unix.NFT_MSG_GETCHAIN || ofTable(m, t.table.Name): // the kernel does not filter chains
				parts = append(parts, m.Data[4:])
			}
		}
		if d.kind == unix.NFT_MSG_GETSETELEM { // a hash table tells its elements in any order
			slices.SortFunc(parts, bytes.Compare)
		}
		for _, part := range parts {
			sum.Write(part)
		}
	}
	return sum.Sum(nil), nil
}

// listed returns the elements in one message of a set's dump.
func listed(m netlink.Message) (elements [][]byte) {
	ad, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return nil
	}
	for ad.Next() {
		if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		ad.Nested(func(list *netlink.AttributeDecoder) error {
			for list.Next() {
				elements = append(elements, list.Bytes())
			}
			return nil
		})
	}
	return elements
}

func ofTable(m netlink.Message, table string) bool {
	ad, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return false
	}
	for ad.Next() {
		if ad.Type() == unix.NFTA_CHAIN_TABLE {
			return ad.String() == table
		}
	}
	return false
}

// generation counts the changes of all tables.
func (t *table) generation() (uint32, error) {
	messages, err := request(unix.NFT_MSG_GETGEN, netlink.Request, unix.NFPROTO_UNSPEC, nil)
	if err != nil {
		return 0, fmt.Errorf("ask nftables' generation: %w", err)
	}
	for _, m := range messages {
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return 0, err
		}
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				return binaryutil.BigEndian.Uint32(ad.Bytes()), nil
			}
		}
	}
	return 0, errors.New("ask nftables' generation: no answer")
}

// request sends one message to nftables and returns the answers.
func request(kind netlink.HeaderType, flags netlink.HeaderFlags, family byte, attrs []netlink.Attribute) ([]netlink.Message, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	return conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | kind, Flags: flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...),
	})
}
