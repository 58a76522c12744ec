package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Remove takes away everything of this instance: containerd, shims, the pods' processes, cgroups, mounts, network namespaces, RootDir and
// StateDir. It asks nobody's help, so it works when containerd cannot start; in good order, call Stop before it. It stops
// before the first file when a mount is left below the directories: what is mounted there may be somebody's data.
func Remove(ctx context.Context, c Config) error {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return err
	}
	if err := c.kill(ctx); err != nil {
		return err
	}
	if err := c.killPods(ctx); err != nil {
		return err
	}
	trees, err := c.cgroupTrees()
	if err != nil {
		return err
	}
	for _, tree := range trees {
		if err := removeTree(ctx, tree); err != nil {
			return err
		}
	}
	for _, dir := range []string{c.StateDir, c.RootDir} {
		if err := unmountBelow(dir); err != nil {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove runtime's files: %w", err)
		}
	}
	return nil
}

// kill ends containerd at once.
func (c Config) kill(ctx context.Context) error {
	running, err := c.find()
	if err != nil || running == nil {
		return err
	}
	defer running.close()
	if err := running.end(ctx, 0); err != nil {
		return fmt.Errorf("kill containerd: %w", err)
	}
	return nil
}

// unmountBelow unmounts all that is mounted at or below dir, last mounted first, and makes sure of it.
func unmountBelow(dir string) error {
	dir, err := filepath.EvalSymlinks(dir) // as the kernel lists it
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	below := func(m *mountinfo.Info) (skip, stop bool) {
		return m.Mountpoint != dir && !strings.HasPrefix(m.Mountpoint, dir+"/"), false
	}
	mounts, err := mountinfo.GetMounts(below)
	if err != nil {
		return fmt.Errorf("find mounts below %s: %w", dir, err)
	}
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	if mounts, err = mountinfo.GetMounts(below); err != nil {
		return fmt.Errorf("find mounts below %s: %w", dir, err)
	}
	if len(mounts) > 0 {
		return fmt.Errorf("unmount %s: it is still mounted; nothing below %s was removed", mounts[0].Mountpoint, dir)
	}
	return nil
}
