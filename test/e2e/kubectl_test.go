package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The machine's own kubectl needs nothing but the admin's kubeconfig: apply, get, logs, exec, delete.
func TestOrdinaryKubectl(t *testing.T) {
	program, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("this machine has no kubectl; the bundled one is in every other test")
	}
	i := shared(t)
	ns := nameOf(t)
	i.namespace(t, ns)
	kubectl := func(args ...string) string {
		t.Helper()
		out, code := output(exec.Command(program, append([]string{"--kubeconfig", filepath.Join(i.dir, "admin.kubeconfig"), "-n", ns}, args...)...))
		if code != 0 {
			t.Fatalf("kubectl %s: exit code %d\n%s", strings.Join(args, " "), code, out)
		}
		return out
	}
	file := filepath.Join(t.TempDir(), "p.yaml")
	writeFile(t, file, toolboxPod("p", []string{"count", "3"}, "", ""))
	if out := kubectl("apply", "-f", file); out != "pod/p created\n" {
		t.Errorf("apply: %q", out)
	}
	kubectl("wait", "--for=condition=Ready", "pod/p", "--timeout=60s")
	for _, c := range []struct{ args, says string }{
		{"get pod p -o jsonpath={.status.phase}", "Running"},
		{"get nodes", fmt.Sprintf("node%d", i.n)},
		{"get nodes", " Ready "},
		{"logs p", "line 0\nline 1\nline 2\n"},
		{"exec p -- /app args hello", "hello\n"},
		{"apply -f " + file, "pod/p unchanged\n"},
		{"delete pod p", "deleted"},
	} {
		if out := kubectl(strings.Fields(c.args)...); !strings.Contains(out, c.says) {
			t.Errorf("%s: %q, want %q", c.args, out, c.says)
		}
	}
}
