package containerd

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// A reboot ends all processes and empties the state directory; what is on the disk stays. Containers are seen as ended, their pods can be
// taken away, and addresses are given back.
func TestReboot(t *testing.T) {
	p, k := start(t)
	sandbox, config := k.sandbox("a")
	id := k.container(sandbox, config, "main")
	check(t, p.kill(testContext(t)))
	check(t, p.killPods(testContext(t)))
	check(t, unmountBelow(p.StateDir))
	check(t, os.RemoveAll(p.StateDir))

	again, err := Start(testContext(t), p.Config)
	check(t, err)
	k = connect(t, again.Config)
	if s := k.status(id); s.State != cri.ContainerState_CONTAINER_EXITED {
		t.Errorf("the container is %s", s.State)
	}
	status, err := k.PodSandboxStatus(k.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: sandbox})
	check(t, err)
	if status.Status.State != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("the pod is %s", status.Status.State)
	}
	_, err = k.StopPodSandbox(k.ctx, &cri.StopPodSandboxRequest{PodSandboxId: sandbox})
	check(t, err)
	_, err = k.RemovePodSandbox(k.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: sandbox})
	check(t, err)
	addresses, err := filepath.Glob(filepath.Join(filepath.Dir(p.RootDir), "cni/ipam/gitopsd/10.77.0.*"))
	check(t, err)
	if len(addresses) != 0 {
		t.Errorf("addresses still in use: %q", addresses)
	}
	sandbox, config = k.sandbox("a") // the image is still there
	id = k.container(sandbox, config, "main")
	if out := k.exec(id, "echo", "after"); out != "after\n" {
		t.Errorf("exec wrote %q", out)
	}
}

// The death of a shim is the death of its pod, and no more.
func TestShimDies(t *testing.T) {
	_, k := start(t)
	sandbox, config := k.sandbox("a")
	id := k.container(sandbox, config, "main")
	other, otherConfig := k.sandbox("b")
	otherID := k.container(other, otherConfig, "main")
	shims, err := k.config.shims()
	check(t, err)
	defer closeAll(shims)
	for _, s := range shims {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.pid))
		check(t, err)
		if strings.Contains(string(cmdline), sandbox) {
			check(t, s.signal(unix.SIGKILL))
		}
	}
	eventually(t, func() string {
		if s := k.status(id); s.State != cri.ContainerState_CONTAINER_EXITED {
			return "the container is " + s.State.String()
		}
		return ""
	})
	if out := k.exec(otherID, "echo", "other"); out != "other\n" {
		t.Errorf("the other pod's exec wrote %q", out)
	}
	eventually(t, func() string { // while containerd cleans up after the shim, it may say no once
		_, err := k.StopPodSandbox(k.ctx, &cri.StopPodSandboxRequest{PodSandboxId: sandbox})
		if err == nil {
			_, err = k.RemovePodSandbox(k.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: sandbox})
		}
		if err != nil {
			return err.Error()
		}
		return ""
	})
}

// A containerd that hangs is replaced.
func TestContainerdHangs(t *testing.T) {
	c := instance(t)
	c.checkPeriod = 50 * time.Millisecond
	p, err := Start(testContext(t), c)
	check(t, err)
	defer supervise(t, p)()
	first := p.Pid()
	check(t, unix.Kill(first, unix.SIGSTOP))
	eventually(t, func() string {
		if p.Pid() == first {
			return "the old containerd"
		}
		return ""
	})
	check(t, p.answers(testContext(t)))
}

// A containerd that cannot start is tried again and again, ever more slowly, until it can.
func TestContainerdCannotStartForAWhile(t *testing.T) {
	c := instance(t)
	c.Programs = copyPrograms(t)
	p, err := Start(testContext(t), c)
	check(t, err)
	end := supervise(t, p)
	defer end()
	program := c.Programs.Path(bundle.Containerd)
	check(t, os.Rename(program, program+".away"))
	first := p.Pid()
	check(t, unix.Kill(first, unix.SIGKILL))
	eventually(t, func() string {
		if matches(first, func([]string) bool { return true }) {
			return "the killed containerd"
		}
		return ""
	})
	check(t, os.Rename(program+".away", program))
	eventually(t, func() string {
		if p.Pid() == first {
			return "no new containerd"
		}
		return ""
	})
	check(t, p.answers(testContext(t)))
}

// Registries: one on loopback speaks plain HTTP without being told, another one by a hosts.toml.
func TestPull(t *testing.T) {
	_, k := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(testWriter{t}, "", 0)))}
	go server.Serve(l)
	defer server.Close()
	local := l.Addr().String() + "/probe:1"
	ref, err := name.NewTag(local)
	check(t, err)
	check(t, remote.Write(ref, probeImageOf(t)))

	dir := filepath.Join(k.config.withDefaults().RegistryDir, "registry.test")
	check(t, os.MkdirAll(dir, 0o755))
	hosts := fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", "http://"+l.Addr().String())
	check(t, os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o644))
	for _, image := range []string{local, "registry.test/probe:1"} {
		res, err := k.PullImage(k.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}})
		if err != nil {
			t.Errorf("pull %s: %v", image, err)
			continue
		}
		status, err := k.ImageStatus(k.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: image}})
		check(t, err)
		if status.Image == nil || status.Image.Id != res.ImageRef {
			t.Errorf("pulled %s as %s, but the image is %v", image, res.ImageRef, status.Image)
		}
	}
	if _, err := k.PullImage(k.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: l.Addr().String() + "/none:1"}}); err == nil {
		t.Error("pulled an image that is not there")
	}
}

func TestLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	check(t, err)
	defer f.Close()
	line := []byte(strings.Repeat("x", 1023) + "\n")
	for range logLimit/len(line) + 1 {
		_, err := f.Write(line)
		check(t, err)
	}
	check(t, truncate(path))
	_, err = f.WriteString("the last words\n")
	check(t, err)
	info, err := os.Stat(path)
	check(t, err)
	if info.Size() != int64(len("the last words\n")) {
		t.Errorf("the log has %d bytes", info.Size())
	}
	if got := lastLine(path); got != "the last words" {
		t.Errorf("last line %q", got)
	}
	old, err := os.Stat(path + ".1")
	check(t, err)
	if old.Size() != logLimit {
		t.Errorf("its predecessor has %d bytes", old.Size())
	}
}
