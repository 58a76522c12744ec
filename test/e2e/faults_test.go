package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// One instance goes through every death there is, in turn; its pods must not notice more than they have to.
func TestDeaths(t *testing.T) {
	r := newRepo(t, nil)
	i := newInstance(t, r)
	newer := newerProgram(t)
	from, _ := i.nodePorts()
	url := fmt.Sprintf("http://%s:%d/", nodeAddress(t), from)
	namespace := "apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n---\n"
	hello := func(version string) string {
		return namespace + strings.ReplaceAll(helloDeployment(version, 2, from), "metadata: {name: hello}", "metadata: {name: hello, namespace: web}")
	}
	r.commit(t, "hello", map[string]string{"hello.yaml": hello("v1")})
	i.start(t)
	root := newApp(i, "gitopsd", "root", r)
	root.await(t)
	answers(t, 20*time.Second, url, "version v1")

	t.Run("kill -9 of the daemon", func(t *testing.T) {
		before := i.pods(t, "web")
		token, err := i.tokenOnDisk(before[0])
		if err != nil {
			t.Fatal(err)
		}
		i.kill9(t)
		consistently(t, time.Second, "containers go on serving", func() error { return answer(url, "version v1") })
		i.start(t)
		i.awaitNode(t)
		root.await(t)
		i.checkNewToken(t, before[0], token) // the daemon keeps tokens in memory only
		samePods(t, before, i.pods(t, "web"), 0)
	})
	t.Run("kill -9 of the daemon, a container dies and a commit comes meanwhile", func(t *testing.T) {
		before := i.pods(t, "web")
		i.kill9(t)
		kill(t, containerPIDs(t, before[0])[0])
		r.commit(t, "config", map[string]string{"c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: meanwhile, namespace: web}\n"})
		i.start(t)
		root.await(t)
		eventually(t, 30*time.Second, "the dead container is started again", func() error {
			return restarted(i.pods(t, "web"), before[0], 1)
		})
		samePods(t, before[1:], i.pods(t, "web"), 0)
		if _, err := i.kube.CoreV1().ConfigMaps("web").Get(ctx(t), "meanwhile", metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("kill -9 of containerd", func(t *testing.T) {
		before := i.pods(t, "web")
		kill(t, processWith(t, "gitopsd-containerd", "--config", filepath.Join(i.dir, "containerd", "config.toml")))
		consistently(t, 2*time.Second, "containers go on serving", func() error { return answer(url, "version v1") })
		eventually(t, 30*time.Second, "containerd answers again", func() error {
			_, code := i.kubectl("-n", "web", "exec", before[0].Name, "--", "/app", "--no-such-flag")
			if processes("gitopsd-containerd", filepath.Join(i.dir, "containerd", "config.toml")) == nil {
				return fmt.Errorf("no containerd yet (%d)", code)
			}
			return nil
		})
		samePods(t, before, i.pods(t, "web"), 0)
	})
	t.Run("kill -9 of a container's process", func(t *testing.T) {
		pod := i.pods(t, "web")[0]
		kill(t, containerPIDs(t, pod)[0])
		eventually(t, 30*time.Second, "same pod, one restart more", func() error {
			return restarted(i.pods(t, "web"), pod, restarts(pod)+1)
		})
	})
	t.Run("kill -9 of a shim", func(t *testing.T) {
		pod := i.pods(t, "web")[1]
		kill(t, parent(t, containerPIDs(t, pod)[0]))
		eventually(t, 60*time.Second, "same pod, one restart more", func() error {
			return restarted(i.pods(t, "web"), pod, restarts(pod)+1)
		})
		answers(t, 20*time.Second, url, "version v1")
	})
	t.Run("an ordered end and a newer program", func(t *testing.T) {
		eventually(t, 60*time.Second, "both pods are ready", func() error { return allReady(i.pods(t, "web"), 2) })
		before := i.pods(t, "web")
		i.stop(t)
		if err := answer(url, "version v1"); err != nil {
			t.Errorf("containers ended with the daemon: %v", err)
		}
		i.program = newer
		i.start(t)
		i.awaitNode(t)
		root.await(t)
		samePods(t, before, i.pods(t, "web"), 0)
	})
	t.Run("a reboot", func(t *testing.T) {
		i.kill9(t)
		i.simulateReboot(t)
		if err := answer(url, "version v1"); err == nil {
			t.Fatal("the simulated reboot left containers behind")
		}
		r.commit(t, "v2", map[string]string{"hello.yaml": hello("v2")})
		i.start(t)
		root.await(t)
		answers(t, 60*time.Second, url, "version v2")
	})
	t.Run("down and up again", func(t *testing.T) {
		i.must(t, "down", "--grace", "3s")
		<-i.ended
		if err := answer(url, "version"); err == nil {
			t.Fatal("containers run after down")
		}
		i.start(t)
		root.await(t)
		answers(t, 60*time.Second, url, "version v2")
	})
	t.Run("uninstall leaves nothing", func(t *testing.T) {
		i.must(t, "uninstall", "--yes")
		i.checkGone(t)
	})
}

// samePods fails unless every pod of before is there with the same uid and at most more restarts more.
func samePods(t testing.TB, before, after []corev1.Pod, more int32) {
	t.Helper()
	for _, b := range before {
		found := false
		for _, a := range after {
			if a.UID == b.UID {
				found = true
				if restarts(a)-restarts(b) > more {
					t.Errorf("pod %s was restarted: %d, then %d", a.Name, restarts(b), restarts(a))
				}
			}
		}
		if !found {
			t.Errorf("pod %s is gone", b.Name)
		}
	}
}

func restarts(p corev1.Pod) int32 {
	var n int32
	for _, s := range p.Status.ContainerStatuses {
		n += s.RestartCount
	}
	return n
}

func restarted(pods []corev1.Pod, was corev1.Pod, want int32) error {
	for _, p := range pods {
		if p.UID == was.UID {
			if restarts(p) != want {
				return fmt.Errorf("%d restarts, want %d; %s", restarts(p), want, describe(&p))
			}
			return ready(&p)
		}
	}
	return fmt.Errorf("pod %s is gone", was.Name)
}

func allReady(pods []corev1.Pod, n int) error {
	for _, p := range pods {
		if err := ready(&p); err != nil {
			return fmt.Errorf("pod %s: %s", p.Name, describe(&p))
		}
	}
	if len(pods) != n {
		return fmt.Errorf("%d pods, want %d", len(pods), n)
	}
	return nil
}

// containerPIDs are the processes of a pod's containers, without the pause process.
func containerPIDs(t testing.TB, p corev1.Pod) []int {
	t.Helper()
	var out []int
	for _, pid := range allPIDs() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil || !strings.Contains(string(b), string(p.UID)) {
			continue
		}
		if cmd := cmdline(pid); len(cmd) > 0 && strings.HasSuffix(cmd[0], "/app") {
			out = append(out, pid)
		}
	}
	if len(out) == 0 {
		t.Fatalf("no process of pod %s", p.Name)
	}
	return out
}

func allPIDs() []int {
	entries, _ := os.ReadDir("/proc")
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

func cmdline(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	return strings.Split(string(bytes.TrimRight(b, "\x00")), "\x00")
}

// processes whose program has a name and that have an argument.
func processes(name string, argument string) []int {
	var out []int
	for _, pid := range allPIDs() {
		cmd := cmdline(pid)
		if len(cmd) > 0 && filepath.Base(cmd[0]) == name && strings.Contains(strings.Join(cmd[1:], "\x00"), argument) {
			out = append(out, pid)
		}
	}
	return out
}

func processWith(t testing.TB, name string, arguments ...string) int {
	t.Helper()
	pids := processes(name, strings.Join(arguments, "\x00"))
	if len(pids) != 1 {
		t.Fatalf("%d processes %s %v", len(pids), name, arguments)
	}
	return pids[0]
}

func parent(t testing.TB, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	rest := string(b[bytes.LastIndexByte(b, ')')+2:])
	ppid, err := strconv.Atoi(strings.Fields(rest)[1])
	if err != nil || ppid < 2 {
		t.Fatalf("parent of %d: %d %v", pid, ppid, err)
	}
	return ppid
}

func kill(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
