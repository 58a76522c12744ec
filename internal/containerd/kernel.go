package containerd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// CheckKernel returns what this machine lacks to run containers, one line for each: who starts can say all of it at once, before
// anything is made. What the network needs is package network's to check.
func CheckKernel() []error {
	var errs []error
	errs = append(errs, checkOverlay(), checkPidfd())
	for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts"} {
		if _, err := os.Lstat("/proc/self/ns/" + ns); err != nil {
			errs = append(errs, fmt.Errorf("the kernel has no %s namespaces", ns))
		}
	}
	errs = append(errs, checkCgroups()...)
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// checkOverlay asks for the file system, which also loads its module.
func checkOverlay() error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	switch {
	case err == nil:
		return unix.Close(fd)
	case errors.Is(err, unix.EPERM):
		return errors.New("mounting is not permitted: run as root with CAP_SYS_ADMIN")
	case errors.Is(err, unix.ENOSYS):
		return errors.New("the kernel is older than 5.10")
	default:
		return errors.New("the kernel has no overlay file system: load the module overlay")
	}
}

func checkPidfd() error {
	p, err := openProc(os.Getpid())
	if err != nil {
		return errors.New("the kernel is older than 5.10") // PIDFD_NONBLOCK
	}
	p.close()
	return nil
}

// checkCgroups looks for the controllers that limit pods, on v2 or v1.
func checkCgroups() []error {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return []error{fmt.Errorf("find cgroups: %w", err)}
	}
	if len(mounts) == 0 {
		return []error{errors.New("no cgroup file system is mounted below /sys/fs/cgroup")}
	}
	have, needed := v2Controllers(), []string{"cpu", "memory", "pids"}
	where := "/sys/fs/cgroup/cgroup.controllers"
	if have == nil {
		have, needed, where = v1Controllers(mounts), append(needed, "devices", "freezer", "cpuset"), "/proc/cgroups"
	}
	var errs []error
	for _, name := range needed {
		if !slices.Contains(have, name) {
			errs = append(errs, fmt.Errorf("the cgroup controller %s is missing (%s): it may be switched off on the kernel's command line", name, where))
		}
	}
	return errs
}

// v2Controllers returns those of the unified hierarchy, or nil when the machine does not use it.
func v2Controllers() []string {
	data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}

func v1Controllers(mounts []*mountinfo.Info) []string {
	var have []string
	for _, m := range mounts {
		if m.FSType == "cgroup" {
			have = append(have, strings.Split(m.VFSOptions, ",")...)
			have = append(have, filepath.Base(m.Mountpoint))
		}
	}
	return have
}
