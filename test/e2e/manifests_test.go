package e2e

import (
	"context"
	"fmt"
	"io"
	"log"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/examples/image"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var discard = log.New(io.Discard, "", 0)

// pushHello puts examples/hello, in these versions, and the toolbox into a registry.
func pushHello(host string, versions ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for _, v := range versions {
		img, err := image.Build(ctx, "github.com/gitopsd/gitopsd/examples/hello", "VERSION="+v)
		if err != nil {
			return err
		}
		if err := image.Push(ctx, host+"/hello:"+v, img); err != nil {
			return err
		}
	}
	img, err := image.Build(ctx, "github.com/gitopsd/gitopsd/test/e2e/toolbox")
	if err != nil {
		return err
	}
	return image.Push(ctx, host+"/toolbox:v1", img)
}

func helloImage(version string) string { return images + "/hello:" + version }

func toolbox() string { return images + "/toolbox:v1" }

// pods is how many pods a Deployment shall have to be healthy: none where there is no node.
func pods(n int) int {
	if onPlain {
		return 0
	}
	return n
}

// helloDeployment is a Deployment of hello with a probe, and a Service before it; nodePort 0 leaves the Service a
// ClusterIP.
func helloDeployment(version string, replicas, nodePort int) string {
	kind, port := "ClusterIP", ""
	if nodePort > 0 {
		kind, port = "NodePort", fmt.Sprintf(", nodePort: %d", nodePort)
	}
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: hello}
spec:
  replicas: %d
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: hello
        image: %s
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: hello}
spec:
  type: %s
  selector: {app: hello}
  ports: [{port: 80, targetPort: 8080%s}]
`, replicas, helloImage(version), kind, port)
}

func configMap(name, key, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {%s: %q}\n", name, key, value)
}

// toolboxPod is a Pod with one container, main, that runs the toolbox with args. more is appended to the container,
// and spec to the pod's spec, as YAML of one line each.
func toolboxPod(name string, args []string, more, spec string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 2
%s
  containers:
  - name: main
    image: %s
    args: ["%s"]
%s
`, name, indent(spec, 2), toolbox(), strings.Join(args, `", "`), indent(more, 4))
}

func indent(text string, n int) string {
	if text == "" {
		return ""
	}
	pad := strings.Repeat(" ", n)
	return pad + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n"+pad)
}

// apply applies manifests by hand, for tests that are not about Git.
func (i *instance) apply(t testing.TB, namespace, manifests string) {
	t.Helper()
	file := t.TempDir() + "/m.yaml"
	writeFile(t, file, manifests)
	i.mustKubectl(t, "-n", namespace, "apply", "-f", file)
}

// pod waits until a pod is as f wants it.
func (i *instance) pod(t testing.TB, namespace, name, what string, f func(*corev1.Pod) error) *corev1.Pod {
	t.Helper()
	var got *corev1.Pod
	eventually(t, 60*time.Second, fmt.Sprintf("pod %s %s", name, what), func() error {
		p, err := i.kube.CoreV1().Pods(namespace).Get(ctx(t), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		got = p
		if err := f(p); err != nil {
			return fmt.Errorf("%w; %s", err, describe(p))
		}
		return nil
	})
	return got
}

func ready(p *corev1.Pod) error {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("not ready")
}

func succeeded(p *corev1.Pod) error {
	if p.Status.Phase != corev1.PodSucceeded {
		return fmt.Errorf("not succeeded")
	}
	return nil
}

func describe(p *corev1.Pod) string {
	text := fmt.Sprintf("phase %s %s %s", p.Status.Phase, p.Status.Reason, p.Status.Message)
	for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		text += fmt.Sprintf("; %s: ready %v, restarts %d, waiting %v, terminated %v", s.Name, s.Ready, s.RestartCount, s.State.Waiting, s.State.Terminated)
	}
	return text
}

// awaitNode waits until the instance's node is Ready.
func (i *instance) awaitNode(t testing.TB) {
	t.Helper()
	eventually(t, time.Minute, "the node is Ready", func() error {
		nodes, err := i.kube.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, n := range nodes.Items {
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
					return nil
				}
				if c.Type == corev1.NodeReady {
					err = fmt.Errorf("%s: %s", c.Reason, c.Message)
				}
			}
		}
		return fmt.Errorf("%d nodes, none ready: %v", len(nodes.Items), err)
	})
}
