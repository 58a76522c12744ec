package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
)

// However a repository loses what an Application has, nothing is deleted unasked: by a history that has nothing to do with
// the one before, by a root path that is called otherwise, and by a path that is another's.
func TestPruneStopsAndAsks(t *testing.T) {
	i := anyCluster(t)
	files, all := map[string]string{"elsewhere/b.yaml": configMap("b", "k", "v")}, map[string]string{}
	for n := range 6 {
		name := fmt.Sprint("m", n)
		files["apps/"+name+".yaml"], all[name] = configMap(name, "k", "v"), "v"
	}
	r := newRepo(t, files)
	r.path = "apps"
	a := i.follow(t, r)
	first := a.await(t).Status.ObservedCommit
	stopped := func(t *testing.T, commit, reason string, says ...string) {
		t.Helper()
		st := a.awaitCommit(t, commit, v1alpha1.Failed).Status
		for _, text := range says {
			if st.Reason != reason || !strings.Contains(st.Message, text) {
				t.Errorf("%s, not %s with %q: %s", st.Reason, reason, text, st.Message)
			}
		}
		if st.AppliedRevision == nil || st.AppliedRevision.Commit != first {
			t.Errorf("applied: %+v", st.AppliedRevision)
		}
		checkMaps(t, i, a.namespace, all)
	}
	t.Run("the root path is renamed", func(t *testing.T) {
		r.git(t, "mv", "apps", "applications")
		stopped(t, r.commit(t, "renamed", nil), "RenderFailed", "apps")
		r.git(t, "reset", "-q", "--hard", first)
		a.await(t)
	})
	t.Run("another path is named", func(t *testing.T) {
		a.patch(t, `{"spec":{"source":{"path":"elsewhere"}}}`)
		stopped(t, first, "PruneNeedsConsent", "6 of 6", "--allow-prune")
		a.patch(t, `{"spec":{"source":{"path":"apps"}}}`)
		a.await(t)
	})
	t.Run("an unrelated history is pushed", func(t *testing.T) {
		r.git(t, "checkout", "-q", "--orphan", "new")
		r.git(t, "rm", "-rfq", ".")
		r.commit(t, "unrelated", map[string]string{"apps/b.yaml": configMap("b", "k", "v")})
		r.git(t, "branch", "-f", "main", "new")
		stopped(t, r.head(t), "PruneNeedsConsent", "6 of 6", "--allow-prune")
		i.must(t, "sync", a.namespace+"/"+a.name, "--allow-prune")
		checkMaps(t, i, a.namespace, map[string]string{"b": "v"})
	})
}
