package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"
	"github.com/vishvananda/netlink"
)

// notAvailable is the CNI specification's code for a plugin that cannot serve an ADD now.
const notAvailable = 50

// Main runs the plugin for one call of the container runtime.
func Main() {
	skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Del: del, Check: check, GC: collect, Status: status},
		version.PluginSupports("1.0.0", Version), "gitopsd's bridge plugin")
}

// linkName names the node's end of a pod's veth pair: it can be found again without any state.
func linkName(container, ifName string) string {
	sum := sha256.Sum256([]byte(container + "/" + ifName))
	return LinkPrefix + hex.EncodeToString(sum[:6])
}

func add(args *skel.CmdArgs) (err error) {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	ip, err := c.allocate(args.ContainerID, args.IfName)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil { // the runtime calls DEL too, but not every one
			_ = c.release(args.ContainerID, args.IfName)
		}
	}()
	a := attachment{conf: c, ip: ip, ifName: args.IfName, link: linkName(args.ContainerID, args.IfName)}
	mac, err := a.attach(args.Netns)
	if err != nil {
		return fmt.Errorf("connect %s to bridge %s: %w", ip, c.Bridge, err)
	}
	if maps := c.RuntimeConfig.PortMappings; len(maps) > 0 {
		if err := writeHostPorts(c.DataDir, args.ContainerID, args.IfName, HostPorts{PodIP: ip, Mappings: maps}); err != nil {
			return fmt.Errorf("note host ports: %w", err)
		}
	}
	pod := 2 // index of the pod's interface below
	return types.PrintResult(&current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{{Name: c.Bridge}, {Name: a.link}, {Name: args.IfName, Mac: mac, Sandbox: args.Netns}},
		IPs:        []*current.IPConfig{{Interface: &pod, Address: hostNet(ip), Gateway: c.Gateway.AsSlice()}},
		Routes:     []*types.Route{{Dst: net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, GW: c.Gateway.AsSlice()}},
	}, c.CNIVersion)
}

func hostNet(ip netip.Addr) net.IPNet {
	return net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(32, 32)}
}

func del(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	return c.release(args.ContainerID, args.IfName)
}

// release takes back what a pod has: ports first, so that nothing is sent to an address that another pod may get.
func (c *Conf) release(container, ifName string) error {
	err := os.Remove(hostPortFile(c.DataDir, container, ifName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget host ports: %w", err)
	}
	if link, err := netlink.LinkByName(linkName(container, ifName)); err == nil {
		if err := netlink.LinkDel(link); err != nil {
			return fmt.Errorf("delete link %s: %w", link.Attrs().Name, err)
		}
	} else if !errors.As(err, new(netlink.LinkNotFoundError)) {
		return fmt.Errorf("find link: %w", err)
	}
	store, err := disk.New(NetworkName, IPAMDir(c.DataDir))
	if err != nil {
		return fmt.Errorf("open addresses: %w", err)
	}
	defer store.Close()
	for _, ip := range store.GetByID(container, ifName) {
		if err := c.forgetNeighbour(ip); err != nil {
			return err
		}
	}
	if err := store.ReleaseByID(container, ifName); err != nil {
		return fmt.Errorf("release address: %w", err)
	}
	return nil
}

func (c *Conf) forgetNeighbour(ip net.IP) error {
	bridge, err := netlink.LinkByName(c.Bridge)
	if err != nil {
		return nil // with the bridge its neighbours are gone
	}
	err = netlink.NeighDel(&netlink.Neigh{LinkIndex: bridge.Attrs().Index, IP: ip})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget neighbour %s: %w", ip, err)
	}
	return nil
}

// allocate reserves an address for a pod. One that the same pod still has, from a call that was cut off, is given back first.
func (c *Conf) allocate(container, ifName string) (netip.Addr, error) {
	store, err := disk.New(NetworkName, IPAMDir(c.DataDir))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("open addresses: %w", err)
	}
	defer store.Close()
	_ = store.ReleaseByID(container, ifName)
	subnet := net.IPNet{IP: c.Subnet.Masked().Addr().AsSlice(), Mask: net.CIDRMask(c.Subnet.Bits(), 32)}
	set := allocator.RangeSet{{Subnet: types.IPNet(subnet), Gateway: c.Gateway.AsSlice()}}
	if err := set.Canonicalize(); err != nil {
		return netip.Addr{}, fmt.Errorf("read subnet %s: %w", c.Subnet, err)
	}
	got, err := allocator.NewIPAllocator(&set, store, 0).Get(container, ifName, nil)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("allocate address of %s: %w", c.Subnet, err)
	}
	ip, _ := netip.AddrFromSlice(got.Address.IP)
	return ip.Unmap(), nil
}

func check(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(linkName(args.ContainerID, args.IfName))
	if err != nil {
		return fmt.Errorf("find link: %w", err)
	}
	bridge, err := netlink.LinkByName(c.Bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", c.Bridge, err)
	}
	if link.Attrs().MasterIndex != bridge.Attrs().Index {
		return fmt.Errorf("link %s is no port of bridge %s", link.Attrs().Name, c.Bridge)
	}
	store, err := disk.New(NetworkName, IPAMDir(c.DataDir))
	if err != nil {
		return fmt.Errorf("open addresses: %w", err)
	}
	defer store.Close()
	if len(store.GetByID(args.ContainerID, args.IfName)) == 0 {
		return fmt.Errorf("container %s has no address", args.ContainerID)
	}
	return nil
}

func status(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	if _, err := netlink.LinkByName(c.Bridge); err != nil {
		return types.NewError(notAvailable, fmt.Sprintf("find bridge %s", c.Bridge), err.Error())
	}
	return nil
}

// collect releases what containers have that the runtime no longer knows.
func collect(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	valid := map[string]bool{}
	for _, a := range c.ValidAttachments {
		valid[a.ContainerID+"\n"+a.IfName] = true
	}
	reserved, err := reservations(c.DataDir)
	if err != nil {
		return err
	}
	for _, owner := range reserved {
		if container, ifName, _ := strings.Cut(owner, "\n"); !valid[owner] {
			err = errors.Join(err, c.release(container, ifName))
		}
	}
	return err
}

// reservations returns who has addresses, as `container\ninterface`, sorted.
func reservations(dataDir string) ([]string, error) {
	dir := filepath.Join(IPAMDir(dataDir), NetworkName)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var owners []string
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err != nil {
			continue // a lock, or the last address given
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // released just now
		}
		owners = append(owners, strings.ReplaceAll(strings.TrimSpace(string(data)), "\r\n", "\n"))
	}
	slices.Sort(owners)
	return slices.Compact(owners), nil
}
