package containerd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// start starts containerd with the probe's image and returns a client.
func start(t testing.TB) (*Process, *client) {
	t.Helper()
	p, err := Start(testContext(t), instance(t))
	check(t, err)
	refs, err := p.LoadImages(testContext(t), probeArchive(t))
	check(t, err)
	if !slices.Equal(refs, []string{probeImage}) {
		t.Fatalf("loaded %q", refs)
	}
	return p, connect(t, p.Config)
}

// supervise runs p.Run until the returned function is called.
func supervise(t *testing.T, p *Process) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	return func() {
		cancel()
		check(t, <-done)
	}
}

func TestPod(t *testing.T) {
	p, k := start(t)
	if p.Adopted() {
		t.Error("adopted in a new directory")
	}
	sandbox, config := k.sandbox("a")
	id := k.container(sandbox, config, "main")
	if s := k.status(id); s.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("state %s", s.State)
	}
	pod, err := k.PodSandboxStatus(k.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: sandbox})
	check(t, err)
	if ip := pod.Status.Network.Ip; !strings.HasPrefix(ip, "10.77.0.") {
		t.Errorf("the pod has the address %q", ip)
	}
	if out := k.exec(id, "echo", "hello", "there"); out != "hello there\n" {
		t.Errorf("exec wrote %q", out)
	}
	ended, err := k.ExecSync(k.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/probe", "exit"}, Timeout: 10})
	check(t, err)
	if ended.ExitCode != 7 || string(ended.Stderr) != "leaving\n" {
		t.Errorf("exec ended with %d and wrote %q", ended.ExitCode, ended.Stderr)
	}
	k.awaitLog(config, "stdout F probe: started")
	_, err = k.StopContainer(k.ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 10})
	check(t, err)
	k.awaitLog(config, "stdout F probe: asked to end")
	if s := k.status(id); s.State != cri.ContainerState_CONTAINER_EXITED || s.ExitCode != 0 {
		t.Errorf("state %s, exit code %d", s.State, s.ExitCode)
	}
}

func (c *client) awaitLog(config *cri.PodSandboxConfig, want string) {
	c.t.Helper()
	eventually(c.t, func() string {
		data, _ := os.ReadFile(filepath.Join(config.LogDirectory, "main.log"))
		if strings.Contains(string(data), want) {
			return ""
		}
		return fmt.Sprintf("no %q in %q", want, data)
	})
}

// cgroupValue reads a limit of a container as v1 or v2 names it.
func (c *client) cgroupValue(id, v1, v2 string) string {
	c.t.Helper()
	trees, err := c.config.cgroupTrees()
	check(c.t, err)
	for _, tree := range trees {
		for _, name := range []string{v1, v2} {
			files, _ := filepath.Glob(filepath.Join(tree, "*", id, name))
			for _, file := range files {
				data, err := os.ReadFile(file)
				check(c.t, err)
				return strings.TrimSpace(string(data))
			}
		}
	}
	c.t.Fatalf("no %s or %s of container %s below %q", v1, v2, id, trees)
	return ""
}

func TestLimitsCanBeUpdated(t *testing.T) {
	_, k := start(t)
	sandbox, config := k.sandbox("a")
	id := k.container(sandbox, config, "main")
	if got := k.cgroupValue(id, "memory.limit_in_bytes", "memory.max"); got != strconv.Itoa(64<<20) {
		t.Errorf("memory limit %s", got)
	}
	_, err := k.UpdateContainerResources(k.ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: &cri.LinuxContainerResources{
		MemoryLimitInBytes: 96 << 20, CpuQuota: 50000, CpuPeriod: 100000, CpuShares: 512,
	}})
	check(t, err)
	if got := k.cgroupValue(id, "memory.limit_in_bytes", "memory.max"); got != strconv.Itoa(96<<20) {
		t.Errorf("memory limit %s after the update", got)
	}
	if got := k.cgroupValue(id, "cpu.cfs_quota_us", "cpu.max"); got != "50000" && got != "50000 100000" {
		t.Errorf("cpu quota %s after the update", got)
	}
	if out := k.exec(id, "echo", "still here"); out != "still here\n" {
		t.Errorf("exec wrote %q", out)
	}
}

func TestPodsOutliveContainerd(t *testing.T) {
	p, k := start(t)
	end := supervise(t, p)
	defer end()
	sandbox, config := k.sandbox("a")
	id := k.container(sandbox, config, "main")
	before := k.pid(id)
	first := p.Pid()
	check(t, unix.Kill(first, unix.SIGKILL))
	eventually(t, func() string {
		found, err := p.find()
		if err != nil || found == nil || found.pid == first {
			return fmt.Sprint("no new containerd: ", err)
		}
		found.close()
		return ""
	})
	check(t, p.answers(testContext(t)))
	if s := k.status(id); s.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("state %s after the restart of containerd", s.State)
	}
	if after := k.pid(id); after != before {
		t.Errorf("the container's process was %d and is %d", before, after)
	}
	if out := k.exec(id, "echo", "again"); out != "again\n" {
		t.Errorf("exec wrote %q", out)
	}
	// What ends while nobody looks is noticed.
	second := k.container(sandbox, config, "second")
	check(t, unix.Kill(k.pid(second), unix.SIGKILL))
	eventually(t, func() string {
		if s := k.status(second); s.State != cri.ContainerState_CONTAINER_EXITED || s.ExitCode != 137 {
			return fmt.Sprintf("state %s, exit code %d", s.State, s.ExitCode)
		}
		return ""
	})
}

// pid is the container's first process, as the OCI runtime knows it.
func (c *client) pid(id string) int {
	c.t.Helper()
	var state report
	c.runc(&state, "state", id)
	return state.Pid
}

func TestAdoption(t *testing.T) {
	p, k := start(t)
	sandbox, config := k.sandbox("a")
	id := k.container(sandbox, config, "main")
	again, err := Start(testContext(t), p.Config)
	check(t, err)
	if !again.Adopted() || again.Pid() != p.Pid() {
		t.Errorf("adopted %v, process %d, not %d", again.Adopted(), again.Pid(), p.Pid())
	}
	if out := k.exec(id, "echo", "adopted"); out != "adopted\n" {
		t.Errorf("exec wrote %q", out)
	}
}

// A newer gitopsd brings other programs: containerd is restarted from them, pods go on, and the old programs can be deleted.
func TestNewerPrograms(t *testing.T) {
	c := instance(t)
	old, next := copyPrograms(t), copyPrograms(t)
	c.Programs = old
	p, err := Start(testContext(t), c)
	check(t, err)
	_, err = p.LoadImages(testContext(t), probeArchive(t))
	check(t, err)
	k := connect(t, c)
	sandbox, config := k.sandbox("a")
	id := k.container(sandbox, config, "main")
	before := k.pid(id)

	c.Programs = next
	newer, err := Start(testContext(t), c)
	check(t, err)
	if newer.Adopted() || newer.Pid() == p.Pid() {
		t.Error("the old containerd goes on")
	}
	check(t, os.RemoveAll(old.Dir))
	if s := k.status(id); s.State != cri.ContainerState_CONTAINER_RUNNING || k.pid(id) != before {
		t.Errorf("state %s, process %d, before it was %d", s.State, k.pid(id), before)
	}
	if out := k.exec(id, "echo", "newer"); out != "newer\n" {
		t.Errorf("exec wrote %q", out)
	}
	second := k.container(sandbox, config, "second")
	if out := k.exec(second, "echo", "second"); out != "second\n" {
		t.Errorf("exec wrote %q", out)
	}
	_, err = k.StopPodSandbox(k.ctx, &cri.StopPodSandboxRequest{PodSandboxId: sandbox})
	check(t, err)
	_, err = k.RemovePodSandbox(k.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: sandbox})
	check(t, err)
}

// copyPrograms makes another folder with the programs, as another version of gitopsd would bring them.
func copyPrograms(t *testing.T) bundle.Programs {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{bundle.Containerd, bundle.Shim, bundle.Runtime, bundle.Bridge, bundle.Pause} {
		data, err := os.ReadFile(programs.Path(name))
		check(t, err)
		check(t, os.WriteFile(filepath.Join(dir, name), data, 0o755))
	}
	return bundle.Programs{Dir: dir}
}

func TestStopEndsPodsInGoodOrder(t *testing.T) {
	p, k := start(t)
	sandbox, config := k.sandbox("a")
	k.container(sandbox, config, "main")
	k.awaitLog(config, "probe: started")
	check(t, Stop(testContext(t), p.Config, 10*time.Second))
	k.awaitLog(config, "probe: asked to end")
	if left := traces(t, p.Config, true); left != "" {
		t.Errorf("left after Stop:\n%s", left)
	}
	check(t, Stop(testContext(t), p.Config, time.Second)) // nothing runs: no error
	again, err := Start(testContext(t), p.Config)
	check(t, err)
	if again.Adopted() {
		t.Error("adopted what was stopped")
	}
}

// Without containerd nobody knows the pods: Stop starts it once more to end them.
func TestStopAfterContainerdDied(t *testing.T) {
	p, k := start(t)
	sandbox, config := k.sandbox("a")
	k.container(sandbox, config, "main")
	k.awaitLog(config, "probe: started")
	check(t, p.kill(testContext(t)))
	check(t, Stop(testContext(t), p.Config, 10*time.Second))
	k.awaitLog(config, "probe: asked to end")
	if left := traces(t, p.Config, true); left != "" {
		t.Errorf("left after Stop:\n%s", left)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	for _, broken := range []bool{false, true} {
		t.Run(fmt.Sprintf("broken=%v", broken), func(t *testing.T) {
			p, k := start(t)
			sandbox, config := k.sandbox("a")
			k.container(sandbox, config, "main")
			frozen := k.container(sandbox, config, "frozen")
			k.runc(nil, "pause", frozen)
			if broken { // containerd cannot start any more, and programs are gone
				check(t, p.kill(testContext(t)))
				check(t, os.WriteFile(p.configFile(), []byte("version = !"), 0o600))
				p.Config.Programs = bundle.Programs{Dir: "/nonexistent"}
			}
			if traces(t, p.Config, false) == "" {
				t.Error("the test does not see what runs")
			}
			check(t, Remove(testContext(t), p.Config))
			if left := traces(t, p.Config, false); left != "" {
				t.Errorf("left after Remove:\n%s", left)
			}
			check(t, Remove(testContext(t), p.Config))
		})
	}
}

// traces lists processes, mounts, cgroups and, unless stopped, directories of an instance.
func traces(t *testing.T, c Config, stopped bool) string {
	t.Helper()
	var left []string
	dir := filepath.Dir(c.RootDir)
	ps, err := processes(func(args []string) bool { return strings.Contains(strings.Join(args, " "), dir) })
	check(t, err)
	for _, p := range ps {
		left = append(left, fmt.Sprintf("process %d %s", p.pid, p.exe))
	}
	closeAll(ps)
	probes, err := processes(func(args []string) bool { return args[0] == "/probe" || args[0] == "/pause" })
	check(t, err)
	for _, p := range probes {
		cgroup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.pid))
		if strings.Contains(string(cgroup), c.CgroupParent+"/") {
			left = append(left, fmt.Sprintf("process %d %s", p.pid, p.exe))
		}
	}
	closeAll(probes)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	check(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir+"/") {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	trees, err := c.cgroupTrees()
	check(t, err)
	for _, tree := range trees {
		if pids, _ := groupPids(tree); !stopped || len(pids) > 0 {
			left = append(left, "cgroup "+tree)
		}
	}
	for _, d := range []string{c.RootDir, c.StateDir} {
		if _, err := os.Lstat(d); err == nil && !stopped {
			left = append(left, "directory "+d)
		}
	}
	return strings.Join(left, "\n")
}

func TestConfigurationThatCannotWork(t *testing.T) {
	c := Config{Programs: programs, RootDir: "/tmp/gd-x/root", StateDir: "/tmp/gd-" + strings.Repeat("x", 60)}
	if _, err := Start(testContext(t), c); err == nil || !strings.Contains(err.Error(), "shorter run directory") {
		t.Errorf("error %v", err)
	}
	c.StateDir = "/"
	if err := Remove(testContext(t), c); err == nil {
		t.Error("Remove accepts / as a state directory")
	}
	c.StateDir, c.Programs = "/tmp/gd-x/state", bundle.Programs{Dir: "/nonexistent"}
	if _, err := Start(testContext(t), c); err == nil || !strings.Contains(err.Error(), "find program gitopsd-containerd") {
		t.Errorf("error %v", err)
	}
}

// A containerd that ends at once is an error with its last words, not a wait.
func TestStartSaysWhyContainerdEnded(t *testing.T) {
	c := instance(t)
	c.Programs = copyPrograms(t)
	check(t, os.Remove(c.Programs.Path(bundle.Containerd)))
	script := "#!/bin/sh\necho no space for it\nexit 1\n"
	check(t, os.WriteFile(c.Programs.Path(bundle.Containerd), []byte(script), 0o755))
	_, err := Start(testContext(t), c)
	if err == nil || !strings.Contains(err.Error(), "no space for it") {
		t.Errorf("error %v", err)
	}
}

func TestArchives(t *testing.T) {
	p, k := start(t)
	refs, err := p.LoadImages(testContext(t), strings.NewReader("not an archive"))
	if err == nil {
		t.Errorf("loaded %q from nonsense", refs)
	}
	refs, err = p.LoadImages(testContext(t), ociArchive(t))
	check(t, err)
	if !slices.Equal(refs, []string{"test.local/oci:2"}) {
		t.Errorf("loaded %q", refs)
	}
	res, err := k.ImageStatus(k.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: "test.local/oci:2"}})
	check(t, err)
	if res.Image == nil {
		t.Error("CRI does not know the image")
	}
	pause, err := p.PauseImage()
	check(t, err)
	res, err = k.ImageStatus(k.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: pause}})
	check(t, err)
	if res.Image == nil || !res.Image.Pinned {
		t.Errorf("the pause image is not there or not pinned: %v", res.Image)
	}
}

func TestRuncIsOurs(t *testing.T) {
	out, err := exec.Command(programs.Path(bundle.Runtime), "--version").Output()
	check(t, err)
	if !strings.HasPrefix(string(out), "runc version 1.") || !strings.Contains(string(out), "commit: gitopsd-runc") {
		t.Errorf("version:\n%s", out)
	}
}
