package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/test/github"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// forge takes commit statuses as GitHub's API does, from who has the token.
type forge struct {
	*github.Server
	mu   sync.Mutex
	said map[string][]string // by commit: "state: description"
}

func newForge(t testing.TB, token string) *forge {
	f := &forge{Server: github.New(t), said: map[string][]string{}}
	const path = "/repos/{owner}/{repo}/statuses/{sha}"
	f.Handle(http.MethodPost, path, func(w http.ResponseWriter, r *http.Request) {
		var s struct{ State, Context, Description string }
		if r.Header.Get("Authorization") != "Bearer "+token || json.NewDecoder(r.Body).Decode(&s) != nil || len([]rune(s.Description)) > 140 || r.PathValue("owner")+"/"+r.PathValue("repo") != "acme/infra" {
			t.Errorf("%s %+v with %q", r.URL.Path, s, r.Header.Get("Authorization"))
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.said[r.PathValue("sha")] = append(f.said[r.PathValue("sha")], s.Context+" "+s.State+": "+s.Description)
		github.Answer(w, http.StatusCreated, f.Example(http.MethodPost, path, http.StatusCreated))
	})
	return f
}

func (f *forge) of(commit string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.said[commit])
}

// The forge is told what became of each commit. One that was rolled back is a failure, and at no time a success.
func TestCommitStatus(t *testing.T) {
	const token = "canary-forge-token-77ab"
	i := anyCluster(t)
	f := newForge(t, token)
	r := newRepo(t, map[string]string{"a.yaml": configMap("a", "k", "one")})
	outer := filepath.Join(t.TempDir(), "acme")
	if err := os.MkdirAll(outer, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(r.dir, filepath.Join(outer, "infra")); err != nil {
		t.Fatal(err)
	}
	server := newGitServer(t, &repo{dir: outer}, "", "")
	a := i.follow(t, r, withTimeout(2*time.Second), func(app *v1alpha1.Application) {
		i.secret(t, app.Namespace, "forge", corev1.SecretTypeOpaque, map[string]string{"token": token})
		app.Spec.Source.Repo, app.Spec.Source.Interval = server.URL+"/acme/infra", &metav1.Duration{Duration: time.Second}
		app.Spec.Source.CommitStatus = &v1alpha1.CommitStatus{URL: f.URL, SecretRef: v1alpha1.LocalReference{Name: "forge"}}
	})
	good := a.await(t).Status.AppliedRevision.Commit
	last := func(commit, want string) {
		t.Helper()
		eventually(t, 20*time.Second, "the forge hears of "+commit[:8]+": "+want, func() error {
			said := f.of(commit)
			said = slices.DeleteFunc(said, func(s string) bool { return strings.Contains(s, "/ledger success: ") })
			if len(said) == 0 || !strings.HasPrefix(said[len(said)-1], "gitopsd/"+a.namespace+"/"+a.name+" "+want) {
				return fmt.Errorf("it heard %q", said)
			}
			return nil
		})
	}
	last(good, "success: applied, Healthy")
	bad := a.repo.commit(t, "bad", map[string]string{"web.yaml": brokenImage("")})
	a.awaitCommit(t, bad, v1alpha1.RolledBack)
	last(bad, "failure: RolledBack, NotHealthyInTime: ")
	for _, said := range f.of(bad) {
		if strings.Contains(said, " success") {
			t.Errorf("a revision that was rolled back was called a success: %q", f.of(bad))
		}
	}
	if strings.Contains(i.output(), token) {
		t.Error("the log holds the token")
	}
	a.patch(t, `{"spec":{"sync":{"timeout":"5m"},"source":{"commitStatus":{"ledgerHead":true}}}}`)
	waits := a.repo.commit(t, "waits", map[string]string{"web.yaml": brokenImage(""), "a.yaml": configMap("a", "k", "two")})
	last(waits, "pending: Verifying")
	next := a.repo.commit(t, "next", map[string]string{"web.yaml": "", "a.yaml": configMap("a", "k", "three")})
	a.awaitCommit(t, next, v1alpha1.Applied)
	last(next, "success: applied, Healthy")
	if said := f.of(waits); !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, " failure: not applied: commit "+next[:8]) }) {
		t.Errorf("of the commit that was overtaken the forge heard %q", said)
	}
	var head string
	eventually(t, 20*time.Second, "the forge has the ledger's head", func() error {
		for _, s := range f.of(next) {
			if _, found, ok := strings.Cut(s, "/ledger success: "); ok {
				head = found
				return nil
			}
		}
		return fmt.Errorf("it heard %q", f.of(next))
	})
	i.must(t, "audit", "verify", "--head", head)
}
