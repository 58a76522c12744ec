package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/volume/util/subpath"

	"github.com/gitopsd/gitopsd/internal/nodeagent/downward"
)

// makeDir makes the folder of a volume, on tmpfs where secrets go into it.
func (h *Host) makeDir(pod *v1.Pod, v *v1.Volume) error {
	dir := h.dir(pod, v)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make volume folder: %w", err)
	}
	if v.Secret == nil && v.Projected == nil {
		return nil
	}
	return mountTmpfs(dir, 0)
}

// mountTmpfs mounts a tmpfs of at most size bytes, unless something is mounted there already.
func mountTmpfs(dir string, size int64) error {
	there, err := mountinfo.Mounted(dir)
	if err != nil {
		return fmt.Errorf("look at mount %s: %w", dir, err)
	}
	if there {
		return nil
	}
	opts := "mode=0755"
	if size > 0 {
		opts += fmt.Sprintf(",size=%d", size)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, opts+",noswap"); err == nil {
		return nil
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, opts); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", dir, err)
	}
	return nil
}

func (h *Host) emptyDir(pod *v1.Pod, v *v1.Volume, facts downward.Facts) (Mounted, error) {
	dir := h.dir(pod, v)
	_, statErr := os.Stat(dir)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return Mounted{}, fmt.Errorf("make volume folder: %w", err)
	}
	switch v.EmptyDir.Medium {
	case v1.StorageMediumDefault:
	case v1.StorageMediumMemory:
		if err := mountTmpfs(dir, memorySize(pod, v.EmptyDir, facts)); err != nil {
			return Mounted{}, err
		}
	default:
		return Mounted{}, fmt.Errorf("emptyDir medium %q is not supported by this node: use Memory or none", v.EmptyDir.Medium)
	}
	m := Mounted{Path: dir}
	if statErr == nil {
		return m, nil // in use already: what the containers did to it is theirs
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return Mounted{}, fmt.Errorf("open volume to all users: %w", err)
	}
	return m, h.own(dir, pod, 0o660, 0o110)
}

// memorySize bounds a memory volume by its limit, else by the pod's memory, else by the node's.
func memorySize(pod *v1.Pod, e *v1.EmptyDirVolumeSource, facts downward.Facts) int64 {
	size := facts.Allocatable.Memory().Value()
	var limits int64
	for i := range pod.Spec.Containers {
		l := pod.Spec.Containers[i].Resources.Limits.Memory().Value()
		if l == 0 {
			limits = 0
			break
		}
		limits += l
	}
	if limits > 0 && (size == 0 || limits < size) {
		size = limits
	}
	if e.SizeLimit != nil && e.SizeLimit.Value() > 0 && (size == 0 || e.SizeLimit.Value() < size) {
		size = e.SizeLimit.Value()
	}
	return size
}

// own gives a tree to the pod's fsGroup: readable by it, and new files inherit it.
func (h *Host) own(path string, pod *v1.Pod, file, dir fs.FileMode) error {
	sc := pod.Spec.SecurityContext
	if sc == nil || sc.FSGroup == nil {
		return nil
	}
	gid := int(*sc.FSGroup)
	if p := sc.FSGroupChangePolicy; p != nil && *p == v1.FSGroupChangeOnRootMismatch && groupMatches(path, gid) {
		return nil
	}
	return filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(p, -1, gid); err != nil {
			return fmt.Errorf("give volume to group %d: %w", gid, err)
		}
		info, err := e.Info()
		if err != nil || info.Mode()&os.ModeSymlink != 0 {
			return err
		}
		bits := info.Mode().Perm() | file
		if info.IsDir() {
			bits |= dir
			return os.Chmod(p, bits|os.ModeSetgid)
		}
		return os.Chmod(p, bits)
	})
}

// ownTop gives the volume's own folder to the group; what is inside was given while it was written.
func (h *Host) ownTop(dir string, pod *v1.Pod) error {
	if sc := pod.Spec.SecurityContext; sc == nil || sc.FSGroup == nil || groupMatches(dir, int(*sc.FSGroup)) {
		return nil
	}
	if err := os.Lchown(dir, -1, int(*pod.Spec.SecurityContext.FSGroup)); err != nil {
		return fmt.Errorf("give volume to its group: %w", err)
	}
	return os.Chmod(dir, 0o775|os.ModeSetgid)
}

func groupMatches(path string, gid int) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && int(st.Gid) == gid && st.Mode&unix.S_ISGID != 0
}

// checkHostPath makes what the type says to make, and refuses what is of another kind.
func checkHostPath(s *v1.HostPathVolumeSource) error {
	kind := v1.HostPathUnset
	if s.Type != nil {
		kind = *s.Type
	}
	info, err := os.Stat(s.Path)
	if errors.Is(err, fs.ErrNotExist) {
		switch kind {
		case v1.HostPathUnset:
			return nil // the runtime makes a directory of it
		case v1.HostPathDirectoryOrCreate:
			return os.MkdirAll(s.Path, 0o755)
		case v1.HostPathFileOrCreate:
			f, err := os.OpenFile(s.Path, os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				return fmt.Errorf("make file: %w", err)
			}
			return f.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	m, ok := info.Mode(), true
	word := ""
	switch kind {
	case v1.HostPathDirectory, v1.HostPathDirectoryOrCreate:
		ok, word = m.IsDir(), "a directory"
	case v1.HostPathFile, v1.HostPathFileOrCreate:
		ok, word = m.IsRegular(), "a file"
	case v1.HostPathSocket:
		ok, word = m&os.ModeSocket != 0, "a socket file"
	case v1.HostPathCharDev:
		ok, word = m&os.ModeCharDevice != 0, "a character device"
	case v1.HostPathBlockDev:
		ok, word = m&os.ModeDevice != 0 && m&os.ModeCharDevice == 0, "a block device"
	}
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not %s", s.Path, word)
	}
	return nil
}

// SubPath prepares a path inside a volume so that no symlink leads out of it. Done is called when the container has
// been started, or has failed to.
func (h *Host) SubPath(uid types.UID, container string, index int, volume string, m Mounted, path string) (host string, done func(), err error) {
	full := filepath.Join(m.Path, path)
	if _, err := os.Stat(full); errors.Is(err, fs.ErrNotExist) {
		perm, err := os.Stat(m.Path)
		if err != nil {
			return "", nil, fmt.Errorf("look at volume %s: %w", volume, err)
		}
		if err := h.subpath.SafeMakeDir(path, m.Path, perm.Mode().Perm()); err != nil {
			return "", nil, fmt.Errorf("failed to create subPath directory for volumeMount %q of container %q", volume, container)
		}
	}
	host, done, err = h.subpath.PrepareSafeSubpath(subpath.Subpath{
		VolumeMountIndex: index, Path: full, VolumeName: volume, VolumePath: m.Path,
		PodDir: h.PodDir(uid), ContainerName: container,
	})
	if err != nil {
		return "", nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", volume, container, err)
	}
	if done == nil {
		done = func() {}
	}
	return host, done, nil
}

// TearDown unmounts and removes the pod's volumes. Nothing is removed while something is mounted there, so that no data
// behind a mount is lost. What containers left to tell (their termination messages) stays until Remove.
func (h *Host) TearDown(uid types.UID) error {
	defer h.lock(uid)()
	dir := h.PodDir(uid)
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("list mounts of pod %s: %w", uid, err)
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		point := strings.TrimSuffix(mounts[i].Mountpoint, "\\040(deleted)")
		if err := unix.Unmount(point, unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	left, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil || len(left) > 0 {
		return fmt.Errorf("unmount volumes of pod %s: %d mounts are left (%v)", uid, len(left), err)
	}
	for _, sub := range []string{"volumes", "volume-subpaths"} {
		if err := os.RemoveAll(filepath.Join(dir, sub)); err != nil {
			return fmt.Errorf("remove volumes of pod %s: %w", uid, err)
		}
	}
	return nil
}

// Remove tears down and removes the pod's folder.
func (h *Host) Remove(uid types.UID) error {
	if err := h.TearDown(uid); err != nil {
		return err
	}
	if err := os.RemoveAll(h.PodDir(uid)); err != nil {
		return fmt.Errorf("remove pod folder: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.locks, uid)
	return nil
}

// Pods lists the pods that have a folder.
func (h *Host) Pods() ([]types.UID, error) {
	entries, err := os.ReadDir(h.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pod folders: %w", err)
	}
	var out []types.UID
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, types.UID(e.Name()))
		}
	}
	return out, nil
}
