// Package containerd runs the container runtime of a node: the bundled containerd as a child process in directories of its own.
//
// In: a Config. Out: a running containerd that answers CRI on Config.Endpoint, started by Start or, when an earlier gitopsd left it
// running, adopted. Process.Run supervises it until its context ends and then leaves it running: pods outlive the daemon.
// Stop ends every pod and then containerd; Remove takes away all that Stop leaves, also when containerd cannot start.
//
// It owns RootDir and StateDir and touches nothing outside them but the cgroups and network namespaces its pods had. It never
// finds a process by name: only by the configuration file or the socket of this instance in its arguments.
package containerd

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// maxStateDir keeps the sockets below the kernel's 108 bytes: a shim's is StateDir, "/s/" and a SHA-256 in hex.
const maxStateDir = 40

// Config says where an instance of containerd lives. Two instances must share no directory.
type Config struct {
	// Programs holds containerd, the shim, the OCI runtime, the CNI plugin and pause.
	Programs bundle.Programs
	// RootDir keeps images and what containers wrote. It survives a reboot.
	RootDir string
	// StateDir keeps sockets and mounts, best on a tmpfs: at most 40 bytes long.
	StateDir string
	// LogFile gets containerd's log and is kept below 2×logLimit with its predecessor. Default: RootDir/containerd.log.
	LogFile string
	// LogLevel is trace, debug, info, warn or error. Default: warn.
	LogLevel string
	// CNIConfDir holds the network's conflist; pods wait for it. Default: RootDir/cni.
	CNIConfDir string
	// RegistryDir holds <host>/hosts.toml files: mirrors, plain HTTP, CAs. Default: RootDir/certs.d.
	RegistryDir string
	// CgroupParent is the cgroup that all pods are below, as /gitopsd. Remove empties and deletes it.
	CgroupParent string
	// Logger gets what the supervisor has to say. Default: slog.Default().
	Logger *slog.Logger

	checkPeriod time.Duration // see the constant
}

// Endpoint is where CRI answers.
func (c Config) Endpoint() string { return "unix://" + c.Socket() }

// Socket is the path of containerd's socket.
func (c Config) Socket() string { return filepath.Join(c.StateDir, "containerd.sock") }

// PauseImage is the reference of the sandbox image made from Programs. It must not be removed.
func (c Config) PauseImage() (string, error) {
	f, err := os.Open(c.Programs.Path(bundle.Pause))
	if err != nil {
		return "", fmt.Errorf("name pause image: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("name pause image: %w", err)
	}
	return "gitopsd.io/pause:" + hex.EncodeToString(h.Sum(nil)[:6]), nil
}

func (c Config) configFile() string { return filepath.Join(c.RootDir, "config.toml") }

// binDir is a symbolic link to the folder of the programs. A pod remembers the paths of its shim and its OCI runtime: through the link they
// are those of the running gitopsd, and the folder of an older one can go.
func (c Config) binDir() string { return filepath.Join(c.RootDir, "bin") }

func (c Config) withDefaults() Config {
	set := func(s *string, def string) {
		if *s == "" {
			*s = def
		}
	}
	set(&c.LogFile, filepath.Join(c.RootDir, "containerd.log"))
	set(&c.LogLevel, "warn")
	set(&c.CNIConfDir, filepath.Join(c.RootDir, "cni"))
	set(&c.RegistryDir, filepath.Join(c.RootDir, "certs.d"))
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.checkPeriod == 0 {
		c.checkPeriod = checkPeriod
	}
	return c
}

func (c Config) check() error {
	for _, dir := range []struct{ name, path string }{{"RootDir", c.RootDir}, {"StateDir", c.StateDir}} {
		if !filepath.IsAbs(dir.path) || filepath.Clean(dir.path) != dir.path || strings.Count(dir.path, "/") < 2 {
			return fmt.Errorf("check runtime configuration: %s %q is not a clean absolute path below a top-level directory", dir.name, dir.path)
		}
	}
	if len(c.StateDir) > maxStateDir {
		return fmt.Errorf("check runtime configuration: %s is %d bytes long; sockets below it allow %d: choose a shorter run directory",
			c.StateDir, len(c.StateDir), maxStateDir)
	}
	if c.CgroupParent != "" && (!filepath.IsAbs(c.CgroupParent) || filepath.Clean(c.CgroupParent) == "/") {
		return fmt.Errorf("check runtime configuration: CgroupParent %q is not an absolute path below the root cgroup", c.CgroupParent)
	}
	return nil
}

// render returns the text of config.toml. Every path is set: what is left out lands in /etc/cni, /opt/containerd and /run/containerd.
func (c Config) render() (string, error) {
	pause, err := c.PauseImage()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = configTemplate.Execute(&b, map[string]any{
		"Root": filepath.Join(c.RootDir, "root"), "State": filepath.Join(c.StateDir, "state"), "Temp": filepath.Join(c.RootDir, "tmp"),
		"Socket": c.Socket(), "ShimSockets": filepath.Join(c.StateDir, "s"), "LogLevel": c.LogLevel,
		"Bin": c.binDir(), "Shim": filepath.Join(c.binDir(), bundle.Shim), "Runc": filepath.Join(c.binDir(), bundle.Runtime),
		"RuncRoot": c.runcRoot(), "CNIConf": c.CNIConfDir, "Registry": c.RegistryDir, "Pause": pause,
		"RestrictOOM": !mayLowerOOMScore(),
	})
	return b.String(), err
}

// mayLowerOOMScore tells whether we have CAP_SYS_RESOURCE. Inside a container that withholds it, pods get by without.
func mayLowerOOMScore() bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(status), "\nCapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	caps, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	return err == nil && caps&(1<<unix.CAP_SYS_RESOURCE) != 0
}

func (c Config) runcRoot() string { return filepath.Join(c.StateDir, "runc") }

// quote writes a TOML basic string: JSON's strings are a subset of them.
func quote(s string) (string, error) {
	b, err := json.Marshal(s)
	return string(b), err
}

// Version 4 of containerd's configuration (containerd 2.3). The plugins that are left out of cmd/gitopsd-containerd need no mention.
var configTemplate = template.Must(template.New("config.toml").Funcs(template.FuncMap{"q": quote}).Option("missingkey=error").Parse(
	`# Written by gitopsd at each start of containerd; changes are lost.
version = 4
root = {{q .Root}}
state = {{q .State}}
temp = {{q .Temp}}
oom_score = {{if .RestrictOOM}}0{{else}}-999{{end}}

[debug]
  level = {{q .LogLevel}}

[plugins."io.containerd.server.v1.grpc"]
  address = {{q .Socket}}

[plugins."io.containerd.server.v1.ttrpc"]
  address = {{q (print .Socket ".ttrpc")}}

[plugins."io.containerd.shim.v1.manager"]
  socket_dir = {{q .ShimSockets}}

[plugins."io.containerd.nri.v1.nri"]
  disable = true

[plugins."io.containerd.transfer.v1.local"]
  config_path = {{q .Registry}}

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  stats_collect_period = 60
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = {{q .Pause}}
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = {{q .Registry}}

[plugins."io.containerd.grpc.v1.cri"]
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"

[plugins."io.containerd.cri.v1.runtime"]
  enable_selinux = false
  enable_criu = false
  restrict_oom_score_adj = {{.RestrictOOM}}
  cdi_spec_dirs = []
  netns_mounts_under_state_dir = true
  stats_collect_period = "10s"
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [{{q .Bin}}]
    conf_dir = {{q .CNIConf}}
    use_internal_loopback = true
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      runtime_path = {{q .Shim}}
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = {{q .Runc}}
        Root = {{q .RuncRoot}}
        SystemdCgroup = false
`))

// prepare makes the directories, points binDir to the programs and writes config.toml.
func (c Config) prepare(text string) error {
	for _, dir := range []string{c.RootDir, c.StateDir, filepath.Join(c.StateDir, "s"), filepath.Join(c.StateDir, "tmp"), filepath.Join(c.RootDir, "tmp")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	for _, dir := range []string{c.CNIConfDir, c.RegistryDir, filepath.Dir(c.LogFile)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	link := c.binDir()
	if err := os.Remove(link + ".new"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(c.Programs.Dir, link+".new"); err != nil {
		return err
	}
	if err := os.Rename(link+".new", link); err != nil {
		return err
	}
	if err := os.WriteFile(c.configFile()+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(c.configFile()+".new", c.configFile())
}
