package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// plainCluster is a Kubernetes API of somebody else's: test/plaincluster as a process of its own, without an engine and without nodes.
type plainCluster struct {
	*instance // its numbers, its clients, and where its objects are; its program is not gitopsd
	process   *exec.Cmd
	over      chan error // what it ended with
}

// startPlain starts a cluster; end stops it and removes what it has written.
func startPlain(log string) (*plainCluster, error) {
	i := prepare(nil)
	c := &plainCluster{instance: i, over: make(chan error, 1), process: exec.Command(plainProgram, "--data-dir", i.dir, "--api-port", strconv.Itoa(i.port(0)), "--audit-log",
		"--service-cidr", i.services())}
	c.process.Env = environment()
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	c.process.Stdout, c.process.Stderr = out, out
	if err := c.process.Start(); err != nil {
		return nil, err
	}
	go func() { c.over <- c.process.Wait() }()
	if err = c.awaitReady(); err == nil {
		err = c.useKubeconfig()
	}
	if err != nil {
		said, _ := os.ReadFile(log)
		c.end()
		return nil, fmt.Errorf("the plain cluster has not started: %w\n%.4000s", err, said)
	}
	return c, nil
}

func (c *plainCluster) awaitReady() error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for timeout := time.After(2 * time.Minute); ; {
		if _, err := os.Stat(filepath.Join(c.dir, "ready")); err == nil {
			return nil
		}
		select {
		case err := <-c.over:
			c.over <- err // for end
			return fmt.Errorf("it has ended: %w", err)
		case <-timeout:
			return errors.New("it takes too long")
		case <-tick.C:
		}
	}
}

func (c *plainCluster) kubeconfig() string { return filepath.Join(c.dir, "admin.kubeconfig") }

func (c *plainCluster) useKubeconfig() (err error) {
	if c.config, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig()); err != nil {
		return err
	}
	c.config.QPS = -1
	if c.kube, err = kubernetes.NewForConfig(c.config); err != nil {
		return err
	}
	c.dyn, err = dynamic.NewForConfig(c.config)
	return err
}

func (c *plainCluster) end() {
	_ = c.process.Process.Signal(syscall.SIGTERM)
	<-c.over
	os.RemoveAll(filepath.Dir(c.dir))
}

// guest are the arguments of an instance on a cluster that is somebody else's.
func (i *instance) guest(kubeconfig string, flags ...string) []string {
	return append([]string{"server", "--kubeconfig", kubeconfig, "--data-dir", i.dir, "--allow-file-sources",
		"--webhook-address", fmt.Sprintf("127.0.0.1:%d", i.port(9)),
		"--metrics-address", fmt.Sprintf("127.0.0.1:%d", i.port(4))}, flags...)
}

// kubeconfigOf writes a kubeconfig of another user of the cluster's, by the certificate of this name.
func (c *plainCluster) kubeconfigOf(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(c.dir, name+".kubeconfig")
	file := func(suffix string) string { return filepath.Join(c.dir, "pki", suffix) }
	writeFile(t, path, fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}]\n"+
		"users: [{name: u, user: {client-certificate: %q, client-key: %q}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\ncurrent-context: c\n",
		c.config.Host, file("ca.crt"), file(name+".crt"), file(name+".key")))
	return path
}

// server is `gitopsd server` against a cluster that is there already.
type server struct {
	*instance
	stopped bool // by SIGSTOP
}

// newServer prepares a server that speaks to the cluster by this kubeconfig. It goes with the test.
func newServer(t testing.TB, c *plainCluster, kubeconfig string, flags ...string) *server {
	t.Helper()
	i := prepare(nil)
	i.args = func() []string { return i.guest(kubeconfig, flags...) }
	i.config, i.kube, i.dyn = c.config, c.kube, c.dyn
	s := &server{instance: i}
	t.Cleanup(func() {
		if s.stopped {
			s.resume(t)
		}
		i.remove(t)
	})
	return s
}

// suspend stops the process where it stands.
func (s *server) suspend(t testing.TB) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.stopped = true
}

func (s *server) resume(t testing.TB) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.stopped = false
}

// says waits until the server's log has a text behind a mark, and returns where the log ends.
func (s *server) says(t testing.TB, mark int, text string) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("server %d says %q", s.n, text), func() error {
		b, err := os.ReadFile(s.log)
		if err == nil && !strings.Contains(string(b[min(mark, len(b)):]), text) {
			err = fmt.Errorf("it has not")
		}
		return err
	})
}

func (s *server) mark() int {
	b, _ := os.ReadFile(s.log)
	return len(b)
}

// kubeconfigFor writes a kubeconfig that reaches an API by plain HTTP on loopback, for a proxy of the test's.
func kubeconfigFor(t testing.TB, url string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	writeFile(t, path, fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q}}]\nusers: [{name: u, user: {}}]\n"+
		"contexts: [{name: c, context: {cluster: c, user: u}}]\ncurrent-context: c\n", url))
	return path
}
