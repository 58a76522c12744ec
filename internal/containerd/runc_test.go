package containerd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/go-runc"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// report is what the runtime's `state` prints, as far as the tests read it.
type report struct {
	ID     string `json:"id"`
	Pid    int    `json:"pid"`
	Status string `json:"status"`
}

// runc runs a command of the OCI runtime for a container of CRI and parses what it prints into out.
func (c *client) runc(out any, args ...string) {
	c.t.Helper()
	cmd := exec.Command(programs.Path(bundle.Runtime), append([]string{"--root", filepath.Join(c.config.runcRoot(), criNamespace)}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	data, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("runc %s: %v\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	if out != nil {
		check(c.t, json.Unmarshal(data, out))
	}
}

// bundleDir makes an OCI bundle of the probe.
func bundleDir(t *testing.T, cgroup string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	data, err := os.ReadFile(probe)
	check(t, err)
	check(t, os.MkdirAll(filepath.Join(dir, "rootfs/proc"), 0o755))
	check(t, os.WriteFile(filepath.Join(dir, "rootfs/probe"), data, 0o755))
	spec := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: append([]string{"/probe"}, args...), Cwd: "/", Env: []string{"A=b"},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 64, Hard: 64}}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: cgroup,
			Resources:   &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(50))}},
			Namespaces:  []specs.LinuxNamespace{{Type: "pid"}, {Type: "mount"}, {Type: "ipc"}, {Type: "uts"}},
		},
	}
	if os.Getenv(cgroup2Variable) != "" {
		spec.Linux.Resources = nil
	}
	data, err = json.Marshal(spec)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644))
	return dir
}

// ownCgroup names a cgroup that is removed when the test ends, with all that is in it.
func ownCgroup(t *testing.T) string {
	t.Helper()
	cgroup := fmt.Sprintf("/gd-%s-%d", t.Name(), os.Getpid())
	t.Cleanup(func() {
		trees, err := Config{CgroupParent: cgroup}.cgroupTrees()
		check(t, err)
		check(t, killTrees(context.Background(), trees))
		for _, tree := range trees {
			check(t, removeTree(context.Background(), tree))
		}
	})
	return cgroup
}

func ptr[T any](v T) *T { return &v }

// TestRuntimeCommands calls every command of the OCI runtime as containerd's go-runc does.
func TestRuntimeCommands(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	r := &runc.Runc{Command: programs.Path(bundle.Runtime), Root: dir + "/root", Log: dir + "/log.json", LogFormat: runc.JSON}
	cgroup := ownCgroup(t)
	stdio, output := pipes(t)
	check(t, r.Create(ctx, "c1", bundleDir(t, cgroup+"/c1"), &runc.CreateOpts{IO: stdio, PidFile: dir + "/pid"}))
	if c := stateOf(t, r, "c1"); c.Status != "created" || c.Pid == 0 {
		t.Errorf("after create: %+v", c)
	}
	check(t, r.Start(ctx, "c1"))
	if s := <-output; s != "probe: started" {
		t.Errorf("wrote %q", s)
	}
	if c := stateOf(t, r, "c1"); c.Status != "running" {
		t.Errorf("after start: %+v", c)
	}
	pids, err := r.Ps(ctx, "c1")
	check(t, err)
	if len(pids) != 1 {
		t.Errorf("processes %v", pids)
	}
	list, err := r.List(ctx)
	check(t, err)
	if len(list) != 1 || list[0].ID != "c1" {
		t.Errorf("list %+v", list)
	}
	execute(t, r, "c1")
	if os.Getenv(cgroup2Variable) == "" {
		check(t, r.Update(ctx, "c1", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(77))}}))
	}
	check(t, r.Pause(ctx, "c1"))
	if c := stateOf(t, r, "c1"); c.Status != "paused" {
		t.Errorf("after pause: %+v", c)
	}
	check(t, r.Resume(ctx, "c1"))
	if err := r.Delete(ctx, "c1", nil); err == nil {
		t.Error("a running container was deleted without --force")
	}
	check(t, r.Kill(ctx, "c1", 15, nil))
	eventually(t, func() string {
		if c := stateOf(t, r, "c1"); c.Status != "stopped" || c.Pid != 0 {
			return c.Status
		}
		return ""
	})
	if err := r.Kill(ctx, "c1", 9, nil); err == nil {
		t.Error("a stopped container was killed")
	}
	check(t, r.Kill(ctx, "c1", 9, &runc.KillOpts{All: true}))
	check(t, r.Delete(ctx, "c1", nil))
	if _, err := r.State(ctx, "c1"); err == nil {
		t.Error("a deleted container has a state")
	}
	check(t, r.Delete(ctx, "c1", &runc.DeleteOpts{Force: true})) // is no error
}

// execute runs a second process in a container.
func execute(t *testing.T, r *runc.Runc, id string) {
	t.Helper()
	pidFile := filepath.Join(t.TempDir(), "exec.pid")
	execIO, execOut := pipes(t)
	check(t, r.Exec(context.Background(), id, specs.Process{Args: []string{"/probe", "echo", "in", "it"}, Cwd: "/"}, &runc.ExecOpts{IO: execIO, Detach: true, PidFile: pidFile}))
	if s := <-execOut; s != "in it" {
		t.Errorf("exec wrote %q", s)
	}
	if data, err := os.ReadFile(pidFile); err != nil || len(data) == 0 {
		t.Errorf("exec's pid file: %q, %v", data, err)
	}
}

func TestRuntimeIntroducesItself(t *testing.T) {
	ctx := context.Background()
	r := &runc.Runc{Command: programs.Path(bundle.Runtime)}
	version, err := r.Version(ctx)
	check(t, err)
	if version.Runc == "" || version.Spec == "" {
		t.Errorf("version %+v", version)
	}
	features, err := r.Features(ctx)
	check(t, err)
	if !*features.Linux.Cgroup.V2 || !*features.Linux.Seccomp.Enabled {
		t.Errorf("features %+v", features.Linux)
	}
}

// On a machine with cgroup v1, the same in a mount namespace that shows only the unified hierarchy. CRI always sets limits, and v1 keeps
// the controllers, so pods cannot be run there.
func TestRuntimeOnCgroup2(t *testing.T) {
	if v2Controllers() != nil {
		t.Skip("this machine has cgroup v2: the other tests use it")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^(TestRuntimeCommands|TestTerminal|TestRuntimeErrors)$", "-test.v")
	cmd.Env = append(os.Environ(), cgroup2Variable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "no tests to run") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func stateOf(t *testing.T, r *runc.Runc, id string) *runc.Container {
	t.Helper()
	c, err := r.State(context.Background(), id)
	check(t, err)
	return c
}

// pipes returns streams for a container and the lines it writes.
func pipes(t *testing.T) (runc.IO, <-chan string) {
	t.Helper()
	stdio, err := runc.NewPipeIO(0, 0)
	check(t, err)
	lines := make(chan string, 16)
	go func() {
		data := make([]byte, 4096)
		for {
			n, err := stdio.Stdout().Read(data)
			for line := range strings.Lines(string(data[:n])) {
				lines <- strings.TrimSpace(line)
			}
			if err != nil {
				close(lines)
				return
			}
		}
	}()
	t.Cleanup(func() { stdio.Close() })
	return stdio, lines
}

func TestRuntimeErrors(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	r := &runc.Runc{Command: programs.Path(bundle.Runtime), Root: dir + "/root", Log: dir + "/log.json", LogFormat: runc.JSON}
	b := bundleDir(t, ownCgroup(t)+"/c1")
	spec, err := os.ReadFile(filepath.Join(b, "config.json"))
	check(t, err)
	check(t, os.WriteFile(filepath.Join(b, "config.json"), bytes.Replace(spec, []byte("/probe"), []byte("/missing"), 1), 0o644))
	err = r.Create(ctx, "c1", b, &runc.CreateOpts{})
	if err == nil || !strings.Contains(err.Error(), "/missing") {
		t.Errorf("create with a missing program: %v", err)
	}
	var last struct{ Level, Msg string }
	data, err := os.ReadFile(dir + "/log.json")
	check(t, err)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	check(t, json.Unmarshal([]byte(lines[len(lines)-1]), &last)) // where the shim looks for the reason
	if last.Level != "error" || !strings.Contains(last.Msg, "/missing") {
		t.Errorf("last line of the log: %+v", last)
	}
	if list, err := r.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
	for _, args := range [][]string{{"nonsense"}, {"state", "c1"}, {"start", "../c1"}, {"create", "--bundle", "/nonexistent", "c2"}, {"exec", "c1"}, {"checkpoint", "c1"}} {
		out, err := exec.Command(r.Command, append([]string{"--root", r.Root}, args...)...).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || len(out) == 0 {
			t.Errorf("runc %v: %v, %q", args, err, out)
		}
	}
}

// A process with a terminal: its master goes to the console socket.
func TestTerminal(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "gd-")
	check(t, err)
	defer os.RemoveAll(dir)
	ctx := context.Background()
	r := &runc.Runc{Command: programs.Path(bundle.Runtime), Root: dir + "/root"}
	b := bundleDir(t, ownCgroup(t)+"/c1", "echo", "on a terminal")
	spec, err := os.ReadFile(filepath.Join(b, "config.json"))
	check(t, err)
	check(t, os.WriteFile(filepath.Join(b, "config.json"), bytes.Replace(spec, []byte(`"process":{`), []byte(`"process":{"terminal":true,`), 1), 0o644))
	if err := r.Create(ctx, "c1", b, &runc.CreateOpts{}); err == nil {
		t.Error("a terminal without a console socket")
	}
	socket, err := runc.NewTempConsoleSocket()
	check(t, err)
	defer socket.Close()
	created := make(chan error, 1)
	go func() { created <- r.Create(ctx, "c1", b, &runc.CreateOpts{ConsoleSocket: socket}) }()
	master, err := socket.ReceiveMaster()
	if err != nil {
		t.Fatal(err, <-created)
	}
	defer master.Close()
	check(t, <-created)
	check(t, r.Start(ctx, "c1"))
	out := make(chan string, 1)
	go func() {
		data, _ := io.ReadAll(master) // ends with EIO when the process does
		out <- strings.TrimSpace(string(data))
	}()
	select {
	case s := <-out:
		if s != "on a terminal" {
			t.Errorf("wrote %q", s)
		}
	case <-time.After(20 * time.Second):
		t.Error("no end of the output")
	}
	check(t, r.Delete(ctx, "c1", &runc.DeleteOpts{Force: true}))
}
