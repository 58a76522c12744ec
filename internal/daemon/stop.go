package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/containerd"
	"github.com/gitopsd/gitopsd/internal/network"
	"github.com/moby/sys/mountinfo"
)

// endWithin is how long a daemon may take to end in order before Down gives up on it.
const endWithin = 90 * time.Second

// Down ends the daemon of an instance and then every container, each with its grace period but at most grace.
func Down(ctx context.Context, dataDir string, grace time.Duration, progress io.Writer) error {
	o, err := LoadOptions(dataDir)
	if err != nil {
		return err
	}
	if err := endDaemon(ctx, o.DataDir, progress); err != nil {
		return err
	}
	if o.RuntimeEndpoint != "" || o.NoNode || o.EngineOnly {
		return nil // the runtime is the host's, and so are its containers; or there is none
	}
	fmt.Fprintln(progress, "stopping containers")
	runtime, err := o.runtime()
	if errors.Is(err, os.ErrNotExist) {
		return nil // no container was ever started
	}
	if err != nil {
		return err
	}
	if err := containerd.Stop(ctx, runtime, grace); err != nil {
		return fmt.Errorf("stop containers: %w", err)
	}
	return nil
}

// endDaemon asks the daemon to end and waits until it has: until its lock is free.
func endDaemon(ctx context.Context, dataDir string, progress io.Writer) error {
	pid, err := RunningPID(dataDir)
	if err != nil || pid == 0 {
		return err
	}
	fmt.Fprintf(progress, "ending the daemon (process %d)\n", pid)
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, endWithin)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if now, err := RunningPID(dataDir); err != nil || now == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d has not ended after %s; look at its log, or kill it and try again", pid, endWithin)
		case <-tick.C:
		}
	}
}

// Uninstall stops everything and takes away all that an instance has put on the machine. What one part cannot remove
// does not keep the others; everything that is left is named.
func Uninstall(ctx context.Context, dataDir string, progress io.Writer) error {
	o, err := LoadOptions(dataDir)
	if err != nil {
		return err
	}
	if err := endDaemon(ctx, o.DataDir, progress); err != nil {
		return err
	}
	var errs []error
	if o.NoNode || o.EngineOnly {
		fmt.Fprintln(progress, "removing", o.DataDir)
		return removeTree(o.DataDir)
	}
	if o.RuntimeEndpoint == "" {
		fmt.Fprintln(progress, "removing containers, images and cgroups")
		if runtime, err := o.runtime(); err == nil {
			errs = append(errs, containerd.Stop(ctx, runtime, 10*time.Second), containerd.Remove(ctx, runtime))
		} else if !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	fmt.Fprintln(progress, "removing network rules and interfaces")
	errs = append(errs, network.Remove(o.network()))
	fmt.Fprintln(progress, "removing", o.DataDir)
	errs = append(errs, removeTree(o.DataDir), removeTree(o.RunDir))
	return errors.Join(errs...)
}

// removeTree deletes a folder and first unmounts what is mounted below it, deepest first.
func removeTree(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("list mounts below %s: %w", dir, err)
	}
	slices.SortFunc(mounts, func(a, b *mountinfo.Info) int { return strings.Compare(b.Mountpoint, a.Mountpoint) })
	for _, m := range mounts {
		if err := syscall.Unmount(m.Mountpoint, syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

func (o Options) cniConfDir() string { return filepath.Join(o.DataDir, "cni", "net.d") }

// programs unpacks the embedded programs, or finds them unpacked.
func (o Options) programs() (bundle.Programs, error) {
	return bundle.Unpack(filepath.Join(o.DataDir, "bundle"))
}

// runtime is where the embedded containerd of this instance lives.
func (o Options) runtime() (containerd.Config, error) {
	root := filepath.Join(o.DataDir, "containerd")
	if _, err := os.Stat(root); err != nil {
		return containerd.Config{}, err
	}
	return o.runtimeConfig()
}

func (o Options) runtimeConfig() (containerd.Config, error) {
	programs, err := o.programs()
	if err != nil {
		return containerd.Config{}, err
	}
	return containerd.Config{
		Programs: programs, RootDir: filepath.Join(o.DataDir, "containerd"), StateDir: o.RunDir,
		CNIConfDir: o.cniConfDir(), CgroupParent: o.CgroupParent,
	}, nil
}

// LoadImages imports OCI and docker archives into the instance's image store and returns their names.
func LoadImages(ctx context.Context, dataDir string, archive io.Reader) ([]string, error) {
	o, err := LoadOptions(dataDir)
	if err != nil {
		return nil, err
	}
	if o.RuntimeEndpoint != "" {
		return nil, fmt.Errorf("this instance uses the host's runtime at %s; load images with that runtime's own tool", o.RuntimeEndpoint)
	}
	runtime, err := o.runtime()
	if err != nil {
		return nil, err
	}
	return runtime.LoadImages(ctx, archive)
}

// KubectlPath is the bundled kubectl of an instance.
func KubectlPath(dataDir string) (string, error) {
	o := Options{DataDir: dataDir}
	programs, err := o.programs()
	if err != nil {
		return "", err
	}
	return programs.Path(bundle.Kubectl), programs.Check(bundle.Kubectl)
}
