package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/ledger"
)

// What the engine did stands in the ledger: a sync, a healing, a prune, a refusal, a revision that was rolled back and the retry that
// somebody asked for, each once. It verifies offline, and a changed line is found.
func TestAudit(t *testing.T) {
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one"), "b.yaml": configMap("b", "k", "one")}, withTimeout(2*time.Second))
	first := a.await(t).Status.AppliedRevision.Commit
	a.checkHealingOf(t, "a")
	second := a.repo.commit(t, "two", map[string]string{"b.yaml": "", "a.yaml": configMap("a", "k", "two")})
	a.await(t)
	refused := a.repo.commit(t, "refused", map[string]string{"x.yaml": "apiVersion: v1\nkind: Nothing\nmetadata: {name: x}\n"})
	a.awaitCommit(t, refused, v1alpha1.Failed)
	bad := a.repo.commit(t, "bad", map[string]string{"x.yaml": "", "web.yaml": brokenImage("")})
	a.awaitCommit(t, bad, v1alpha1.RolledBack)
	i.run("sync", a.namespace+"/"+a.name, "--retry")
	i.must(t, "suspend", a.namespace+"/"+a.name)
	a.awaitCommit(t, bad, v1alpha1.Suspended)
	i.must(t, "resume", a.namespace+"/"+a.name)
	a.awaitCommit(t, bad, v1alpha1.RolledBack)
	i.mustKubectl(t, "-n", a.namespace, "patch", "application", a.name, "--type=merge", "-p", `{"spec":{"sync":{"timeout":"2500ms"}}}`)
	eventually(t, 20*time.Second, "the changed spec has been tried", func() error {
		if st := a.get(t).Status; st.Rejected == nil || st.Rejected.Generation != a.get(t).Generation {
			return errPhase(st)
		}
		return nil
	})

	var got []string
	for _, line := range strings.Split(strings.TrimSpace(i.must(t, "audit", "export", "--app", a.namespace+"/"+a.name)), "\n") {
		var e struct {
			Entry struct{ Kind, Outcome, Actor, From, To string }
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if e.Entry.Outcome == "Suspended" && !strings.Contains(e.Entry.Actor, " as ") || e.Entry.Outcome == "SpecChanged" && !strings.HasPrefix(e.Entry.Actor, "kubectl") {
			t.Errorf("%s is said of %q", e.Entry.Outcome, e.Entry.Actor)
		}
		got = append(got, strings.Join([]string{e.Entry.Kind, e.Entry.Outcome, short8(e.Entry.From), short8(e.Entry.To)}, " "))
	}
	want := []string{
		"Sync Applied  " + first[:8],
		"Drift Healed " + first[:8] + " " + first[:8],
		"Prune Deleted  " + second[:8],
		"Sync Applied " + first[:8] + " " + second[:8],
		"Refusal Refused  " + refused[:8],
		"Rollback RolledBack " + bad[:8] + " " + second[:8],
		"Manual SyncRequested  " + bad[:8],
		"Manual Retry  " + bad[:8],
		"Rollback RolledBack " + bad[:8] + " " + second[:8],
		"Manual Suspended  " + bad[:8],
		"Manual Resumed  " + bad[:8],
		"Manual SpecChanged  " + bad[:8],
		"Rollback RolledBack " + bad[:8] + " " + second[:8],
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the ledger has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if out := i.must(t, "audit", "log", "--app", a.name); !strings.Contains(out, "RolledBack") {
		t.Errorf("audit log:\n%s", out)
	}
	if out := i.must(t, "audit", "verify"); !strings.HasPrefix(out, "whole: ") {
		t.Errorf("audit verify: %s", out)
	}
	dir := t.TempDir()
	if onPlain {
		if err := ledger.Fetch(ctx(t), i.kube.CoreV1().Secrets("gitopsd"), dir); err != nil {
			t.Fatal(err)
		}
	} else if err := os.CopyFS(dir, os.DirFS(filepath.Join(i.dir, "ledger"))); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(dir + "/0*")
	if err != nil || len(files) == 0 {
		t.Fatalf("the ledger's files: %v, %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, files[0], strings.Replace(string(text), "RolledBack", "Rolledback", 1))
	if out, code := i.run("audit", "verify", dir); code == 0 || !strings.Contains(out, filepath.Base(files[0])) {
		t.Errorf("a changed entry is not found: exit code %d\n%s", code, out)
	}
}

func short8(s string) string { return s[:min(8, len(s))] }
