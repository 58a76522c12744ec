// Package cni is the CNI plugin of a node: it gives a pod's network namespace an address and a way to the node.
//
// In: the CNI 1.1 call (environment and configuration) of the container runtime. Out: a veth pair, one end `eth0` in the pod with an
// address as /32, the other a port of the node's bridge, and the result in JSON; a pod's host ports are left as a file in a
// directory that package network watches. DEL takes all of it back and may be called any number of times.
//
// No ARP is spoken and no flooding done: both sides get permanent neighbours, so no pod can claim another's address. It makes no rule in
// the packet filter, and refuses to make the bridge: both are package network's.
package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

const (
	// PluginType is the name of the plugin's program.
	PluginType = "gitopsd-bridge"
	// NetworkName is the network's name in the configuration, and below it the addresses are kept.
	NetworkName = "gitopsd"
	// Version is the CNI version of the configuration.
	Version = "1.1.0"
	// LinkPrefix begins the name of a pod's end in the node's namespace.
	LinkPrefix = "gd"
)

// Conf is the plugin's part of the configuration list.
type Conf struct {
	CNIVersion   string          `json:"cniVersion,omitempty"`
	Name         string          `json:"name,omitempty"`
	Type         string          `json:"type"`
	Capabilities map[string]bool `json:"capabilities,omitempty"`
	// ValidAttachments lists, for GC, what the runtime still knows.
	ValidAttachments []types.GCAttachment `json:"cni.dev/valid-attachments,omitempty"`

	// Bridge is the node's bridge; its address is Gateway.
	Bridge string `json:"bridge"`
	// Subnet is the podCIDR of the node.
	Subnet netip.Prefix `json:"subnet"`
	// Gateway is the bridge's address, of Subnet and never given to a pod.
	Gateway netip.Addr `json:"gateway"`
	// MTU of a pod's interface.
	MTU int `json:"mtu"`
	// DataDir holds `ipam` (the addresses in use) and `hostports`.
	DataDir string `json:"dataDir"`

	RuntimeConfig struct {
		PortMappings []PortMapping `json:"portMappings,omitempty"`
	} `json:"runtimeConfig,omitempty"`
}

// PortMapping is one host port of a pod, as the container runtime passes it.
type PortMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

func parse(data []byte) (*Conf, error) {
	var c Conf
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("parse configuration: %w", err)
	}
	switch {
	case c.Bridge == "":
		return nil, errors.New("parse configuration: bridge is missing")
	case !c.Subnet.IsValid() || !c.Subnet.Addr().Is4():
		return nil, fmt.Errorf("parse configuration: subnet %q is not an IPv4 prefix", c.Subnet)
	case !c.Subnet.Contains(c.Gateway):
		return nil, fmt.Errorf("parse configuration: gateway %s is not in %s", c.Gateway, c.Subnet)
	case !filepath.IsAbs(c.DataDir):
		return nil, fmt.Errorf("parse configuration: dataDir %q is not absolute", c.DataDir)
	}
	return &c, nil
}

// List returns the configuration list that makes a container runtime call this plugin.
func (c Conf) List() ([]byte, error) {
	c.Type = PluginType
	c.Capabilities = map[string]bool{"portMappings": true}
	return json.MarshalIndent(map[string]any{"cniVersion": Version, "name": NetworkName, "plugins": []Conf{c}}, "", "  ")
}

// IPAMDir is where the addresses in use are kept, below the directory of this name.
func IPAMDir(dataDir string) string { return filepath.Join(dataDir, "ipam") }

// HostPortDir is where pods' host ports are kept.
func HostPortDir(dataDir string) string { return filepath.Join(dataDir, "hostports") }

// HostPorts are the host ports of one pod.
type HostPorts struct {
	PodIP    netip.Addr    `json:"podIP"`
	Mappings []PortMapping `json:"mappings"`
}

func hostPortFile(dataDir, container, ifName string) string {
	return filepath.Join(HostPortDir(dataDir), container+"-"+ifName+".json")
}

func writeHostPorts(dataDir, container, ifName string, h HostPorts) error {
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	path := hostPortFile(dataDir, container, ifName)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// ReadHostPorts returns the host ports of all pods, sorted by the pod's address.
func ReadHostPorts(dataDir string) ([]HostPorts, error) {
	dir := HostPortDir(dataDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []HostPorts
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // its pod ended just now
		}
		if err != nil {
			return nil, err
		}
		var h HostPorts
		if err := json.Unmarshal(data, &h); err != nil {
			return nil, fmt.Errorf("parse %s: %w", e.Name(), err)
		}
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b HostPorts) int { return a.PodIP.Compare(b.PodIP) })
	return all, nil
}

// HardwareAddr is the MAC of an interface with this address, a locally administered one: whoever knows the address knows the MAC.
func HardwareAddr(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}
