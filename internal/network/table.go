package network

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// elementsAtOnce keeps the list in one message below netlink's 64 KB, with chains of the longest names.
	elementsAtOnce = 64
	// bufferSize holds one transaction on its way to the kernel, and its acknowledgements.
	bufferSize = 16 << 20
)

// table makes the kernel's table follow a Ruleset. Every apply is one transaction: all of it holds, or nothing.
type table struct {
	conn    *nftables.Conn
	table   *nftables.Table
	applied *Ruleset // what the kernel has; nil: not known
	gen     uint32   // of all tables when ours was last known to be right
	print   []byte   // fingerprint of ours then; nil: not taken yet
}

func newTable(name string) (*table, error) {
	conn, err := nftables.New(nftables.WithSockOptions(enlargeBuffers))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return &table{conn: conn, table: &nftables.Table{Family: nftables.TableFamilyIPv4, Name: name}}, nil
}

func enlargeBuffers(c *mdnetlink.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var errs error
	err = raw.Control(func(fd uintptr) {
		errs = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, bufferSize),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bufferSize))
	})
	return errors.Join(err, errs)
}

// apply makes the table's content r, by the difference to what it has, or by writing all of it when that is not known. It tells whether it
// wrote anything.
func (t *table) apply(r Ruleset) (changed bool, err error) {
	var before Ruleset
	if t.applied != nil {
		before = *t.applied
	}
	remembered := map[string][]nftables.SetElement{}
	if t.applied == nil {
		if remembered, err = t.remembered(r); err != nil {
			return false, fmt.Errorf("read remembered clients: %w", err)
		}
		t.conn.AddTable(t.table) // so that there is one to delete
		t.conn.DelTable(t.table)
		t.conn.AddTable(t.table)
		changed = true
	}
	n, err := t.difference(before, r, remembered)
	if err != nil {
		return false, err
	}
	if changed = changed || n > 0; !changed {
		return false, nil
	}
	t.applied = nil
	gen, err := t.generation()
	if err != nil {
		return false, err
	}
	if err := t.conn.Flush(); err != nil {
		return false, fmt.Errorf("write table %s: %w", t.table.Name, err)
	}
	// Every transaction counts one. If another one came in between, look sees another generation than this.
	t.applied, t.gen, t.print = &r, gen+1, nil
	return true, nil
}

// difference puts into the transaction what leads from one ruleset to the other, and returns the number of changes. The
// order matters: what is referred to is made before and removed after what refers to it.
func (t *table) difference(from, to Ruleset, remembered map[string][]nftables.SetElement) (changes int, err error) {
	oldSets, newSets := index(from.Sets, Set.name), index(to.Sets, Set.name)
	oldChains, newChains := index(from.Chains, Chain.name), index(to.Chains, Chain.name)
	for _, s := range to.Sets {
		if _, have := oldSets[s.Name]; !have {
			changes++
			if err := t.addSet(s, remembered[s.Name]); err != nil {
				return 0, err
			}
		}
	}
	for _, c := range to.Chains {
		if _, have := oldChains[c.Name]; !have {
			changes++
			t.conn.AddChain(t.chain(c))
		}
	}
	for _, c := range to.Chains {
		old, have := oldChains[c.Name]
		if have && old.String() == c.String() {
			continue
		}
		changes++
		if err := t.writeRules(c, have); err != nil {
			return 0, fmt.Errorf("write chain %s: %w", c.Name, err)
		}
	}
	for _, s := range to.Sets {
		n, err := t.writeElements(oldSets[s.Name], s)
		if err != nil {
			return 0, fmt.Errorf("write set %s: %w", s.Name, err)
		}
		changes += n
	}
	gone := slices.DeleteFunc(slices.Clone(from.Chains), func(c Chain) bool { _, stays := newChains[c.Name]; return stays })
	for _, c := range gone { // they may refer to one another
		t.conn.FlushChain(t.chain(c))
	}
	for _, c := range gone {
		changes++
		t.conn.DelChain(t.chain(c))
	}
	for _, s := range from.Sets {
		if _, stays := newSets[s.Name]; !stays {
			changes++
			t.conn.DelSet(t.set(s))
		}
	}
	return changes, nil
}

func (s Set) name() string   { return s.Name }
func (c Chain) name() string { return c.Name }

func index[T any](items []T, name func(T) string) map[string]T {
	m := make(map[string]T, len(items))
	for _, item := range items {
		m[name(item)] = item
	}
	return m
}

func (t *table) chain(c Chain) *nftables.Chain {
	nc := &nftables.Chain{Table: t.table, Name: c.Name, Type: c.Type}
	if c.Hook != "" {
		hooks := map[string]*nftables.ChainHook{"prerouting": nftables.ChainHookPrerouting, "output": nftables.ChainHookOutput,
			"postrouting": nftables.ChainHookPostrouting, "forward": nftables.ChainHookForward}
		nc.Hooknum, nc.Priority = hooks[c.Hook], nftables.ChainPriorityRef(nftables.ChainPriority(c.Priority))
	}
	return nc
}

func (t *table) writeRules(c Chain, flush bool) error {
	chain := t.chain(c)
	if flush {
		t.conn.FlushChain(chain)
	}
	for _, r := range c.Rules {
		e := &emission{conn: t.conn, table: t.table}
		for _, part := range r {
			if err := part.emit(e); err != nil {
				return fmt.Errorf("rule %q: %w", r, err)
			}
		}
		t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: chain, Exprs: e.exprs})
	}
	return nil
}

// set is the kernel's form of a set's declaration.
func (t *table) set(s Set) *nftables.Set {
	ns := &nftables.Set{Table: t.table, Name: s.Name, KeyType: s.Key[0], Concatenation: len(s.Key) > 1}
	if len(s.Key) > 1 {
		ns.KeyType = nftables.MustConcatSetType(s.Key...)
	}
	if len(s.Data) > 0 {
		ns.IsMap, ns.DataType = true, s.Data[0]
	}
	if len(s.Data) > 1 {
		ns.DataType = nftables.MustConcatSetType(s.Data...)
	}
	if s.Dynamic {
		ns.Dynamic, ns.HasTimeout, ns.Size = true, true, clientsSize
	}
	return ns
}

// addSet declares a set; its own elements are written later, when the chains they name exist.
func (t *table) addSet(s Set, remembered []nftables.SetElement) error {
	ns := t.set(s)
	if err := t.conn.AddSet(ns, nil); err != nil {
		return fmt.Errorf("add set %s: %w", s.Name, err)
	}
	return t.elements(ns, remembered, t.conn.SetAddElements)
}

// elements hands elements to f in portions that fit into a message.
func (t *table) elements(s *nftables.Set, elements []nftables.SetElement, f func(*nftables.Set, []nftables.SetElement) error) error {
	for part := range slices.Chunk(elements, elementsAtOnce) {
		if err := f(s, part); err != nil {
			return err
		}
	}
	return nil
}

// writeElements brings the elements of a set from one state to the other. One that only changes its value is deleted and added.
func (t *table) writeElements(from, to Set) (changes int, err error) {
	if to.Dynamic {
		return 0, nil
	}
	have, want := map[Element]bool{}, map[Element]bool{}
	for _, e := range from.Elements {
		have[e] = true
	}
	var del, add []nftables.SetElement
	for _, e := range to.Elements {
		want[e] = true
		if !have[e] {
			add = append(add, e.set())
		}
	}
	for _, e := range from.Elements {
		if !want[e] {
			del = append(del, nftables.SetElement{Key: e.Key.bytes()})
		}
	}
	if err := t.elements(t.set(to), del, t.conn.SetDeleteElements); err != nil {
		return 0, err
	}
	return len(add) + len(del), t.elements(t.set(to), add, t.conn.SetAddElements)
}

// clients returns what packets have put into a dynamic set; a set that is not there has none.
func (t *table) clients(s Set) ([]nftables.SetElement, error) {
	_, err := request(unix.NFT_MSG_GETSET, mdnetlink.Request, unix.NFPROTO_IPV4, []mdnetlink.Attribute{
		{Type: unix.NFTA_SET_TABLE, Data: append([]byte(t.table.Name), 0)}, {Type: unix.NFTA_SET_NAME, Data: append([]byte(s.Name), 0)}})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return t.conn.GetSetElements(t.set(s))
}

// remembered reads the clients of an existing table, as far as r has a place for them: a table that is written anew keeps them.
func (t *table) remembered(r Ruleset) (map[string][]nftables.SetElement, error) {
	kept := map[string][]nftables.SetElement{}
	for _, s := range r.Sets {
		if !s.Dynamic {
			continue
		}
		elements, err := t.clients(s)
		if err != nil {
			return nil, err
		}
		for _, e := range elements {
			kept[s.Name] = append(kept[s.Name], nftables.SetElement{Key: e.Key, Timeout: e.Timeout})
		}
	}
	return kept, nil
}

// remove deletes the table.
func (t *table) remove() error {
	t.applied = nil
	t.conn.AddTable(t.table) // so that there is one to delete
	t.conn.DelTable(t.table)
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("delete table %s: %w", t.table.Name, err)
	}
	return nil
}
