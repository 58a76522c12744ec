package network

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// The tests run in a network and mount namespace of their own: TestMain starts the test program once more in one. Where that is not
// permitted, only what needs no kernel is tested.

const insideVariable = "GITOPSD_TEST_NETNS"

var plugin string // the CNI plugin's program; empty outside of the namespace

func TestMain(m *testing.M) {
	if os.Getenv(insideVariable) == "" && os.Geteuid() == 0 {
		os.Exit(inside())
	}
	if os.Geteuid() == 0 {
		if err := setUp(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// inside runs this program in new namespaces.
func inside() int {
	if err := buildPlugin(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "enter namespaces:", err)
			return 1
		}
		return cmd.ProcessState.ExitCode()
	}
	return 0
}

func pluginPath() string {
	root, _ := filepath.Abs("../..")
	return filepath.Join(root, "build/bundle/gitopsd-bridge")
}

func buildPlugin() error {
	if out, err := exec.Command("../../hack/build-bundle.sh", "runtime").CombinedOutput(); err != nil {
		return fmt.Errorf("build the CNI plugin: %w\n%s", err, out)
	}
	return nil
}

func setUp() error {
	plugin = pluginPath()
	for setting, value := range map[string]string{
		"icmp_ratelimit":         "0", // a test asks more often than a client
		"conf/all/rp_filter":     "1", // the strictest of what machines have
		"conf/default/rp_filter": "1",
	} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+setting, []byte(value), 0); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// needKernel skips a test outside of the namespace.
func needKernel(t *testing.T) {
	t.Helper()
	if plugin == "" {
		t.Skip("needs root for network namespaces")
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls a condition until it returns "" or time runs out; what it returns says what is still missing.
func eventually(t *testing.T, missing func() string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		what := missing()
		if what == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
