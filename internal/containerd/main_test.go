package containerd

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

// These tests run real containers: they need root. TestMain starts the test program once more in network and mount namespaces of its own,
// where pods get a bridge and nothing that a failed test leaves can last.

const (
	probeImage     = "test.local/probe:1"
	insideVariable = "GITOPSD_TEST_NETNS"
	// cgroup2Variable makes a v1 machine look like a v2 one, as far as it goes: v1 keeps the controllers, so there are no limits.
	cgroup2Variable = "GITOPSD_TEST_CGROUP2"
)

var (
	programs bundle.Programs
	probe    string // the test's own static program
)

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("skipping: real containers need root")
		os.Exit(0)
	}
	if os.Getenv(insideVariable) == "" {
		os.Exit(inside())
	}
	if err := setUp(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	if err := os.RemoveAll(programs.Dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}

// inside runs this program in new namespaces.
func inside() int {
	if err := build(); err != nil {
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

func projectRoot() string {
	root, _ := filepath.Abs("../..")
	return root
}

// setUp makes the namespaces what a node is: mounts stay inside, and there is a bridge for pods.
func setUp() error {
	probe = filepath.Join(projectRoot(), "build/test/probe")
	// Links, so that a build at the same time does not change the programs under the tests.
	dir, err := os.MkdirTemp(filepath.Dir(probe), "programs-")
	if err != nil {
		return err
	}
	programs = bundle.Programs{Dir: dir}
	for _, name := range []string{bundle.Containerd, bundle.Shim, bundle.Runtime, bundle.Bridge, bundle.Pause} {
		if err := os.Link(filepath.Join(projectRoot(), "build/bundle", name), programs.Path(name)); err != nil {
			return err
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if os.Getenv(cgroup2Variable) != "" {
		if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
			return fmt.Errorf("mount cgroup2: %w", err)
		}
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"}, {"link", "add", "name", "gdtest0", "address", "0a:58:0a:4d:00:01", "type", "bridge"},
		{"addr", "add", "10.77.0.1/24", "dev", "gdtest0"}, {"link", "set", "gdtest0", "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w\n%s", args, err, out)
		}
	}
	return nil
}

func build() error {
	script := exec.Command(filepath.Join(projectRoot(), "hack/build-bundle.sh"), "runtime")
	if out, err := script.CombinedOutput(); err != nil {
		return fmt.Errorf("build programs: %w\n%s", err, out)
	}
	compile := exec.Command("go", "build", "-o", filepath.Join(projectRoot(), "build/test/probe"), "./testdata/probe")
	compile.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := compile.CombinedOutput(); err != nil {
		return fmt.Errorf("build probe: %w\n%s", err, out)
	}
	return nil
}

// instance returns a Config of directories of its own, which are removed when the test ends, with all that uses them.
func instance(t testing.TB) Config {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "gd-") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	c := Config{
		Programs: programs, RootDir: dir + "/root", StateDir: dir + "/state", LogLevel: "info",
		CgroupParent: "/" + filepath.Base(dir),
		Logger:       slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	check(t, os.MkdirAll(dir+"/root/cni", 0o755))
	check(t, os.WriteFile(dir+"/root/cni/10-test.conflist", []byte(fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "gitopsd", "plugins": [
		{"type": "gitopsd-bridge", "bridge": "gdtest0", "subnet": "10.77.0.0/24", "gateway": "10.77.0.1", "mtu": 1400, "dataDir": %q,
		 "capabilities": {"portMappings": true}}]}`, dir+"/cni")), 0o644))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			data, _ := os.ReadFile(c.withDefaults().LogFile)
			t.Logf("containerd's log:\n%s", tail(string(data), 60))
		}
		if err := Remove(ctx, c); err != nil {
			t.Errorf("remove: %v", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return c
}

func tail(s string, lines int) string {
	all := strings.Split(s, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// probeArchive is a docker archive of the probe's image.
func probeArchive(t testing.TB) io.Reader {
	t.Helper()
	tag, err := name.NewTag(probeImage)
	check(t, err)
	var out bytes.Buffer
	check(t, tarball.Write(tag, probeImageOf(t), &out))
	return &out
}

// ociArchive is an OCI archive of the same image, gzip-compressed, under the name test.local/oci:2.
func ociArchive(t *testing.T) io.Reader {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	check(t, err)
	check(t, path.AppendImage(probeImageOf(t), layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "test.local/oci:2"})))
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	check(t, w.AddFS(os.DirFS(dir)))
	check(t, w.Close())
	check(t, z.Close())
	return &out
}

func probeImageOf(t testing.TB) v1.Image {
	t.Helper()
	data, err := os.ReadFile(probe)
	check(t, err)
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	check(t, w.WriteHeader(&tar.Header{Name: "probe", Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg}))
	_, err = w.Write(data)
	check(t, err)
	check(t, w.Close())
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	check(t, err)
	img, err := mutate.AppendLayers(empty.Image, l)
	check(t, err)
	config, err := img.ConfigFile()
	check(t, err)
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint = []string{"/probe"}
	img, err = mutate.ConfigFile(img, config)
	check(t, err)
	return img
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls a condition until it returns "" or time runs out; what it returns says what is still missing.
func eventually(t testing.TB, missing func() string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
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

// client speaks CRI to an instance.
type client struct {
	t   testing.TB
	ctx context.Context
	cri.RuntimeServiceClient
	cri.ImageServiceClient
	config Config
}

func connect(t testing.TB, c Config) *client {
	t.Helper()
	conn, err := c.dial()
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	return &client{t: t, ctx: testContext(t), RuntimeServiceClient: cri.NewRuntimeServiceClient(conn), ImageServiceClient: cri.NewImageServiceClient(conn), config: c}
}

// sandbox runs a pod sandbox with a network namespace of its own.
func (c *client) sandbox(name string) (string, *cri.PodSandboxConfig) {
	c.t.Helper()
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name + "-uid"},
		LogDirectory: filepath.Join(c.config.RootDir, "logs", name),
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: filepath.Join(c.config.CgroupParent, "pod"+name),
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
			},
		},
	}
	check(c.t, os.MkdirAll(config.LogDirectory, 0o755))
	res, err := c.RunPodSandbox(c.ctx, &cri.RunPodSandboxRequest{Config: config})
	check(c.t, err)
	return res.PodSandboxId, config
}

// container starts a container of the probe's image in a sandbox; its log is <name>.log.
func (c *client) container(sandbox string, config *cri.PodSandboxConfig, name string, args ...string) string {
	c.t.Helper()
	res, err := c.CreateContainer(c.ctx, &cri.CreateContainerRequest{
		PodSandboxId: sandbox, SandboxConfig: config,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: probeImage}, Args: args, LogPath: name + ".log",
			Linux: &cri.LinuxContainerConfig{Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}},
		},
	})
	check(c.t, err)
	_, err = c.StartContainer(c.ctx, &cri.StartContainerRequest{ContainerId: res.ContainerId})
	check(c.t, err)
	return res.ContainerId
}

func (c *client) status(id string) *cri.ContainerStatus {
	c.t.Helper()
	res, err := c.ContainerStatus(c.ctx, &cri.ContainerStatusRequest{ContainerId: id})
	check(c.t, err)
	return res.Status
}

func (c *client) exec(id string, args ...string) string {
	c.t.Helper()
	res, err := c.ExecSync(c.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: append([]string{"/probe"}, args...), Timeout: 10})
	check(c.t, err)
	return string(res.Stdout)
}
