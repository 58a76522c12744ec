package worker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv("WORKER_PROBE") != "" {
		probe()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// probe shuts itself in as a worker does and then tries what a worker must not be able to do.
func probe() {
	file, err := os.Open("/proc/self/status") // inherited handles stay; a worker has none but its pipes
	if err != nil {
		fmt.Println("open before:", err)
	}
	layers, gaps := confine()
	fmt.Printf("layers: %s\ngaps: %s\n", strings.Join(layers, ", "), strings.Join(gaps, ", "))
	attempts := []struct {
		name string
		try  func() error
	}{
		{"read a file", func() error { _, err := os.ReadFile("/etc/passwd"); return err }},
		{"read its environment", func() error { _, err := os.ReadFile("/proc/self/environ"); return err }},
		{"list a folder", func() error { _, err := os.ReadDir("/"); return err }},
		{"write a file", func() error { return os.WriteFile("/tmp/pwned-by-render", nil, 0o600) }},
		{"make a folder", func() error { return os.Mkdir("/tmp/pwned-by-render", 0o700) }},
		{"remove a file", func() error { return os.Remove("/tmp/anything") }},
		{"make a link", func() error { return os.Symlink("a", "/tmp/pwned-by-render") }},
		{"connect", func() error { _, err := net.DialTimeout("tcp", "127.0.0.1:1", time.Second); return err }},
		{"listen", func() error { _, err := net.Listen("tcp", "127.0.0.1:0"); return err }},
		{"make a Unix socket", func() error { _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err }},
		{"run a program", func() error { return exec.Command("/bin/true").Run() }},
		{"exec", func() error { return unix.Exec("/bin/true", []string{"true"}, nil) }},
		{"fork", func() error {
			_, _, e := unix.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0)
			return forked(e)
		}},
		{"trace", func() error { return unix.PtraceAttach(1) }},
		{"mount", func() error { return unix.Mount("none", "/", "tmpfs", 0, "") }},
		{"leave its namespaces", func() error { return unix.Unshare(unix.CLONE_NEWUSER) }},
		{"signal others", func() error { return unix.Kill(os.Getppid(), 0) }},
		{"load a kernel module", func() error { return unix.InitModule(nil, "") }},
		{"use BPF", func() error { _, _, e := unix.Syscall(unix.SYS_BPF, 0, 0, 0); return nonzero(e) }},
		{"use io_uring", func() error { _, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0); return nonzero(e) }},
		{"get root back", func() error { return unix.Setuid(0) }},
		{"raise a limit", func() error { return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}) }},
		{"make a memory file", func() error { _, err := unix.MemfdCreate("x", 0); return err }},
	}
	for _, a := range attempts {
		fmt.Printf("%s: %v\n", a.name, a.try())
	}
	fmt.Println("work on:", work())
	if file != nil {
		file.Close()
	}
}

func forked(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

func nonzero(e unix.Errno) error { return forked(e) }

// work does what a render does: memory, goroutines on many threads, timers, garbage collection.
func work() string {
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			runtime.LockOSThread()
			buf := make([]byte, 1<<20)
			for i := range buf {
				buf[i] = byte(i)
			}
			time.Sleep(time.Millisecond)
			runtime.GC()
		})
	}
	wait.Wait()
	return "done"
}

// Whatever layers there are, a worker can do none of it.
func TestConfined(t *testing.T) {
	for name, attr := range map[string]*syscall.SysProcAttr{
		"in namespaces":    {Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID},
		"without any":      {},
		"as somebody else": {Credential: &syscall.Credential{Uid: 65534, Gid: 65534}},
	} {
		t.Run(name, func(t *testing.T) {
			if os.Geteuid() != 0 && name != "without any" {
				t.Skip("needs root")
			}
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			if name == "as somebody else" { // who may not look into the folder of test programs
				bin, err := os.Open(self)
				if err != nil {
					t.Fatal(err)
				}
				defer bin.Close()
				self = fmt.Sprintf("/proc/self/fd/%d", 3)
				run(t, exec.Command(self), attr, bin)
				return
			}
			run(t, exec.Command(self), attr)
		})
	}
}

func run(t *testing.T, cmd *exec.Cmd, attr *syscall.SysProcAttr, files ...*os.File) {
	t.Helper()
	cmd.SysProcAttr, cmd.ExtraFiles = attr, files
	cmd.Env = []string{"WORKER_PROBE=1"}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	t.Log(out.String())
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	text := out.String()
	if !strings.Contains(text, "work on: done") {
		t.Error("it cannot work any more")
	}
	if !strings.Contains(text, "seccomp") {
		t.Error("without seccomp")
	}
	for _, line := range strings.Split(text, "\n") {
		if strings.HasSuffix(line, ": <nil>") {
			t.Errorf("it can %s", strings.TrimSuffix(line, ": <nil>"))
		}
	}
	if _, err := os.Stat("/tmp/pwned-by-render"); err == nil {
		t.Error("it wrote a file")
	}
}
