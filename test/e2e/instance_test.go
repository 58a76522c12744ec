package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// instance is a gitopsd of its own: a data directory, ports, ranges and names that no other instance uses.
type instance struct {
	n       int
	dir     string // data directory
	api     string // data directory of the API, where its audit log is
	bridge  string
	table   string
	cgroup  string
	flags   []string
	program string
	repo    *repo               // what the root Application follows; nil: none
	args    func() []string     // of the program
	as      *syscall.Credential // as whom it runs; nil: as the test
	env     []string            // more of it

	cmd    *exec.Cmd
	log    string // file with everything the daemon said
	ended  chan error
	config *rest.Config
	kube   kubernetes.Interface
	dyn    dynamic.Interface
}

var instances atomic.Int32

// newInstance prepares an instance; start starts it. Its end is the test's end.
func newInstance(t testing.TB, root *repo, flags ...string) *instance {
	t.Helper()
	needsNode(t)
	i := prepare(root, flags...)
	t.Cleanup(func() { i.remove(t) })
	return i
}

func prepare(root *repo, flags ...string) *instance {
	first, _ := strconv.Atoi(os.Getenv("GITOPSD_E2E_FIRST")) // a second run on one machine starts at 40
	n := first + int(instances.Add(1))
	dir, err := os.MkdirTemp("", fmt.Sprintf("gd%d-", n))
	if err != nil {
		panic(err)
	}
	i := &instance{n: n, dir: filepath.Join(dir, "data"), repo: root, flags: flags, program: gitopsd,
		bridge: fmt.Sprintf("gdt%d", n), table: fmt.Sprintf("gdt%d", n), cgroup: fmt.Sprintf("/gdt%d", n),
		log: filepath.Join(dir, "daemon.log")}
	i.args, i.api = i.up, i.dir
	return i
}

func (i *instance) port(k int) int { return 21000 + 20*i.n + k }

func (i *instance) services() string { return fmt.Sprintf("10.%d.128.0/17", i.n) }

func (i *instance) nodePorts() (from, to int) { from = 30000 + 50*i.n; return from, from + 49 }

// up are the arguments of an instance with a control plane and a node of its own.
func (i *instance) up() []string {
	from, to := i.nodePorts()
	args := []string{"up", "--data-dir", i.dir, "--node-name", fmt.Sprintf("node%d", i.n),
		"--api-port", strconv.Itoa(i.port(0)), "--agent-port", strconv.Itoa(i.port(1)), "--etcd-port", strconv.Itoa(i.port(2)),
		"--etcd-peer-port", strconv.Itoa(i.port(3)), "--metrics-port", strconv.Itoa(i.port(4)),
		"--pod-cidr", fmt.Sprintf("10.%d.0.0/17", i.n), "--service-cidr", i.services(),
		"--node-port-range", fmt.Sprintf("%d-%d", from, to),
		"--bridge", i.bridge, "--nft-table", i.table, "--cgroup-parent", i.cgroup, "--audit-log", "--allow-file-sources",
		"--webhook-address", fmt.Sprintf("127.0.0.1:%d", i.port(9))}
	if i.repo != nil {
		args = append(args, "--repo", i.repo.dir, "--ref", "main", "--path", i.repo.path)
	}
	return append(args, i.flags...)
}

// start starts the daemon and waits until its API answers.
func (i *instance) start(t testing.TB) {
	t.Helper()
	i.launch(t)
	i.connect(t)
	eventually(t, time.Minute, "API answers", func() error {
		select {
		case err := <-i.ended:
			t.Fatalf("the daemon ended: %v\n%s", err, i.output())
		default:
		}
		if _, err := os.Stat(filepath.Join(i.dir, "admin.kubeconfig")); err != nil {
			return err
		}
		if i.kube == nil {
			i.connect(t)
		}
		return i.kube.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx(t)).Error()
	})
}

// launch starts the daemon and waits for nothing.
func (i *instance) launch(t testing.TB) {
	t.Helper()
	out, err := os.OpenFile(i.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	i.cmd = exec.Command(i.program, i.args()...)
	i.cmd.Stdout, i.cmd.Stderr = out, out
	i.cmd.Env = append(environment(), i.env...)
	i.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: i.as}
	if err := i.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	i.ended = make(chan error, 1)
	cmd, ended := i.cmd, i.ended
	go func() { ended <- cmd.Wait() }()
}

func (i *instance) connect(t testing.TB) {
	cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(i.dir, "admin.kubeconfig"))
	if err != nil {
		return // not written yet
	}
	cfg.QPS = -1
	i.config = cfg
	if i.kube, err = kubernetes.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	if i.dyn, err = dynamic.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
}

// kill9 kills the daemon as a power cut would, and nothing else.
func (i *instance) kill9(t testing.TB) {
	t.Helper()
	if err := i.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-i.ended
}

// stop ends the daemon in order and fails unless it ends well.
func (i *instance) stop(t testing.TB) {
	t.Helper()
	if err := i.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-i.ended:
		if err != nil {
			t.Fatalf("the daemon ended with %v\n%s", err, i.output())
		}
	case <-time.After(time.Minute):
		t.Fatalf("the daemon has not ended after a minute\n%s", i.output())
	}
}

// run runs the command line against the instance and returns what it printed and its exit code.
func (i *instance) run(args ...string) (string, int) {
	return i.runIn("", args...)
}

func (i *instance) runIn(dir string, args ...string) (string, int) {
	cmd := exec.Command(i.program, append(args, "--data-dir", i.dir)...)
	cmd.Dir = dir
	return output(cmd)
}

// must runs the command line and fails the test unless it exits with 0.
func (i *instance) must(t testing.TB, args ...string) string {
	t.Helper()
	out, code := i.run(args...)
	if code != 0 {
		t.Fatalf("gitopsd %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// kubectl runs the bundled kubectl.
func (i *instance) kubectl(args ...string) (string, int) {
	return output(exec.Command(i.program, append([]string{"kubectl", "--data-dir", i.dir}, args...)...))
}

func (i *instance) mustKubectl(t testing.TB, args ...string) string {
	t.Helper()
	out, code := i.kubectl(args...)
	if code != 0 {
		t.Fatalf("kubectl %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

func output(cmd *exec.Cmd) (string, int) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = environment()
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// environment is ours with a place for the race detector's findings.
func environment() []string {
	return append(os.Environ(), "GORACE=log_path="+filepath.Join(raceDir, "race"), "GITOPSD_BUNDLE_DIR="+bundleDir)
}

func (i *instance) output() string {
	b, _ := os.ReadFile(i.log)
	if len(b) > 8000 {
		b = b[len(b)-8000:]
	}
	return string(b)
}

// remove takes the instance off the machine, whatever state it is in.
func (i *instance) remove(t testing.TB) {
	if t.Failed() {
		t.Logf("the daemon of instance %d said:\n%s", i.n, i.output())
	}
	if _, err := os.Stat(filepath.Join(i.dir, "instance.json")); err == nil {
		if out, code := i.run("uninstall", "--yes"); code != 0 {
			t.Errorf("uninstall: exit code %d\n%s", code, out)
		}
	} else if i.cmd != nil && i.cmd.Process != nil {
		_ = i.cmd.Process.Kill()
	}
	if i.ended != nil {
		select {
		case <-i.ended:
		default:
		}
	}
	os.RemoveAll(filepath.Dir(i.dir))
}

// nodeAddress is where NodePorts answer.
func nodeAddress(t testing.TB) string {
	t.Helper()
	conn, err := net.Dial("udp4", "198.51.100.1:9") // nothing is sent
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String()
}

// patience is how long anything may take at least: a machine that is busy with other tests is no failure, and what comes is not waited for.
const patience = 2 * time.Minute

// eventually polls until f returns nil; the last error is what the test fails with.
func eventually(t testing.TB, within time.Duration, what string, f func() error) {
	t.Helper()
	within = max(within, patience)
	if err := poll(within, f); err != nil {
		t.Fatalf("%s: not within %s: %v", what, within, err)
	}
}

func poll(within time.Duration, f func() error) error {
	deadline := time.Now().Add(within)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}

// consistently fails when f returns an error within the time.
func consistently(t testing.TB, during time.Duration, what string, f func() error) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(during); time.Now().Before(end); <-tick.C {
		if err := f(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func ctx(t testing.TB) context.Context { return t.Context() }
