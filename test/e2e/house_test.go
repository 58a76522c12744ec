package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// A container that writes a lot does not fill the disk: its log is set aside once it is over 10 MiB, older ones are
// compressed and the oldest go, and kubectl logs, with and without -f, goes on over it.
func TestLogsRotate(t *testing.T) {
	i := shared(t)
	ns := nameOf(t)
	i.namespace(t, ns)
	i.apply(t, ns, toolboxPod("flood", []string{"flood", "11"}, "", ""))
	pod := i.pod(t, ns, "flood", "is ready", ready)
	log := i.logFile(t, pod)
	// What earlier rotations have left: compressed ones, and the last one, which is not compressed yet.
	for _, old := range []string{"20260101-000001.gz", "20260101-000002.gz", "20260101-000003.gz", "20260101-000004"} {
		writeFile(t, log+"."+old, strings.Repeat("old\n", 1<<18))
	}
	said := i.followLog(t, ns, "flood")
	eventually(t, 25*time.Second, "the log is rotated", func() error {
		files := logFiles(t, log)
		info, err := os.Stat(log)
		if err != nil || info.Size() > 1<<20 || len(files) != 5 {
			return fmt.Errorf("there are %v", files)
		}
		return err
	})
	files := logFiles(t, log)
	names := strings.Join(files, " ")
	if strings.Contains(names, "20260101-000001") || strings.Contains(names, "20260101-000002 ") || !strings.Contains(names, "20260101-000003.gz") ||
		!strings.Contains(names, "20260101-000004.gz") {
		t.Errorf("the oldest are to go and the last one to be compressed; there are %v", files)
	}
	mark := strings.Count(said(), "tick")
	eventually(t, 10*time.Second, "logs -f goes on", func() error {
		if n := strings.Count(said(), "tick"); n < mark+5 {
			return fmt.Errorf("%d lines, %d at the rotation", n, mark)
		}
		return nil
	})
	var last, first int
	all := strings.Fields(strings.ReplaceAll(said(), "tick", ""))
	fmt.Sscan(all[0], &first)
	fmt.Sscan(all[len(all)-1], &last)
	if missing := last - first + 1 - len(all); missing < 0 || missing > 1 { // one may be written while the file is renamed
		t.Errorf("logs -f lost or repeated lines: %d of them from %d to %d", len(all), first, last)
	}
	if out := i.mustKubectl(t, "-n", ns, "logs", "flood", "--tail=1"); !strings.HasPrefix(out, "tick ") {
		t.Errorf("logs: %q", out)
	}
}

// logFile is where the node keeps what a pod's only container writes.
func (i *instance) logFile(t testing.TB, p *corev1.Pod) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(i.dir, "pod-logs", "*_"+string(p.UID), "main", "0.log"))
	if err != nil || len(found) != 1 {
		t.Fatalf("the log of pod %s: %v %v", p.Name, found, err)
	}
	return found[0]
}

func logFiles(t testing.TB, log string) []string {
	t.Helper()
	found, err := filepath.Glob(log + "*")
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(found)
	for n, f := range found {
		found[n] = filepath.Base(f)
	}
	return found
}

// followLog runs kubectl logs -f from now on, until the test ends; said is what it printed so far, in whole lines.
func (i *instance) followLog(t testing.TB, namespace, pod string) (said func() string) {
	t.Helper()
	out := &lockedBuffer{}
	cmd := exec.CommandContext(t.Context(), i.program, "kubectl", "--data-dir", i.dir, "-n", namespace, "logs", "-f", "--tail=1", pod)
	cmd.Stdout, cmd.Stderr, cmd.Env = out, out, environment()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	eventually(t, 10*time.Second, "logs -f prints", func() error {
		if out.String() == "" {
			return fmt.Errorf("nothing yet")
		}
		return nil
	})
	return func() string { s := out.String(); return s[:strings.LastIndexByte(s, '\n')+1] }
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// A gRPC probe: a pod that answers NOT_SERVING runs and is not ready, and is once it answers SERVING.
func TestGRPCProbe(t *testing.T) {
	i := shared(t)
	ns := nameOf(t)
	i.namespace(t, ns)
	i.apply(t, ns, toolboxPod("rpc", []string{"grpc", "/s/serving"}, "volumeMounts: [{name: s, mountPath: /s}]\nreadinessProbe: {grpc: {port: 9000}, periodSeconds: 1}",
		"volumes: [{name: s, emptyDir: {}}]"))
	i.pod(t, ns, "rpc", "runs without being ready", func(p *corev1.Pod) error {
		if s := p.Status.ContainerStatuses; len(s) == 0 || s[0].State.Running == nil || s[0].Ready {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	if text := i.awaitEvent(t, ns, "Unhealthy"); !strings.Contains(text, "NOT_SERVING") {
		t.Errorf("the event says %q", text)
	}
	i.mustKubectl(t, "-n", ns, "exec", "rpc", "--", "/app", "write", "/s/serving", "yes")
	i.pod(t, ns, "rpc", "is ready", ready)
}
