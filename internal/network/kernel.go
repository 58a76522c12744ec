package network

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// CheckKernel returns what this machine lacks for the pods' network, one line for each. It tries in a network namespace of its own,
// so nothing is left; trying also loads modules.
func CheckKernel() []error {
	result := make(chan []error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the namespace with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- []error{fmt.Errorf("network namespaces are not to be had (%w): run as root with CAP_SYS_ADMIN", err)}
			return
		}
		errs := []error{
			tryLink(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "try0"}}, "bridge"),
			tryLink(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "try1"}, PeerName: "try2"}, "veth"),
			tryTable(),
		}
		result <- slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	}()
	return <-result
}

var tryEndpoints = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")}

func tryLink(link netlink.Link, module string) error {
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("the kernel makes no %s interface (%w): load the module %s", module, err, module)
	}
	return nil
}

// tryTable writes the rules of a node without services, and one that picks an endpoint.
func tryTable() error {
	conn, err := nftables.New()
	if err == nil {
		t := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "try"})
		c := conn.AddChain(&nftables.Chain{Table: t, Name: "try", Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
		rule := &emission{conn: conn, table: t}
		for _, p := range []Part{isNew{}, isTranslated{}, addressLocal{}, isProtocol{udp}, toOneOf{tryEndpoints}} {
			err = errors.Join(err, p.emit(rule))
		}
		conn.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: rule.exprs})
		post := conn.AddChain(&nftables.Chain{Table: t, Name: "try2", Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
		conn.AddRule(&nftables.Rule{Table: t, Chain: post, Exprs: []expr.Any{&expr.Masq{FullyRandom: true}}})
		err = errors.Join(err, conn.Flush())
	}
	if err != nil {
		return fmt.Errorf("the kernel's nftables cannot translate addresses (%w): load the modules nf_tables, nft_chain_nat, nft_fib_ipv4, nft_numgen, nft_masq", err)
	}
	return nil
}
