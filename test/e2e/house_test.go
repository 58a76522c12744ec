package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
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
	i.apply(t, ns, toolboxPod("flood", []string{"flood", "/s/go", "11"}, "volumeMounts: [{name: s, mountPath: /s}]", "volumes: [{name: s, emptyDir: {}}]"))
	pod := i.pod(t, ns, "flood", "is ready", ready)
	log := i.logFile(t, pod)
	// What earlier rotations have left: compressed ones, and the last one, which is not compressed yet.
	for _, old := range []string{"20260101-000001.gz", "20260101-000002.gz", "20260101-000003.gz", "20260101-000004"} {
		writeFile(t, log+"."+old, strings.Repeat("old\n", 1<<18))
	}
	said := i.followLog(t, ns, "flood")
	i.mustKubectl(t, "-n", ns, "exec", "flood", "--", "/app", "write", "/s/go", "go")
	eventually(t, 25*time.Second, "the log is set aside, the last one compressed, the oldest gone", func() error {
		files := logFiles(t, log)
		names := strings.Join(files, " ")
		if len(files) != 5 || strings.Contains(names, "20260101-000001") || !strings.Contains(names, "20260101-000002.gz") || !strings.Contains(names, "20260101-000004.gz") {
			return fmt.Errorf("there are %s", names)
		}
		info, err := os.Stat(log)
		if err == nil && info.Size() > 1<<20 {
			err = fmt.Errorf("it has %d bytes", info.Size())
		}
		return err
	})
	mark := len(ticks(said()))
	eventually(t, 10*time.Second, "logs -f goes on", func() error {
		if n := len(ticks(said())); n < mark+5 {
			return fmt.Errorf("%d lines, %d at the rotation", n, mark)
		}
		return nil
	})
	seen := ticks(said())
	if missing := seen[len(seen)-1] + 1 - len(seen); missing < 0 || missing > 1 { // one may be written while the file is renamed
		t.Errorf("logs -f lost or repeated lines: %v", seen)
	}
	if out := i.mustKubectl(t, "-n", ns, "logs", "flood", "--tail=1"); !strings.HasPrefix(out, "tick ") {
		t.Errorf("logs: %q", out)
	}
}

// ticks are the numbers that the toolbox's flood counts after it.
func ticks(said string) []int {
	var out []int
	for _, line := range strings.Split(said, "\n") {
		if number, ok := strings.CutPrefix(line, "tick "); ok {
			n, _ := strconv.Atoi(number)
			out = append(out, n)
		}
	}
	return out
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

// followLog runs kubectl logs -f until the test ends; said is what it printed so far, in whole lines.
func (i *instance) followLog(t testing.TB, namespace, pod string) (said func() string) {
	t.Helper()
	out := &lockedBuffer{}
	cmd := exec.CommandContext(t.Context(), i.program, "kubectl", "--data-dir", i.dir, "-n", namespace, "logs", "-f", pod)
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
	eventually(t, 20*time.Second, "an event tells of the answer", func() error {
		if out := i.mustKubectl(t, "-n", ns, "get", "events", "--field-selector=reason=Unhealthy"); !strings.Contains(out, "NOT_SERVING") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	i.mustKubectl(t, "-n", ns, "exec", "rpc", "--", "/app", "write", "/s/serving", "yes")
	i.pod(t, ns, "rpc", "is ready", ready)
}
