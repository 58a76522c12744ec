package e2e

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
)

// Every command has help with an example; completion exists for each shell; unknown ones are refused.
func TestHelp(t *testing.T) {
	withPlain(t) // once is enough
	for _, command := range []string{"up", "down", "uninstall", "service", "status", "sync", "suspend", "resume", "plan", "drift", "history", "rollback", "audit verify",
		"audit export", "render", "image load"} {
		out, code := output(exec.Command(gitopsd, append(strings.Fields(command), "--help")...))
		if code != 0 || !strings.Contains(out, "Examples:") || !strings.Contains(out, "gitopsd "+strings.Fields(command)[0]) {
			t.Errorf("%s --help: exit code %d\n%s", command, code, out)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, code := output(exec.Command(gitopsd, "completion", shell)); code != 0 || !strings.Contains(out, "gitopsd") {
			t.Errorf("completion %s: exit code %d", shell, code)
		}
	}
	if out, code := output(exec.Command(gitopsd, "stauts")); code != 1 || !strings.Contains(out, "status") {
		t.Errorf("a mistyped command: exit code %d\n%s", code, out)
	}
	if out, code := output(exec.Command(gitopsd, "version")); code != 0 || !strings.Contains(out, "Kubernetes API 1.36.3") {
		t.Errorf("version: exit code %d\n%s", code, out)
	}
	out, code := output(exec.Command(gitopsd, "service", "print", "--", "--repo", "https://example.org/a b", "--data-dir", "/srv/g"))
	for _, want := range []string{" up --repo \"https://example.org/a b\" --data-dir /srv/g\n", "KillMode=process\n", "Delegate=yes\n", "Type=notify\n"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("the unit lacks %q:\n%s", want, out)
		}
	}
}

// What is asked of an instance that is not there, or not running, is answered with the next step.
func TestCommandsWithoutAnInstance(t *testing.T) {
	nowhere := &instance{dir: t.TempDir(), program: gitopsd}
	for _, command := range []string{"status", "down", "uninstall --yes", "sync web", "image load /dev/null"} {
		out, code := nowhere.run(strings.Fields(command)...)
		if code != 1 || !strings.Contains(out, "no gitopsd in "+nowhere.dir) || !strings.Contains(out, "gitopsd up") {
			t.Errorf("%s: exit code %d\n%s", command, code, out)
		}
	}
}

// status tells programs, follows changes, and names what it does not know.
func TestStatus(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{"c.yaml": configMap("c", "k", "v")})
	a.await(t)
	var list v1alpha1.ApplicationList
	if err := json.Unmarshal([]byte(i.must(t, "status", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, app := range list.Items {
		found = found || (app.Name == a.name && app.Status.Phase == v1alpha1.Applied)
	}
	if !found {
		t.Errorf("-o json does not hold %s", a.name)
	}
	if out, code := i.run("status", "no-such-app"); code != 1 || !strings.Contains(out, "there is no Application no-such-app; there are: ") {
		t.Errorf("an unknown Application: exit code %d\n%s", code, out)
	}
	if out, code := i.run("status", "-o", "xml"); code != 1 || !strings.Contains(out, "json, yaml or wide") {
		t.Errorf("an unknown format: exit code %d\n%s", code, out)
	}
	watch := exec.CommandContext(t.Context(), "timeout", "--signal=INT", "8", gitopsd, "status", a.namespace+"/"+a.name, "--watch", "--data-dir", i.dir)
	seen := make(chan string, 1)
	go func() { out, _ := output(watch); seen <- out }()
	commit := a.repo.commit(t, "broken", map[string]string{"d.yaml": "{"})
	a.awaitCommit(t, commit, v1alpha1.Failed)
	if out := <-seen; !strings.Contains(out, "RenderFailed") || !strings.Contains(out, "d.yaml:1") {
		t.Errorf("--watch shows:\n%s", out)
	}
}
