package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/gitopsd/gitopsd/internal/network/cni"
)

// Remove takes away table, bridge, what is left of pods' interfaces, the CNI configuration and the addresses in use. It needs
// only Bridge, Table, CNIConfDir and DataDir of c. Forwarding stays on: others may have come to need it.
func Remove(c Config) error {
	var errs []error
	t, err := newTable(c.Table)
	if err == nil {
		err = t.remove()
	}
	errs = append(errs, err, removeLinks(c.Bridge))
	if c.CNIConfDir != "" {
		if err := os.Remove(filepath.Join(c.CNIConfDir, ConfFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if c.DataDir != "" {
		errs = append(errs, os.RemoveAll(cni.IPAMDir(c.DataDir)), os.RemoveAll(cni.HostPortDir(c.DataDir)))
		if err := os.Remove(filepath.Join(c.DataDir, "boot_id")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove network: %w", err)
	}
	return nil
}

// removeLinks deletes the bridge and before it the pods' ports on it.
func removeLinks(bridge string) error {
	br, err := netlink.LinkByName(bridge)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridge, err)
	}
	if br.Type() != "bridge" {
		return fmt.Errorf("delete %s: it is a %s, not a bridge of ours", bridge, br.Type())
	}
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var errs []error
	for _, l := range links {
		if l.Attrs().MasterIndex == br.Attrs().Index && strings.HasPrefix(l.Attrs().Name, cni.LinkPrefix) {
			if err := netlink.LinkDel(l); err != nil && !errors.As(err, new(netlink.LinkNotFoundError)) {
				errs = append(errs, fmt.Errorf("delete %s: %w", l.Attrs().Name, err))
			}
		}
	}
	if err := netlink.LinkDel(br); err != nil {
		errs = append(errs, fmt.Errorf("delete bridge %s: %w", bridge, err))
	}
	return errors.Join(errs...)
}
