package e2e

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/examples/image"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a container sees: environment of every kind, arguments expanded, volumes of every kind, init containers before it.
func TestPodInsides(t *testing.T) {
	i := shared(t)
	ns := nameOf(t)
	i.namespace(t, ns)
	i.apply(t, ns, configMap("config", "key", "from-config")+"---\napiVersion: v1\nkind: Secret\nmetadata: {name: secret}\nstringData: {key: from-secret}\n")
	i.apply(t, ns, fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: insides, labels: {role: test}, annotations: {note: annotated}}
spec:
  restartPolicy: Never
  initContainers:
  - {name: first, image: %[1]s, args: [write, /scratch/first, one], volumeMounts: [{name: scratch, mountPath: /scratch}]}
  - {name: second, image: %[1]s, args: [cat, /scratch/first], volumeMounts: [{name: scratch, mountPath: /scratch}]}
  containers:
  - name: env
    image: %[1]s
    args: [env]
    env:
    - {name: PLAIN, value: plain}
    - {name: EXPANDED, value: "$(PLAIN)-and-more $$(PLAIN)"}
    - {name: CONFIG, valueFrom: {configMapKeyRef: {name: config, key: key}}}
    - {name: SECRET, valueFrom: {secretKeyRef: {name: secret, key: key}}}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['role']"}}}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    envFrom: [{prefix: ALL_, configMapRef: {name: config}}]
    resources: {limits: {memory: 64Mi}}
  - {name: args, image: %[1]s, command: [/app], args: [args, "$(PLAIN)", "$$(PLAIN)", "$(NOT_SET)"], env: [{name: PLAIN, value: plain}]}
  - name: files
    image: %[1]s
    args: [cat, /scratch/first, /config/key, /secret/renamed, /down/labels, /all/key, /all/renamed, /host/gitopsd-e2e-canary]
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: config, mountPath: /config}
    - {name: secret, mountPath: /secret}
    - {name: down, mountPath: /down}
    - {name: all, mountPath: /all}
    - {name: host, mountPath: /host, readOnly: true}
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: config, configMap: {name: config}}
  - {name: secret, secret: {secretName: secret, items: [{key: key, path: renamed}]}}
  - {name: down, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: all, projected: {sources: [{configMap: {name: config}}, {secret: {name: secret, items: [{key: key, path: renamed}]}}]}}
  - {name: host, hostPath: {path: %[2]s, type: Directory}}
`, toolbox(), hostFolder(t)))
	pod := i.pod(t, ns, "insides", "has succeeded", succeeded)
	env := i.mustKubectl(t, "-n", ns, "logs", "insides", "-c", "env")
	for _, want := range []string{"PLAIN=plain\n", "EXPANDED=plain-and-more $(PLAIN)\n", "CONFIG=from-config\n", "SECRET=from-secret\n", "POD=insides\n",
		"POD_IP=" + pod.Status.PodIP + "\n", "NODE=" + pod.Spec.NodeName + "\n", "LABEL=test\n", "LIMIT=64\n", "ALL_key=from-config\n", "KUBERNETES_SERVICE_HOST=10."} {
		if !strings.Contains(env, want) {
			t.Errorf("the environment lacks %q:\n%s", want, env)
		}
	}
	if out := i.mustKubectl(t, "-n", ns, "logs", "insides", "-c", "args"); out != "plain|$(PLAIN)|$(NOT_SET)\n" {
		t.Errorf("arguments: %q", out)
	}
	want := "one\nfrom-config\nfrom-secret\nrole=\"test\"\nfrom-config\nfrom-secret\non the host\n"
	if out := i.mustKubectl(t, "-n", ns, "logs", "insides", "-c", "files"); out != want {
		t.Errorf("files: %q, want %q", out, want)
	}
	if pod.Status.QOSClass != corev1.PodQOSBurstable || pod.Status.HostIP == "" || pod.Status.StartTime == nil {
		t.Errorf("status: %+v", pod.Status)
	}
}

func hostFolder(t testing.TB) string {
	dir := t.TempDir()
	writeFile(t, dir+"/gitopsd-e2e-canary", "on the host")
	return dir
}

// A changed ConfigMap reaches the file in a running container.
func TestConfigMapVolumeIsUpdated(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{"c.yaml": configMap("c", "page", "first"),
		"p.yaml": toolboxPod("p", []string{"serve", "/c/page"}, "volumeMounts: [{name: c, mountPath: /c}]", "volumes: [{name: c, configMap: {name: c}}]")})
	a.await(t)
	pod := i.pod(t, a.namespace, "p", "is ready", ready)
	url := "http://" + pod.Status.PodIP + ":8080/"
	answers(t, 10*time.Second, url, "first")
	a.repo.commit(t, "second", map[string]string{"c.yaml": configMap("c", "page", "second")})
	answers(t, 100*time.Second, url, "second")
}

// Restart policies, back-off, and what the status says of it.
func TestRestarts(t *testing.T) {
	i := shared(t)
	ns := nameOf(t)
	i.namespace(t, ns)
	i.apply(t, ns, toolboxPod("never", []string{"exit", "3"}, "", "restartPolicy: Never")+"---\n"+
		toolboxPod("onfailure", []string{"exitonce", "/s/once"}, "volumeMounts: [{name: s, mountPath: /s}]", "restartPolicy: OnFailure\nvolumes: [{name: s, emptyDir: {}}]")+"---\n"+
		toolboxPod("crash", []string{"exit", "7"}, "", "")+"---\n"+
		toolboxPod("oom", []string{"eat", "64"}, "resources: {limits: {memory: 24Mi}}", "restartPolicy: Never"))
	failed := func(p *corev1.Pod) error {
		if p.Status.Phase != corev1.PodFailed {
			return fmt.Errorf("not failed")
		}
		return nil
	}
	if s := i.pod(t, ns, "never", "has failed", failed).Status.ContainerStatuses[0]; s.State.Terminated.ExitCode != 3 || s.State.Terminated.Reason != "Error" || s.RestartCount != 0 {
		t.Errorf("never: %+v", s)
	}
	i.pod(t, ns, "onfailure", "runs after one failure", func(p *corev1.Pod) error {
		if s := p.Status.ContainerStatuses; len(s) == 0 || s[0].RestartCount != 1 || s[0].State.Running == nil || s[0].LastTerminationState.Terminated == nil {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	i.pod(t, ns, "crash", "backs off", func(p *corev1.Pod) error {
		s := p.Status.ContainerStatuses
		if len(s) == 0 || s[0].State.Waiting == nil || s[0].State.Waiting.Reason != "CrashLoopBackOff" || s[0].LastTerminationState.Terminated.ExitCode != 7 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	if out := i.mustKubectl(t, "-n", ns, "logs", "crash", "--previous"); !strings.Contains(out, "exits with 7") {
		t.Errorf("the previous log: %q", out)
	}
	if s := i.pod(t, ns, "oom", "has failed", failed).Status.ContainerStatuses[0].State.Terminated; s.Reason != "OOMKilled" || s.ExitCode != 137 {
		t.Errorf("oom: %+v", s)
	}
}

// Probes: readiness keeps traffic away, liveness restarts, startup holds the others back.
func TestProbes(t *testing.T) {
	i := shared(t)
	ns := nameOf(t)
	i.namespace(t, ns)
	i.apply(t, ns, toolboxPod("web", []string{"serve", "/s/page"}, `volumeMounts: [{name: s, mountPath: /s}]
readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}`, "volumes: [{name: s, emptyDir: {}}]")+"---\n"+
		"apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n---\n"+
		toolboxPod("sick", []string{"sleep"}, "livenessProbe: {exec: {command: [/app, cat, /nowhere]}, periodSeconds: 1, failureThreshold: 1}", ""))
	i.pod(t, ns, "web", "runs without being ready", func(p *corev1.Pod) error {
		s := p.Status.ContainerStatuses
		if len(s) == 0 || s[0].State.Running == nil || s[0].Started == nil || !*s[0].Started || s[0].Ready {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	svc, err := i.kube.CoreV1().Services(ns).Get(ctx(t), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fetch("http://" + svc.Spec.ClusterIP + "/"); err == nil {
		t.Error("a pod that is not ready gets traffic")
	}
	i.mustKubectl(t, "-n", ns, "exec", "web", "--", "/app", "write", "/s/page", "here")
	i.pod(t, ns, "web", "is ready", ready)
	answers(t, 10*time.Second, "http://"+svc.Spec.ClusterIP+"/", "here")
	i.pod(t, ns, "sick", "is restarted by its liveness probe", func(p *corev1.Pod) error {
		if s := p.Status.ContainerStatuses; len(s) == 0 || s[0].RestartCount < 1 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	i.awaitEvent(t, ns, "Unhealthy")
}

func (i *instance) awaitEvent(t testing.TB, namespace, reason string) string {
	t.Helper()
	text := ""
	eventually(t, 20*time.Second, "an event "+reason, func() error {
		list, err := i.kube.CoreV1().Events(namespace).List(ctx(t), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Reason == reason {
				text = e.Message
				return nil
			}
		}
		return fmt.Errorf("%d other events", len(list.Items))
	})
	return text
}

// Termination: preStop, SIGTERM, the grace period, SIGKILL, and nothing left.
func TestTermination(t *testing.T) {
	i := shared(t)
	ns := nameOf(t)
	i.namespace(t, ns)
	dir := t.TempDir()
	i.apply(t, ns, toolboxPod("polite", []string{"farewell", "/h/farewell"}, `volumeMounts: [{name: h, mountPath: /h}]
lifecycle: {preStop: {exec: {command: [/app, write, /h/prestop, done]}}, postStart: {exec: {command: [/app, write, /h/poststart, done]}}}`,
		"volumes: [{name: h, hostPath: {path: "+dir+"}}]")+"---\n"+toolboxPod("stubborn", []string{"stubborn"}, "", ""))
	i.pod(t, ns, "polite", "is ready", ready)
	i.pod(t, ns, "stubborn", "is ready", ready)
	eventually(t, 10*time.Second, "the stubborn one ignores SIGTERM", func() error {
		if out := i.mustKubectl(t, "-n", ns, "logs", "stubborn"); !strings.Contains(out, "ignores") {
			return fmt.Errorf("it says %q", out)
		}
		return nil
	})
	i.mustKubectl(t, "-n", ns, "delete", "pod", "polite")
	for _, f := range []string{"poststart", "prestop", "farewell"} {
		if _, err := exec.Command("cat", dir+"/"+f).Output(); err != nil {
			t.Errorf("%s was not written", f)
		}
	}
	started := time.Now()
	i.mustKubectl(t, "-n", ns, "delete", "pod", "stubborn", "--grace-period=1")
	if took := time.Since(started); took < time.Second {
		t.Errorf("the stubborn pod had %s of its grace period of 1s", took)
	}
}

// logs -f, --tail, --timestamps, exec with its exit code, port-forward: through the API, to the agent, over TLS.
func TestLogsExecPortForward(t *testing.T) {
	i := shared(t)
	ns := nameOf(t)
	i.namespace(t, ns)
	i.apply(t, ns, toolboxPod("count", []string{"count", "100"}, "", "")+"---\n"+toolboxPod("tick", []string{"tick"}, "", "")+"---\n"+
		toolboxPod("serve", []string{"serve", "/etc/hostname"}, "", ""))
	for _, p := range []string{"count", "tick", "serve"} {
		i.pod(t, ns, p, "is ready", ready)
	}
	if out := i.mustKubectl(t, "-n", ns, "logs", "count", "--tail=2"); out != "line 98\nline 99\n" {
		t.Errorf("--tail=2: %q", out)
	}
	if out := i.mustKubectl(t, "-n", ns, "logs", "count", "--timestamps", "--tail=1"); !strings.HasPrefix(out, "20") || !strings.Contains(out, "Z line 99") {
		t.Errorf("--timestamps: %q", out)
	}
	follow := exec.CommandContext(t.Context(), "timeout", "4", i.program, "kubectl", "--data-dir", i.dir, "-n", ns, "logs", "-f", "--tail=1", "tick")
	if out, _ := output(follow); strings.Count(out, "tick") < 5 {
		t.Errorf("-f: %q", out)
	}
	if out := i.mustKubectl(t, "-n", ns, "exec", "count", "--", "/app", "args", "a", "b c"); out != "a|b c\n" {
		t.Errorf("exec: %q", out)
	}
	if out, code := i.kubectl("-n", ns, "exec", "count", "--", "/app", "exit", "5"); code != 5 {
		t.Errorf("exec's exit code: %d %s", code, out)
	}
	port := fmt.Sprint(i.port(19))
	forward := exec.CommandContext(t.Context(), i.program, "kubectl", "--data-dir", i.dir, "-n", ns, "port-forward", "pod/serve", port+":8080")
	var said bytes.Buffer
	forward.Stdout, forward.Stderr, forward.Env = &said, &said, environment()
	if err := forward.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = forward.Process.Kill()
		_ = forward.Wait()
		if t.Failed() {
			t.Logf("port-forward said: %s", said.String())
		}
	}()
	answers(t, 20*time.Second, "http://127.0.0.1:"+port+"/", "serve")
}

// Images: what cannot be pulled is told, pull policies hold, and archives are loaded without a registry.
func TestImages(t *testing.T) {
	i := shared(t)
	ns := nameOf(t)
	i.namespace(t, ns)
	missing := strings.ReplaceAll(toolboxPod("missing", []string{"sleep"}, "", ""), toolbox(), images+"/not-there:v1")
	never := strings.ReplaceAll(toolboxPod("never", []string{"sleep"}, "imagePullPolicy: Never", ""), toolbox(), images+"/not-here:v1")
	invalid := strings.ReplaceAll(toolboxPod("invalid", []string{"sleep"}, "", ""), toolbox(), "Not A Name")
	loaded := strings.ReplaceAll(toolboxPod("loaded", []string{"sleep"}, "imagePullPolicy: Never", ""), toolbox(), "example.org/loaded:v1")
	i.apply(t, ns, missing+"---\n"+never+"---\n"+invalid)
	for name, reasons := range map[string]string{"missing": "ErrImagePull ImagePullBackOff", "never": "ErrImageNeverPull", "invalid": "InvalidImageName"} {
		i.pod(t, ns, name, "waits with "+reasons, func(p *corev1.Pod) error {
			s := p.Status.ContainerStatuses
			if len(s) == 0 || s[0].State.Waiting == nil || !strings.Contains(reasons, s[0].State.Waiting.Reason) || s[0].State.Waiting.Reason == "" {
				return fmt.Errorf("not yet")
			}
			return nil
		})
	}
	img, err := image.Build(ctx(t), "github.com/gitopsd/gitopsd/test/e2e/toolbox")
	if err != nil {
		t.Fatal(err)
	}
	archive := t.TempDir() + "/image.tar"
	if err := tarball.WriteToFile(archive, name.MustParseReference("example.org/loaded:v1"), img); err != nil {
		t.Fatal(err)
	}
	if out := i.must(t, "image", "load", archive); !strings.Contains(out, "example.org/loaded:v1") {
		t.Errorf("image load printed %q", out)
	}
	i.apply(t, ns, loaded)
	i.pod(t, ns, "loaded", "is ready", ready)
}

// An unplaced pod says why, in its condition and in an event, as kube-scheduler would word it; a Job runs to its end.
func TestSchedulingAndJobs(t *testing.T) {
	i := shared(t)
	ns := nameOf(t)
	i.namespace(t, ns)
	i.apply(t, ns, toolboxPod("big", []string{"sleep"}, "resources: {requests: {cpu: 1000}}", "")+"---\n"+toolboxPod("picky", []string{"sleep"}, "", "nodeSelector: {disk: ssd}")+
		fmt.Sprintf("---\napiVersion: batch/v1\nkind: Job\nmetadata: {name: job}\nspec: {completions: 2, template: {spec: {restartPolicy: Never, containers: [{name: c, image: %s, args: [args, done]}]}}}\n", toolbox()))
	for name, want := range map[string]string{
		"big":   "0/1 nodes are available: 1 Insufficient cpu.",
		"picky": "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
	} {
		i.pod(t, ns, name, "says why it is not placed", func(p *corev1.Pod) error {
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == "Unschedulable" && strings.HasPrefix(c.Message, want) {
					return nil
				}
			}
			return fmt.Errorf("conditions %+v", p.Status.Conditions)
		})
	}
	if text := i.awaitEvent(t, ns, "FailedScheduling"); !strings.Contains(text, "0/1 nodes are available") {
		t.Errorf("the event says %q", text)
	}
	i.mustKubectl(t, "label", "node", "--all", "disk=ssd")
	defer i.mustKubectl(t, "label", "node", "--all", "disk-")
	i.pod(t, ns, "picky", "is placed once a node fits", ready)
	i.mustKubectl(t, "-n", ns, "wait", "--for=condition=complete", "job/job", "--timeout=60s")
}
