package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// cgroupTrees returns the directories of all cgroups whose processes and subgroups belong to pods of this instance, sorted: CgroupParent
// in every hierarchy (one on a v2 machine, one for each controller on v1), and what the runtime's state names besides.
func (c Config) cgroupTrees() ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	var trees []string
	if c.CgroupParent != "" {
		for _, m := range mounts {
			trees = append(trees, filepath.Join(m.Mountpoint, c.CgroupParent))
		}
	}
	for _, path := range c.runtimeCgroups() {
		inside := slices.ContainsFunc(trees, func(tree string) bool { return path == tree || strings.HasPrefix(path, tree+"/") })
		top := slices.ContainsFunc(mounts, func(m *mountinfo.Info) bool { return path == m.Mountpoint })
		if !inside && !top {
			trees = append(trees, path)
		}
	}
	trees = slices.DeleteFunc(trees, func(tree string) bool { _, err := os.Stat(tree); return err != nil })
	slices.Sort(trees)
	return slices.Compact(trees), nil
}

// runtimeCgroups returns the cgroups that the OCI runtime noted for containers which it still has a state of.
func (c Config) runtimeCgroups() []string {
	files, _ := filepath.Glob(filepath.Join(c.runcRoot(), "*", "*", "state.json"))
	var paths []string
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var state struct {
			Paths map[string]string `json:"cgroup_paths"`
		}
		if json.Unmarshal(data, &state) != nil {
			continue // cut off while it was written: CgroupParent covers it
		}
		for _, path := range state.Paths {
			if strings.HasPrefix(path, "/sys/fs/cgroup/") {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

// subgroups returns a cgroup's directory and all below it, parents first.
func subgroups(tree string) ([]string, error) {
	var dirs []string
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	return dirs, err
}

// killTrees ends every process in the cgroups and below them and waits until they are gone.
func killTrees(ctx context.Context, trees []string) error {
	for {
		var dirs []string
		for _, tree := range trees {
			below, err := subgroups(tree)
			if err != nil {
				return fmt.Errorf("read cgroup %s: %w", tree, err)
			}
			dirs = append(dirs, below...)
		}
		for _, dir := range dirs { // a frozen process does not die, and on v1 it may be frozen in another hierarchy
			_ = os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0)
			_ = os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("0"), 0)
		}
		left := 0
		for _, dir := range dirs {
			n, err := killGroup(dir)
			if err != nil {
				return fmt.Errorf("kill processes of cgroup %s: %w", dir, err)
			}
			left += n
		}
		if left == 0 {
			return nil
		}
		if !sleep(ctx, 5*time.Millisecond) {
			return fmt.Errorf("kill processes of cgroups %s: %w", strings.Join(trees, ", "), ctx.Err())
		}
	}
}

// killGroup signals the processes of one cgroup and returns how many there were.
func killGroup(dir string) (int, error) {
	pids, err := groupPids(dir)
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		p, err := openProc(pid)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return 0, err
		}
		// Held now; is it still the one that was listed?
		if again, err := groupPids(dir); err == nil && slices.Contains(again, pid) {
			err = p.signal(unix.SIGKILL)
			if err != nil {
				p.close()
				return 0, err
			}
		}
		p.close()
	}
	return len(pids), nil
}

func groupPids(dir string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if errors.Is(err, unix.EOPNOTSUPP) { // a threaded cgroup: its processes are its parent's
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, field := range strings.Fields(string(data)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		if pid > 0 { // 0: a process of another PID namespace, not ours
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// removeTree removes a cgroup and all below it. They hold no process any more.
func removeTree(ctx context.Context, tree string) error {
	for {
		dirs, err := subgroups(tree)
		if err != nil {
			return fmt.Errorf("read cgroup %s: %w", tree, err)
		}
		var busy error
		for _, dir := range slices.Backward(dirs) {
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				busy = err
			}
		}
		if busy == nil {
			return nil
		}
		if !errors.Is(busy, unix.EBUSY) { // the kernel takes a moment to let a dead process's cgroup go
			return fmt.Errorf("remove cgroup: %w", busy)
		}
		if !sleep(ctx, 5*time.Millisecond) {
			return fmt.Errorf("remove cgroup: %w: %w", busy, ctx.Err())
		}
	}
}
