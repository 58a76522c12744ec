package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"
)

// newerProgram is another build of gitopsd: the same with a byte more, which is another file to the kernel.
func newerProgram(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(gitopsd)
	if err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(t.TempDir(), "gitopsd")
	if err := os.WriteFile(newer, append(b, 0), 0o755); err != nil {
		t.Fatal(err)
	}
	return newer
}

// simulateReboot takes away what a reboot takes away of a dead daemon's instance: processes, mounts, network namespaces,
// cgroups, interfaces, rules and the run directory.
func (i *instance) simulateReboot(t testing.TB) {
	t.Helper()
	killInstance(i)
	for _, m := range i.mounts(t) {
		_ = syscall.Unmount(m, syscall.MNT_DETACH)
	}
	for _, c := range i.cgroups() {
		eventually(t, 10*time.Second, "remove cgroup "+c, func() error {
			if err := syscall.Rmdir(c); err != nil && err != syscall.ENOENT {
				return err
			}
			return nil
		})
	}
	_, _ = output(exec.Command("nft", "delete", "table", "ip", i.table))
	_, _ = output(exec.Command("ip", "link", "delete", i.bridge))
	if err := os.RemoveAll(i.runDir(t)); err != nil {
		t.Fatal(err)
	}
	// A boot has a number; the file that remembers the last one is made to name another.
	_ = os.WriteFile(filepath.Join(i.dir, "cni", "boot_id"), []byte("00000000-0000-0000-0000-000000000000\n"), 0o644)
}

// killInstance kills every process of an instance's containers, its shims and its containerd.
func killInstance(i *instance) {
	for range 3 { // a shim may start something while it dies
		for _, pid := range allPIDs() {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
			cmd := strings.Join(cmdline(pid), " ")
			if strings.Contains(string(b), i.cgroup+"/") || (strings.Contains(cmd, i.dir) && strings.Contains(cmd, "containerd")) ||
				(strings.Contains(cmd, "containerd-shim") && strings.Contains(environOf(pid), i.dir)) || (strings.Contains(cmd, "containerd-shim") && strings.Contains(cmd, i.socket())) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

func environOf(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return string(b)
}

func (i *instance) socket() string {
	b, _ := os.ReadFile(filepath.Join(i.dir, "instance.json"))
	_, rest, _ := strings.Cut(string(b), `"runDir": "`)
	dir, _, _ := strings.Cut(rest, `"`)
	return filepath.Join(dir, "containerd.sock")
}

func (i *instance) runDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Dir(i.socket())
	if dir == "." {
		t.Fatal("instance.json names no run directory")
	}
	return dir
}

// mounts below the instance's directories, deepest first.
func (i *instance) mounts(t testing.TB) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	run := filepath.Dir(i.socket())
	var out []string
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 1 && (strings.HasPrefix(f[1], i.dir) || (run != "." && strings.HasPrefix(f[1], run+"/"))) {
			out = append(out, f[1])
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(out)))
	return out
}

// cgroups of the instance, deepest first.
func (i *instance) cgroups() []string {
	var out []string
	tops, _ := filepath.Glob("/sys/fs/cgroup/*" + i.cgroup)
	if _, err := os.Stat("/sys/fs/cgroup" + i.cgroup); err == nil {
		tops = append(tops, "/sys/fs/cgroup"+i.cgroup)
	}
	for _, top := range tops {
		_ = filepath.WalkDir(top, func(p string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				out = append(out, p)
			}
			return nil
		})
	}
	sort.Sort(sort.Reverse(sort.StringSlice(out)))
	return out
}

// checkGone fails when anything of the instance is left on the machine.
func (i *instance) checkGone(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(i.dir); !os.IsNotExist(err) {
		t.Errorf("the data directory is still there: %v", err)
	}
	if left := i.cgroups(); len(left) > 0 {
		t.Errorf("cgroups are left: %v", left)
	}
	if left := i.mounts(t); len(left) > 0 {
		t.Errorf("mounts are left: %v", left)
	}
	if _, err := net.InterfaceByName(i.bridge); err == nil {
		t.Errorf("the bridge %s is left", i.bridge)
	}
	if out, _ := output(exec.Command("nft", "list", "tables")); strings.Contains(out, " "+i.table+"\n") {
		t.Errorf("the table %s is left", i.table)
	}
	for _, pid := range allPIDs() {
		if cmd := strings.Join(cmdline(pid), " "); strings.Contains(cmd, i.dir) {
			t.Errorf("process %d is left: %s", pid, cmd)
		}
	}
}

// Two instances run on one machine and do not meet.
func TestTwoInstances(t *testing.T) {
	one := shared(t)
	two := newInstance(t, nil)
	two.start(t)
	two.awaitNode(t)
	from1, _ := one.nodePorts()
	from2, _ := two.nodePorts()
	a := one.deploy(t, map[string]string{"hello.yaml": helloDeployment("v1", 1, from1+3)})
	b := two.deploy(t, map[string]string{"hello.yaml": helloDeployment("v2", 1, from2+3)})
	a.await(t)
	b.await(t)
	answers(t, 20*time.Second, fmt.Sprintf("http://%s:%d/", nodeAddress(t), from1+3), "version v1")
	answers(t, 20*time.Second, fmt.Sprintf("http://%s:%d/", nodeAddress(t), from2+3), "version v2")
	two.must(t, "uninstall", "--yes")
	two.checkGone(t)
	if err := answer(fmt.Sprintf("http://%s:%d/", nodeAddress(t), from1+3), "version v1"); err != nil {
		t.Errorf("the first instance suffered from the second's end: %v", err)
	}
}

// What keeps an instance from starting is told in a line each, before anything is written.
func TestStartRefusals(t *testing.T) {
	i := shared(t)
	t.Run("a second daemon on the same data directory", func(t *testing.T) {
		out, code := output(exec.Command(gitopsd, i.args()...))
		if code != 1 || !strings.Contains(out, "already runs on "+i.dir) || strings.Count(out, "\n") != 1 {
			t.Errorf("exit code %d:\n%s", code, out)
		}
	})
	fresh := prepare(nil)
	defer os.RemoveAll(filepath.Dir(fresh.dir))
	t.Run("ports in use", func(t *testing.T) {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", fresh.port(2)))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		out, code := output(exec.Command(gitopsd, fresh.args()...))
		want := fmt.Sprintf("port %d is in use by e2e.test (process %d); stop what listens there or use --etcd-port", fresh.port(2), os.Getpid())
		if code != 1 || !strings.Contains(out, want) {
			t.Errorf("exit code %d:\n%s\nwant: %s", code, out, want)
		}
		fresh.checkUntouched(t)
	})
	t.Run("no root", func(t *testing.T) {
		cmd := exec.Command(copyForAll(t, gitopsd), fresh.args()...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Dir = "/"
		out, code := output(cmd)
		if code != 1 || !strings.Contains(out, "needs root") || strings.Count(out, "\n") != 1 {
			t.Errorf("exit code %d:\n%s", code, out)
		}
		fresh.checkUntouched(t)
	})
	t.Run("a full disk", func(t *testing.T) {
		dir := t.TempDir()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
			t.Fatal(err)
		}
		defer syscall.Unmount(dir, syscall.MNT_DETACH)
		full := *fresh
		full.dir = filepath.Join(dir, "data")
		out, code := output(exec.Command(gitopsd, full.up()...))
		if code != 1 || !strings.Contains(out, "MiB are free for "+full.dir) || strings.Count(out, "\n") != 1 {
			t.Errorf("exit code %d:\n%s", code, out)
		}
		full.checkUntouched(t)
	})
	for name, c := range map[string]struct {
		flags []string
		says  string
	}{
		"ranges that overlap": {[]string{"--pod-cidr", "10.9.0.0/16", "--service-cidr", "10.9.4.0/24"}, "overlap"},
		"loopback":            {[]string{"--advertise-address", "127.0.0.1"}, "is loopback"},
		"a hostile URL":       {[]string{"--repo", "ext::sh -c id"}, "transport helper"},
		"no credentials file": {[]string{"--repo", "/x", "--git-credentials", "/nowhere"}, "/nowhere"},
		"a path alone":        {[]string{"--path", "x"}, "name it with --repo"},
		"an unknown flag":     {[]string{"--rep", "x"}, "unknown flag: --rep"},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := output(exec.Command(gitopsd, append(fresh.args(), c.flags...)...))
			if code != 1 || !strings.Contains(out, c.says) {
				t.Errorf("exit code %d, want %q:\n%s", code, c.says, out)
			}
			fresh.checkUntouched(t)
		})
	}
}

// checkUntouched fails when a refused start has put more than its lock anywhere.
func (i *instance) checkUntouched(t testing.TB) {
	t.Helper()
	files, _ := filepath.Glob(i.dir + "/*")
	for _, f := range files {
		if filepath.Base(f) != "lock" {
			t.Errorf("the refused start left %s", f)
		}
	}
	if _, err := net.InterfaceByName(i.bridge); err == nil {
		t.Errorf("the refused start left the bridge %s", i.bridge)
	}
}

// copyForAll copies a program to where every user may run it.
func copyForAll(t testing.TB, program string) string {
	t.Helper()
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp("/var/tmp", "gitopsd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(f.Name()) })
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := f.Chmod(0o755); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}
