package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
)

// Of two Applications of one repository, that one alone looks at a commit which read what it changes; the other goes on from there.
func TestCommitsOfOthersArePassedOver(t *testing.T) {
	i := anyCluster(t)
	r := newRepo(t, map[string]string{"web/a.yaml": configMap("web", "k", "one"), "db/a.yaml": configMap("db", "k", "one")})
	r.path = "db"
	db := i.follow(t, r)
	first := db.await(t).Status.ObservedCommit
	web := &app{i, db.namespace, "web", &repo{dir: r.dir, path: "web"}}
	i.createApplication(t, web.object())
	web.await(t)
	for n := range 2 {
		r.commit(t, "web alone", map[string]string{"web/a.yaml": configMap("web", "k", fmt.Sprint(n))})
		web.await(t)
	}
	consistently(t, 2*time.Second, "the other looks at none of them", func() error {
		if st := db.get(t).Status; st.ObservedCommit != first {
			return errPhase(st)
		}
		return nil
	})
	own := r.commit(t, "db", map[string]string{"db/a.yaml": configMap("db", "k", "two")})
	db.awaitCommit(t, own, v1alpha1.Applied)
	checkMaps(t, i, db.namespace, map[string]string{"db": "two", "web": "1"})
}
