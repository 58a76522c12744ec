package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

var discard = log.New(io.Discard, "", 0)

const nodePort = 31080

// instance is a gitopsd that the benchmark runs, with a repository of its own.
type instance struct {
	dir, repo, log string
	cmd            *exec.Cmd
	ended          chan error
	kube           kubernetes.Interface
}

// begun is how long after its start a daemon was ready.
type begun struct{ api, node time.Duration }

func newInstance() (*instance, error) {
	top, err := os.MkdirTemp("/var/tmp", "gdbench-")
	if err != nil {
		return nil, err
	}
	i := &instance{dir: filepath.Join(top, "data"), repo: filepath.Join(top, "repo"), log: filepath.Join(top, "log")}
	if err := os.MkdirAll(i.repo, 0o755); err != nil {
		return nil, err
	}
	if err := i.git("init", "-q", "-b", "main", "."); err != nil {
		return nil, err
	}
	return i, i.commit("namespace.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: bench}\n")
}

func (i *instance) start(ctx context.Context) (begun, error) {
	out, err := os.Create(i.log)
	if err != nil {
		return begun{}, err
	}
	defer out.Close()
	i.cmd = exec.Command(program, "up", "--data-dir", i.dir, "--node-name", "bench", "--repo", i.repo, "--ref", "main",
		"--api-port", "17443", "--agent-port", "21250", "--etcd-port", "23379", "--etcd-peer-port", "23380", "--metrics-port", "21249",
		"--pod-cidr", "10.62.0.0/16", "--service-cidr", "10.63.0.0/16", "--bridge", "gdbench", "--nft-table", "gdbench", "--cgroup-parent", "/gdbench", "--allow-file-sources")
	i.cmd.Stdout, i.cmd.Stderr = out, out
	started := time.Now()
	if err := i.cmd.Start(); err != nil {
		return begun{}, err
	}
	i.ended = make(chan error, 1)
	go func() { i.ended <- i.cmd.Wait() }()
	var b begun
	if err := i.awaitLog(ctx, "API ready"); err != nil {
		return b, err
	}
	b.api = time.Since(started)
	if err := i.awaitLog(ctx, "node ready"); err != nil {
		return b, err
	}
	b.node = time.Since(started)
	cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(i.dir, "admin.kubeconfig"))
	if err != nil {
		return b, err
	}
	cfg.QPS = -1
	i.kube, err = kubernetes.NewForConfig(cfg)
	return b, err
}

func (i *instance) stop() error {
	if err := i.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return <-i.ended
}

func (i *instance) remove() {
	if out, err := exec.Command(program, "uninstall", "--yes", "--data-dir", i.dir).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "uninstall: %v\n%s", err, out)
	}
	os.RemoveAll(filepath.Dir(i.dir))
}

func (i *instance) awaitLog(ctx context.Context, text string) error {
	return await(ctx, func() error {
		select {
		case err := <-i.ended:
			return fatal{fmt.Errorf("the daemon ended: %v\n%s", err, read(i.log))}
		default:
		}
		if !strings.Contains(read(i.log), text) {
			return fmt.Errorf("no %q in its log", text)
		}
		return nil
	})
}

type fatal struct{ error }

// await polls every 2 ms, so that what is measured is not the polling.
func await(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		if _, hopeless := err.(fatal); hopeless {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain: %w", err)
		case <-tick.C:
		}
	}
}

func (i *instance) commit(file, text string) error {
	if err := os.WriteFile(filepath.Join(i.repo, file), []byte(text), 0o644); err != nil {
		return err
	}
	if err := i.git("add", "-A"); err != nil {
		return err
	}
	return i.git("commit", "-qm", file)
}

func (i *instance) git(args ...string) error {
	cmd := exec.Command("git", append([]string{"-C", i.repo, "-c", "user.name=bench", "-c", "user.email=bench@example.org"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w: %s", args[0], err, out)
	}
	return nil
}

// head is the commit as the daemon's log names it.
func (i *instance) head() string {
	out, _ := exec.Command("git", "-C", i.repo, "rev-parse", "HEAD").Output()
	return string(out[:8])
}

// containerdPID finds the containerd of this instance.
func (i *instance) containerdPID() int {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if c := read(p); strings.Contains(c, "gitopsd-containerd") && strings.Contains(c, i.dir) {
			pid, _ := strconv.Atoi(strings.Split(p, "/")[2])
			return pid
		}
	}
	return 0
}

func address() string {
	conn, err := net.Dial("udp4", "198.51.100.1:9") // nothing is sent
	if err != nil {
		return "127.0.0.1"
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String()
}
