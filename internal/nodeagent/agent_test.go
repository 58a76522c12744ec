package nodeagent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/gitopsd/gitopsd/internal/nodeagent/hollow"
)

// TestMain holds Run to its word that it waits for all that it started.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// house is an agent on a hollow runtime and a pretended API.
type house struct {
	t       *testing.T
	client  *fake.Clientset
	runtime *hollow.Runtime
	dir     string
	stop    func()
}

func newHouse(t *testing.T, objects ...runtime.Object) *house {
	t.Helper()
	return newHouseOn(t, hollow.New(), objects...)
}

func newHouseOn(t *testing.T, r *hollow.Runtime, objects ...runtime.Object) *house {
	t.Helper()
	h := &house{t: t, client: fake.NewClientset(objects...), runtime: r, dir: t.TempDir()}
	socket := filepath.Join(h.dir, "cri.sock")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.runtime.Serve(ctx, socket) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	h.fakeAPI()
	h.startAgent()
	t.Cleanup(func() { h.stop() })
	return h
}

// fakeAPI adds to the clientset what a real API does and it does not: tokens, and deletion by grace period.
func (h *house) fakeAPI() {
	h.client.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "token" {
			return false, nil, nil
		}
		o := a.(clienttesting.CreateAction).GetObject()
		return true, o, nil
	})
}

func (h *house) startAgent() {
	h.start(Config{
		Client: h.client, NodeName: "n1", NodeIPs: []string{"192.0.2.1"}, RuntimeEndpoint: filepath.Join(h.dir, "cri.sock"),
		DataDir: filepath.Join(h.dir, "data"), Port: -1, WithoutCgroups: true,
	})
}

func (h *house) start(cfg Config) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	h.stop = func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
		h.stop = func() {}
	}
}

// eventually waits for what other goroutines do; it looks often and gives up late.
func (h *house) eventually(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			if h.runtime == nil {
				h.t.Fatalf("never came: %s", what)
			}
			h.t.Fatalf("never came: %s\ncalls: %s", what, strings.Join(h.runtime.Calls(), "\n       "))
		case <-tick.C:
		}
	}
}

func (h *house) create(pod *v1.Pod) {
	h.t.Helper()
	if pod.UID == "" {
		pod.UID = types.UID("uid-" + pod.Name)
	}
	pod.Namespace, pod.Spec.NodeName = "shop", "n1"
	if _, err := h.client.CoreV1().Pods("shop").Create(h.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) pod(name string) *v1.Pod {
	pod, err := h.client.CoreV1().Pods("shop").Get(h.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return &v1.Pod{}
	}
	return pod
}

func (h *house) phase(name string, phase v1.PodPhase) {
	h.t.Helper()
	h.eventually(name+" is "+string(phase), func() bool { return h.pod(name).Status.Phase == phase })
}

// markDeleted does what a graceful DELETE does in the API.
func (h *house) markDeleted(name string, grace int64) {
	h.t.Helper()
	h.client.Lock() // against the agent's status patches
	defer h.client.Unlock()
	pods := v1.SchemeGroupVersion.WithResource("pods")
	o, err := h.client.Tracker().Get(pods, "shop", name)
	if err != nil {
		h.t.Fatal(err)
	}
	pod := o.DeepCopyObject().(*v1.Pod)
	now := metav1.Now()
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &now, &grace
	if err := h.client.Tracker().Update(pods, pod, "shop"); err != nil {
		h.t.Fatal(err)
	}
}

func container(name, image string) v1.Container {
	return v1.Container{Name: name, Image: image, ImagePullPolicy: v1.PullIfNotPresent}
}

func webPod(name string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PodSpec{Containers: []v1.Container{container("web", "nginx:1")}}}
}

func ready(pod *v1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

func TestNodeRegisters(t *testing.T) {
	h := newHouse(t)
	h.eventually("node is ready, with a lease", func() bool {
		n, err := h.client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil || n.Status.Allocatable.Cpu().IsZero() || n.Status.NodeInfo.ContainerRuntimeVersion != "hollow://1.0.0" {
			return false
		}
		for _, c := range n.Status.Conditions {
			if c.Type == v1.NodeReady && c.Status != v1.ConditionTrue {
				return false
			}
		}
		_, err = h.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(t.Context(), "n1", metav1.GetOptions{})
		return err == nil
	})
	h.runtime.SetNotReady("cni plugin not initialized")
	h.eventually("node says why it is not ready", func() bool {
		n, _ := h.client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		for _, c := range n.Status.Conditions {
			if c.Type == v1.NodeReady {
				return c.Status == v1.ConditionFalse && strings.Contains(c.Message, "cni plugin not initialized")
			}
		}
		return false
	})
}

func TestPodLivesAndDies(t *testing.T) {
	h := newHouse(t)
	h.create(webPod("web"))
	h.eventually("pod is ready with an address", func() bool {
		p := h.pod("web")
		return ready(p) && strings.HasPrefix(p.Status.PodIP, "10.42.") && p.Status.HostIP == "192.0.2.1" && p.Status.StartTime != nil
	})
	if !h.runtime.Exit("web", 3) {
		t.Fatal("no container to end")
	}
	h.eventually("container restarted once", func() bool {
		s := h.pod("web").Status.ContainerStatuses
		return len(s) == 1 && s[0].RestartCount == 1 && s[0].State.Running != nil && s[0].LastTerminationState.Terminated.ExitCode == 3
	})
	h.markDeleted("web", 5)
	h.eventually("pod is gone from the API and the runtime", func() bool { return h.pod("web").Name == "" && h.runtime.Empty() })
	h.eventually("nothing is left on disk", func() bool {
		pods, _ := os.ReadDir(filepath.Join(h.dir, "data", "pods"))
		logs, _ := os.ReadDir(filepath.Join(h.dir, "data", "pod-logs"))
		return len(pods)+len(logs) == 0
	})
}

func TestAgentRestartAdopts(t *testing.T) {
	h := newHouse(t)
	h.create(webPod("web"))
	h.eventually("pod is ready", func() bool { return ready(h.pod("web")) })
	h.runtime.Exit("web", 1)
	h.eventually("restarted once", func() bool {
		s := h.pod("web").Status.ContainerStatuses
		return s[0].RestartCount == 1 && s[0].State.Running != nil
	})
	before := h.pod("web")
	calls := len(h.runtime.Calls())
	h.stop()
	h.create(webPod("other"))
	h.startAgent()
	h.eventually("the agent is back", func() bool { return ready(h.pod("other")) })
	after := h.pod("web")
	if after.Status.ContainerStatuses[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID {
		t.Errorf("container was replaced: %v", h.runtime.Calls()[calls:])
	}
	for _, c := range h.runtime.Calls()[calls:] {
		if strings.Contains(c, "web attempt 2") || strings.HasPrefix(c, "stop") {
			t.Errorf("the restart of the agent did %q", c)
		}
	}
}

func TestPodDeletedWhileAgentWasDown(t *testing.T) {
	h := newHouse(t)
	h.create(webPod("web"))
	h.eventually("pod is ready", func() bool { return ready(h.pod("web")) })
	h.stop()
	if err := h.client.CoreV1().Pods("shop").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	h.startAgent()
	h.eventually("nothing is left", h.runtime.Empty)
}

func TestEnvironmentAndVolumes(t *testing.T) {
	cm := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "conf"}, Data: map[string]string{"greeting": "hello"}}
	svc := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"},
		Spec: v1.ServiceSpec{ClusterIP: "10.43.0.1", Ports: []v1.ServicePort{{Name: "https", Port: 443}}}}
	h := newHouse(t, cm, svc)
	pod := webPod("web")
	c := &pod.Spec.Containers[0]
	c.Command = []string{"serve", "$(GREETING)", "$$(GREETING)", "$(NOPE)"}
	c.Env = []v1.EnvVar{
		{Name: "GREETING", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}, Key: "greeting"}}},
		{Name: "TWICE", Value: "$(GREETING) $(GREETING) $(KUBERNETES_SERVICE_HOST)"},
		{Name: "IP", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "status.podIP"}}},
		{Name: "LATE", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "late"}, Key: "key"}}},
	}
	pod.Spec.Volumes = []v1.Volume{{Name: "conf", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}}}}}
	c.VolumeMounts = []v1.VolumeMount{{Name: "conf", MountPath: "/etc/conf"}}
	h.create(pod)
	h.eventually("the missing secret is named", func() bool {
		s := h.pod("web").Status.ContainerStatuses
		return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "CreateContainerConfigError" &&
			strings.Contains(s[0].State.Waiting.Message, `"late" not found`)
	})
	secret := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "late"}, Data: map[string][]byte{"key": []byte("s3")}}
	if _, err := h.client.CoreV1().Secrets("shop").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.phase("web", v1.PodRunning)
	config := h.runtime.Container("web")
	env := map[string]string{}
	for _, kv := range config.Envs {
		env[kv.Key] = string(kv.Value)
	}
	for k, want := range map[string]string{"TWICE": "hello hello 10.43.0.1", "IP": h.pod("web").Status.PodIP, "LATE": "s3", "KUBERNETES_SERVICE_PORT": "443"} {
		if env[k] != want {
			t.Errorf("%s is %q, want %q", k, env[k], want)
		}
	}
	if got := strings.Join(config.Command, " "); got != "serve hello $(GREETING) $(NOPE)" {
		t.Errorf("command is %q", got)
	}
	file := ""
	for _, m := range config.Mounts {
		if m.ContainerPath == "/etc/conf" {
			file = filepath.Join(m.HostPath, "greeting")
			if !m.Readonly {
				t.Error("config map is mounted writable")
			}
		}
	}
	changed := cm.DeepCopy()
	changed.Data["greeting"], changed.ResourceVersion = "changed", "2"
	if _, err := h.client.CoreV1().ConfigMaps("shop").Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.eventually("the file follows its config map", func() bool { b, _ := os.ReadFile(file); return string(b) == "changed" })
}

func TestImageThatCannotBePulled(t *testing.T) {
	r := hollow.New()
	r.OnPull = func(context.Context, string, *runtimeapi.AuthConfig) error {
		return errors.New("Get https://user:canary@registry.example/v2/: connection refused, Authorization: Bearer canarycanary")
	}
	h := newHouseOn(t, r)
	h.create(webPod("web"))
	h.eventually("the status says why, without the password", func() bool {
		s := h.pod("web").Status.ContainerStatuses
		return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "ErrImagePull" && strings.Contains(s[0].State.Waiting.Message, "registry.example")
	})
	h.eventually("the backoff has its name", func() bool {
		return h.pod("web").Status.ContainerStatuses[0].State.Waiting.Reason == "ImagePullBackOff"
	})
	events, err := h.client.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(events.Items) == 0 {
		t.Fatal("no events", err)
	}
	for _, e := range events.Items {
		if strings.Contains(e.Message, "canary") {
			t.Errorf("event tells a secret: %s", e.Message)
		}
	}
	if strings.Contains(h.pod("web").String(), "canary") {
		t.Error("status tells a secret")
	}
}

func TestJobCompletes(t *testing.T) {
	h := newHouse(t)
	pod := webPod("job")
	pod.Spec.RestartPolicy = v1.RestartPolicyNever
	h.create(pod)
	h.phase("job", v1.PodRunning)
	h.runtime.Exit("web", 0)
	h.phase("job", v1.PodSucceeded)
}

func TestHostPortConflictIsRefused(t *testing.T) {
	h := newHouse(t)
	for _, name := range []string{"first", "second"} {
		pod := webPod(name)
		pod.Spec.Containers[0].Ports = []v1.ContainerPort{{ContainerPort: 80, HostPort: 8080}}
		h.create(pod)
		h.eventually(name+" is decided about", func() bool { return h.pod(name).Status.Phase != "" && h.pod(name).Status.Phase != v1.PodPending })
	}
	if p := h.pod("second"); p.Status.Phase != v1.PodFailed || p.Status.Reason != "NodePorts" {
		t.Errorf("second is %s %s", p.Status.Phase, p.Status.Reason)
	}
}

func TestSandboxDeath(t *testing.T) {
	h := newHouse(t)
	h.create(webPod("web"))
	h.eventually("pod is ready", func() bool { return ready(h.pod("web")) })
	old := h.pod("web").Status.PodIP
	h.runtime.KillSandbox("web")
	h.eventually("a new sandbox with another address", func() bool {
		p := h.pod("web")
		return ready(p) && p.Status.PodIP != old && p.Status.ContainerStatuses[0].RestartCount == 1
	})
}

func TestStubbornContainerGetsItsGrace(t *testing.T) {
	r := hollow.New()
	r.OnStop = func(string) (int32, bool) { return 0, false }
	h := newHouseOn(t, r)
	h.create(webPod("web"))
	h.eventually("pod is ready", func() bool { return ready(h.pod("web")) })
	began := time.Now()
	h.markDeleted("web", 600)
	h.eventually("the kill has begun", func() bool { return strings.Contains(strings.Join(h.runtime.Calls(), " "), "stop web") })
	h.markDeleted("web", 0)
	h.eventually("gone after the shorter grace", func() bool { return h.pod("web").Name == "" && h.runtime.Empty() })
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestStatusSurvivesAnOutage(t *testing.T) {
	h := newHouse(t)
	var down atomic.Bool
	h.client.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		if down.Load() {
			return true, nil, errors.New("connection refused")
		}
		return false, nil, nil
	})
	h.create(webPod("web"))
	h.eventually("pod is ready", func() bool { return ready(h.pod("web")) })
	down.Store(true)
	h.runtime.Exit("web", 1)
	h.eventually("restarted during the outage", func() bool { return strings.Contains(strings.Join(h.runtime.Calls(), " "), "attempt 1") })
	down.Store(false)
	h.eventually("the API learns of it", func() bool { return h.pod("web").Status.ContainerStatuses[0].RestartCount == 1 && ready(h.pod("web")) })
}

func TestNetworkIsWaitedFor(t *testing.T) {
	r := hollow.New()
	r.SetNotReady("cni plugin not initialized")
	h := newHouseOn(t, r)
	h.eventually("node knows", func() bool {
		n, err := h.client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		return err == nil && len(n.Status.Conditions) > 0
	})
	h.create(webPod("web"))
	h.eventually("the status says what is waited for", func() bool {
		s := h.pod("web").Status.ContainerStatuses
		return len(s) == 1 && s[0].State.Waiting != nil && strings.Contains(s[0].State.Waiting.Message, "cni plugin not initialized")
	})
	if c := h.runtime.Calls(); len(c) > 0 {
		t.Errorf("tried anyway: %v", c)
	}
	r.SetNotReady("")
	h.eventually("pod is ready", func() bool { return ready(h.pod("web")) })
}

func TestHooksAndOrderOfTheEnd(t *testing.T) {
	r := hollow.New()
	var mu sync.Mutex
	var ran []string
	r.OnExec = func(container string, command []string) (string, int32) {
		mu.Lock()
		defer mu.Unlock()
		ran = append(ran, container+" "+strings.Join(command, " "))
		return "", 0
	}
	h := newHouseOn(t, r)
	pod := webPod("web")
	always := v1.ContainerRestartPolicyAlways
	side := container("side", "envoy:1")
	side.RestartPolicy = &always
	pod.Spec.InitContainers = []v1.Container{container("init", "init:1"), side}
	hook := func(word string) *v1.LifecycleHandler {
		return &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{word}}}
	}
	pod.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: hook("hello"), PreStop: hook("goodbye")}
	h.create(pod)
	h.eventually("init runs", func() bool { return h.runtime.Container("init") != nil })
	h.eventually("init ends", func() bool { return h.runtime.Exit("init", 0) })
	h.eventually("pod is ready", func() bool { return ready(h.pod("web")) })
	h.markDeleted("web", 5)
	h.eventually("gone", func() bool { return h.pod("web").Name == "" && h.runtime.Empty() })
	calls := strings.Join(h.runtime.Calls(), ", ")
	if !strings.Contains(calls, "start init attempt 0, pull envoy:1, start side attempt 0, pull nginx:1, start web attempt 0, stop web, stop side, stop sandbox web") {
		t.Error(calls)
	}
	mu.Lock()
	defer mu.Unlock()
	if strings.Join(ran, ", ") != "web hello, web goodbye" {
		t.Errorf("hooks ran: %v", ran)
	}
}
