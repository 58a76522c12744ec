package nodeagent

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/containerd"
)

const guestImage = "test.local/guest:1"

// realHouse is an agent on a real containerd; its pods are on the host's network, so that they need none of their own.
// It needs root and the programs of `make build`, and is skipped without them.
func realHouse(t *testing.T, objects ...*v1.ConfigMap) (*house, containerd.Config) {
	t.Helper()
	programs := os.Getenv("GITOPSD_BUNDLE_DIR")
	if programs == "" {
		programs, _ = filepath.Abs("../../build/bundle")
	}
	if _, err := os.Stat(filepath.Join(programs, "gitopsd-containerd")); err != nil || os.Getuid() != 0 {
		t.Skip("real containers need root and the programs that make build leaves in build/bundle")
	}
	dir, err := os.MkdirTemp("/tmp", "na-") // sockets need short names
	if err != nil {
		t.Fatal(err)
	}
	cgroup := "/" + filepath.Base(dir)
	c := containerd.Config{Programs: bundle.Programs{Dir: programs}, RootDir: dir + "/root", StateDir: dir + "/state", CgroupParent: cgroup}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := containerd.Remove(ctx, c); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	p, err := containerd.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.LoadImages(t.Context(), guestArchive(t)); err != nil {
		t.Fatal(err)
	}
	supervise, end := context.WithCancel(context.Background())
	supervised := make(chan error, 1)
	go func() { supervised <- p.Run(supervise) }()
	t.Cleanup(func() { end(); <-supervised })
	h := &house{t: t, client: fake.NewClientset(), dir: dir}
	for _, o := range objects {
		if err := h.client.Tracker().Add(o); err != nil {
			t.Fatal(err)
		}
	}
	h.fakeAPI()
	h.start(Config{
		Client: h.client, NodeName: "n1", NodeIPs: []string{"127.0.0.1"}, RuntimeEndpoint: c.Endpoint(), DataDir: dir + "/data", Port: -1, CgroupParent: cgroup,
	})
	t.Cleanup(func() { h.stop() })
	return h, c
}

// guestArchive is a docker archive of an image that holds the guest and nothing else.
func guestArchive(t *testing.T) io.Reader {
	t.Helper()
	program := filepath.Join(t.TempDir(), "guest")
	build := exec.Command("go", "build", "-o", program, "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build guest: %v\n%s", err, out)
	}
	binary, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	if err := w.WriteHeader(&tar.Header{Name: "guest", Mode: 0o755, Size: int64(len(binary))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(binary); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(guestImage)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := tarball.Write(tag, img, &out); err != nil {
		t.Fatal(err)
	}
	return &out
}

func guestPod(name string, args ...string) *v1.Pod {
	grace := int64(5)
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PodSpec{
		HostNetwork: true, RestartPolicy: v1.RestartPolicyNever, TerminationGracePeriodSeconds: &grace,
		Containers: []v1.Container{{Name: "c", Image: guestImage, ImagePullPolicy: v1.PullNever, Command: append([]string{"/guest"}, args...),
			TerminationMessagePath: "/dev/termination-log"}},
	}}
}

func TestRealContainers(t *testing.T) {
	conf := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "conf"}, Data: map[string]string{"file": "from a config map"}}
	h, instance := realHouse(t, conf)
	pod := guestPod("web", "serve", "/conf/file")
	pod.Spec.RestartPolicy = v1.RestartPolicyAlways
	c := &pod.Spec.Containers[0]
	c.Env = []v1.EnvVar{{Name: "GREETING", Value: "hello"}}
	c.VolumeMounts = []v1.VolumeMount{{Name: "conf", MountPath: "/conf"}, {Name: "mem", MountPath: "/mem"}}
	c.ReadinessProbe = &v1.Probe{PeriodSeconds: 1, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"/guest", "cat", "/conf/file"}}}}
	c.Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}
	pod.Spec.Volumes = []v1.Volume{
		{Name: "conf", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}}}},
		{Name: "mem", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}},
	}
	h.create(pod)
	h.eventually("web is ready", func() bool { return ready(h.pod("web")) })
	log := h.dir + "/data/pod-logs/shop_web_uid-web/c/"
	h.eventually("web logs", func() bool {
		b, _ := os.ReadFile(log + "0.log")
		return strings.Contains(string(b), "stdout F greeting: hello") && strings.Contains(string(b), "file: from a config map <nil>")
	})

	killed := time.Now()
	h.killProcess("serve")
	h.eventually("web is started again", func() bool {
		s := h.pod("web").Status.ContainerStatuses[0]
		return s.RestartCount == 1 && s.State.Running != nil && s.LastTerminationState.Terminated.ExitCode == 137
	})
	t.Logf("a killed container was restarted after %s", time.Since(killed).Round(time.Millisecond))
	h.eventually("web is ready again", func() bool { return ready(h.pod("web")) })

	before := h.pod("web").Status.ContainerStatuses[0].ContainerID
	h.killContainerd(instance)
	h.create(guestPod("words", "last-words"))
	h.create(func() *v1.Pod {
		p := guestPod("glutton", "eat")
		p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("20Mi")}
		return p
	}())
	h.phase("words", v1.PodFailed)
	h.phase("glutton", v1.PodFailed)
	if s := h.pod("words").Status.ContainerStatuses[0].State.Terminated; s.ExitCode != 4 || s.Message != "it was nice" {
		t.Errorf("last words: %+v", s)
	}
	if s := h.pod("glutton").Status.ContainerStatuses[0].State.Terminated; s.Reason != "OOMKilled" {
		t.Errorf("glutton: %+v", s)
	}
	if s := h.pod("web").Status.ContainerStatuses[0]; s.ContainerID != before || !s.Ready {
		t.Errorf("web after a restart of containerd: %+v", s)
	}
	for _, name := range []string{"web", "words", "glutton"} {
		h.markDeleted(name, 5)
	}
	for _, name := range []string{"web", "words", "glutton"} {
		h.eventually(name+" is gone", func() bool { return h.pod(name).Name == "" })
	}
	h.eventually("nothing is left", func() bool {
		dirs, _ := os.ReadDir(h.dir + "/data/pods")
		mounts, _ := mountinfo.GetMounts(mountinfo.PrefixFilter(h.dir + "/data"))
		return len(dirs)+len(mounts) == 0
	})
}

// killProcess kills the guest that runs with that argument, in a container of this test.
func (h *house) killProcess(arg string) {
	h.t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range entries {
		dir := filepath.Dir(e)
		line, _ := os.ReadFile(e)
		groups, _ := os.ReadFile(dir + "/cgroup")
		if !strings.HasPrefix(string(line), "/guest\x00"+arg) || !strings.Contains(string(groups), filepath.Base(h.dir)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			h.t.Fatal(err)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			h.t.Fatal(err)
		}
		return
	}
	h.t.Fatalf("no process %s", arg)
}

// killContainerd kills the runtime of this test, which its supervisor starts again.
func (h *house) killContainerd(c containerd.Config) {
	h.t.Helper()
	p, err := containerd.Start(h.t.Context(), c) // adopts the one that runs
	if err != nil {
		h.t.Fatal(err)
	}
	if err := unix.Kill(p.Pid(), unix.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
}
