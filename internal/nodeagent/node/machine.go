// Package node keeps the Node object of this machine and its lease: what the machine has and is, whether pods can run
// on it, and that it is alive.
//
// The API's writer of a Node's spec is not this package: labels and taints are set once at registration. The pod range
// that the control plane gives the node is reported to whoever sets the network up.
package node

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Machine is what this computer has.
type Machine struct {
	dataDir  string
	maxPods  int
	reserved v1.ResourceList

	mu       sync.Mutex
	capacity v1.ResourceList
	node     *v1.Node
}

// NewMachine measures the machine; dataDir tells which disk holds the pods.
func NewMachine(dataDir string, maxPods int, reserved v1.ResourceList) (*Machine, error) {
	m := &Machine{dataDir: dataDir, maxPods: maxPods, reserved: reserved}
	c, err := m.measure()
	if err != nil {
		return nil, err
	}
	m.capacity = c
	return m, nil
}

func (m *Machine) measure() (v1.ResourceList, error) {
	memory, err := meminfo("MemTotal")
	if err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(m.dataDir, &fs); err != nil {
		return nil, fmt.Errorf("measure disk of %s: %w", m.dataDir, err)
	}
	c := v1.ResourceList{
		v1.ResourceCPU:              *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		v1.ResourceMemory:           *resource.NewQuantity(memory, resource.BinarySI),
		v1.ResourceEphemeralStorage: *resource.NewQuantity(int64(fs.Blocks)*fs.Bsize, resource.BinarySI),
		v1.ResourcePods:             *resource.NewQuantity(int64(m.maxPods), resource.DecimalSI),
	}
	pages, _ := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	for _, dir := range pages {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dir), "hugepages-"), "kB"), 10, 64)
		n, readErr := number(filepath.Join(dir, "nr_hugepages"))
		if err != nil || readErr != nil {
			continue
		}
		size := resource.NewQuantity(kb<<10, resource.BinarySI)
		c[v1.ResourceName(v1.ResourceHugePagesPrefix+size.String())] = *resource.NewQuantity(n*kb<<10, resource.BinarySI)
	}
	return c, nil
}

// Capacity is all that the machine has.
func (m *Machine) Capacity() v1.ResourceList {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.capacity.DeepCopy()
}

// Allocatable is what is left for pods.
func (m *Machine) Allocatable() v1.ResourceList {
	out := m.Capacity()
	for name, r := range m.reserved {
		if q, ok := out[name]; ok {
			q.Sub(r)
			if q.Sign() < 0 {
				q.Set(0)
			}
			out[name] = q
		}
	}
	// Pages set aside as huge are no ordinary memory.
	memory := out[v1.ResourceMemory]
	for name, q := range out {
		if strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix) {
			memory.Sub(q)
		}
	}
	out[v1.ResourceMemory] = memory
	return out
}

// Memory is the machine's memory in bytes.
func (m *Machine) Memory() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.capacity.Memory().Value()
}

// Node is the Node object as the API had it last; nil before it was seen.
func (m *Machine) Node() *v1.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node
}

func (m *Machine) see(n *v1.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.node = n
}

// info is what the machine is.
func (m *Machine) info(version, runtimeVersion string) v1.NodeSystemInfo {
	var u unix.Utsname
	_ = unix.Uname(&u)
	return v1.NodeSystemInfo{
		MachineID:               text("/etc/machine-id"),
		SystemUUID:              text("/sys/class/dmi/id/product_uuid"),
		BootID:                  text("/proc/sys/kernel/random/boot_id"),
		KernelVersion:           unix.ByteSliceToString(u.Release[:]),
		OSImage:                 osImage(),
		ContainerRuntimeVersion: runtimeVersion,
		KubeletVersion:          version,
		OperatingSystem:         runtime.GOOS,
		Architecture:            runtime.GOARCH,
	}
}

func osImage() string {
	for _, line := range strings.Split(text("/etc/os-release"), "\n") {
		if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return "Linux"
}

func text(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func number(path string) (int64, error) {
	n, err := strconv.ParseInt(text(path), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return n, nil
}

// meminfo reads a line of /proc/meminfo in bytes.
func meminfo(key string) (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read memory size: %w", err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == key+":" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read memory size: %w", err)
			}
			return n << 10, nil
		}
	}
	return 0, fmt.Errorf("read memory size: no %s in /proc/meminfo", key)
}
