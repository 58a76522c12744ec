// Package cgroup keeps the cgroups above containers: the node's parent, one for each QoS class and one for each pod.
// The runtime makes those of containers below. Version 1 and 2, the cgroupfs driver.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
)

// Tree is the cgroups of one node below a parent such as /gitopsd.
type Tree struct {
	parent string
	pids   int64
}

// NewTree returns the tree below parent; pids bounds the processes of each pod, zero not at all.
func NewTree(parent string, pids int64) *Tree { return &Tree{parent: parent, pids: pids} }

// Path is the pod's cgroup, relative to the mount: /gitopsd/burstable/pod<uid>.
func (t *Tree) Path(pod *v1.Pod) string {
	switch qos.GetPodQOS(pod) {
	case v1.PodQOSBurstable:
		return path.Join(t.parent, "burstable", "pod"+string(pod.UID))
	case v1.PodQOSBestEffort:
		return path.Join(t.parent, "besteffort", "pod"+string(pod.UID))
	}
	return path.Join(t.parent, "pod"+string(pod.UID))
}

func (t *Tree) open(name string, r *cgroups.Resources) (cgroups.Manager, error) {
	if r == nil {
		r = &cgroups.Resources{}
	}
	r.SkipDevices = true
	m, err := manager.New(&cgroups.Cgroup{Path: name, Resources: r})
	if err != nil {
		return nil, fmt.Errorf("open cgroup %s: %w", name, err)
	}
	return m, nil
}

// Init makes the cgroups that pods are put into.
func (t *Tree) Init() error {
	for name, shares := range map[string]uint64{"": 0, "burstable": 0, "besteffort": 2} {
		full := path.Join(t.parent, name)
		if err := t.make(full, &cgroups.Resources{CpuShares: shares}); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tree) make(name string, r *cgroups.Resources) error {
	m, err := t.open(name, r)
	if err != nil {
		return err
	}
	if err := m.Apply(-1); err != nil {
		return fmt.Errorf("make cgroup %s: %w", name, err)
	}
	if cgroups.IsCgroup2UnifiedMode() {
		r.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(r.CpuShares)
	}
	if err := m.Set(r); err != nil {
		return fmt.Errorf("limit cgroup %s: %w", name, err)
	}
	return nil
}

// Make makes the pod's cgroup with its limits, or adapts it.
func (t *Tree) Make(pod *v1.Pod, limits *runtimeapi.LinuxContainerResources) error {
	r := &cgroups.Resources{
		CpuShares: uint64(limits.CpuShares),
		CpuPeriod: uint64(limits.CpuPeriod),
		CpuQuota:  limits.CpuQuota,
		Memory:    limits.MemoryLimitInBytes,
	}
	if r.CpuQuota == 0 {
		r.CpuQuota = -1
	}
	if t.pids > 0 {
		r.PidsLimit = &t.pids
	}
	return t.make(t.Path(pod), r)
}

// Remove kills what is left in the pod's cgroup and removes it, whatever QoS class it was made under.
func (t *Tree) Remove(uid types.UID) error {
	var errs []error
	for _, class := range []string{"", "burstable", "besteffort"} {
		name := path.Join(t.parent, class, "pod"+string(uid))
		if err := t.remove(name); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (t *Tree) remove(name string) error {
	m, err := t.open(name, nil)
	if err != nil {
		return err
	}
	if !exists(m) {
		return nil
	}
	var last error
	for range 20 {
		for _, dir := range m.GetPaths() {
			pids, _ := cgroups.GetAllPids(dir)
			for _, pid := range pids {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		if last = removeAll(m); last == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond) // the kernel frees a cgroup a moment after its last process
	}
	return fmt.Errorf("remove cgroup %s: %w", name, last)
}

func exists(m cgroups.Manager) bool {
	for _, p := range m.GetPaths() {
		if _, err := os.Stat(p); err == nil {
			return true
		}
	}
	return false
}

// removeAll removes the cgroup and those below, deepest first: only empty ones can be removed.
func removeAll(m cgroups.Manager) error {
	var errs []error
	for _, top := range m.GetPaths() {
		var dirs []string
		_ = filepath.WalkDir(top, func(p string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := unix.Rmdir(dirs[i]); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// Pods lists the pods that have a cgroup.
func (t *Tree) Pods() []types.UID {
	seen := map[types.UID]bool{}
	var out []types.UID
	for _, class := range []string{"", "burstable", "besteffort"} {
		m, err := t.open(path.Join(t.parent, class), nil)
		if err != nil {
			continue
		}
		for _, dir := range m.GetPaths() {
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				uid := types.UID(strings.TrimPrefix(e.Name(), "pod"))
				if e.IsDir() && strings.HasPrefix(e.Name(), "pod") && !seen[uid] {
					seen[uid] = true
					out = append(out, uid)
				}
			}
		}
	}
	return out
}
