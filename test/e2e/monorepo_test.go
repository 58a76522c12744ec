package e2e

import (
	"errors"
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
	db.await(t)
	web := &app{i, db.namespace, "web", &repo{dir: r.dir, path: "web"}}
	i.createApplication(t, web.object())
	web.await(t)
	n := 0
	eventually(t, time.Minute, "the other passes a commit over", func() error { // a look for another reason, as one that a sync had left for later, sees the newest commit
		before := db.get(t).Status.ObservedCommit
		n++
		r.commit(t, "web alone", map[string]string{"web/a.yaml": configMap("web", "k", fmt.Sprint(n))})
		web.await(t)
		looked := poll(2*time.Second, func() error {
			if db.get(t).Status.ObservedCommit == before {
				return errors.New("it has not looked")
			}
			return nil
		})
		if looked == nil {
			return fmt.Errorf("it looked at %.8s", r.head(t))
		}
		return nil
	})
	own := r.commit(t, "db", map[string]string{"db/a.yaml": configMap("db", "k", "two")})
	db.awaitCommit(t, own, v1alpha1.Applied)
	checkMaps(t, i, db.namespace, map[string]string{"db": "two", "web": fmt.Sprint(n)})
}
