package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/gitopsd/gitopsd/internal/containerd"
	"github.com/gitopsd/gitopsd/internal/network"
)

// minimumFree is what a start needs on the data directory's file system: the programs, the first images and a store
// that has room to grow.
const minimumFree = 1 << 30

// preflight finds out, before anything is written, whether this machine can run an instance. All that is wrong is
// reported at once, one line each.
func preflight(o Options) error {
	errs := checkPorts(o)
	errs = append(errs, checkSpace(o.DataDir))
	if o.RuntimeEndpoint == "" && !o.NoNode {
		errs = append(errs, containerd.CheckKernel()...)
		errs = append(errs, network.CheckKernel()...)
	}
	return errors.Join(errs...)
}

func needRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("gitopsd up needs root: it makes network interfaces, mounts and cgroups; run it with sudo")
	}
	return nil
}

func checkPorts(o Options) []error {
	ports := []struct {
		address string
		port    int
		flag    string
	}{
		{o.BindAddress, o.APIPort, "--api-port"},
		{"0.0.0.0", o.AgentPort, "--agent-port"},
		{"127.0.0.1", o.EtcdPort, "--etcd-port"},
		{"127.0.0.1", o.EtcdPeerPort, "--etcd-peer-port"},
		{"127.0.0.1", o.MetricsPort, "--metrics-port"},
	}
	var errs []error
	for _, p := range ports {
		l, err := net.Listen("tcp", net.JoinHostPort(p.address, strconv.Itoa(p.port)))
		if err == nil {
			l.Close()
			continue
		}
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("port %d is in use%s; stop what listens there or use %s", p.port, holder(p.port), p.flag)
		} else {
			err = fmt.Errorf("listen on %s port %d (%s): %w", p.address, p.port, p.flag, err)
		}
		errs = append(errs, err)
	}
	return errs
}

// holder names the process that listens on a port, when it can be found.
func holder(port int) string {
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, _ := os.ReadFile(table)
		for _, line := range strings.Split(string(b), "\n") {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
	}
	procs, _ := os.ReadDir("/proc")
	for _, p := range procs {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		fds, _ := os.ReadDir("/proc/" + p.Name() + "/fd")
		for _, fd := range fds {
			if target, err := os.Readlink("/proc/" + p.Name() + "/fd/" + fd.Name()); err == nil && inodes[target] {
				name, _ := os.ReadFile("/proc/" + p.Name() + "/comm")
				return fmt.Sprintf(" by %s (process %s)", strings.TrimSpace(string(name)), p.Name())
			}
		}
	}
	return ""
}

func checkSpace(dir string) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < minimumFree {
		return fmt.Errorf("only %d MiB are free for %s and gitopsd needs %d MiB; make room or use --data-dir", free>>20, dir, minimumFree>>20)
	}
	return nil
}
