package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
)

// driftEntries are the entries about drift of an Application.
func (a *app) driftEntries(t testing.TB, outcome string) []string {
	t.Helper()
	var out []string
	for _, line := range strings.Split(strings.TrimSpace(a.i.must(t, "audit", "export")), "\n") {
		var e struct {
			Entry struct{ Kind, App, Outcome, Message string }
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if e.Entry.App == a.namespace+"/"+a.name && e.Entry.Kind == "Drift" && e.Entry.Outcome == outcome {
			out = append(out, e.Entry.Message)
		}
	}
	return out
}

// Drift is told once for each change, with who, what and when, and without values; healed, or not as the Application wishes.
func TestDriftIsToldOnce(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{"s.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {k: ZGVjbGFyZWQ=}\n", "a.yaml": configMap("a", "k", "one")},
		func(app *v1alpha1.Application) { no := false; app.Spec.Sync.Heal = &no })
	a.await(t)
	change := func(value string) {
		i.mustKubectl(t, "-n", a.namespace, "patch", "secret", "s", "--field-manager=mallory", "--type=merge", "-p", `{"data":{"k":"`+base64.StdEncoding.EncodeToString([]byte(value))+`"}}`)
	}
	told := func(n int) []string {
		t.Helper()
		var got []string
		eventually(t, 20*time.Second, "entries", func() error {
			if got = a.driftEntries(t, "Told"); len(got) != n {
				return fmt.Errorf("%q, want %d", got, n)
			}
			return nil
		})
		return got
	}
	change("canary-value-one")
	if got := told(1)[0]; !strings.Contains(got, "Secret "+a.namespace+"/s: .data.k by mallory at 20") || !strings.Contains(got, "heal is off") || strings.Contains(got, "Y2FuYXJ5") {
		t.Errorf("told: %s", got)
	}
	if out, code := i.run("drift", a.namespace+"/"+a.name); code != 2 || strings.Contains(out, "Y2FuYXJ5") || !strings.Contains(out, "by mallory") {
		t.Errorf("drift: exit code %d\n%s", code, out)
	}
	i.run("sync", a.namespace+"/"+a.name, "--wait=false") // another look
	i.kill9(t)
	i.start(t)
	i.mustKubectl(t, "-n", a.namespace, "delete", "configmap", "a") // something that is told proves that the look was made
	got := told(2)
	if strings.Contains(got[1], "Secret") || !strings.Contains(got[1], "ConfigMap "+a.namespace+"/a: (deleted)") {
		t.Errorf("told: %q", got)
	}
	a.patch(t, `{"spec":{"sync":{"heal":true}}}`)
	eventually(t, 20*time.Second, "healed", func() error {
		if got := a.driftEntries(t, "Healed"); len(got) != 1 || !strings.Contains(got[0], ".data.k by mallory at 20") {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	told(2)
}
