package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
)

// An object that one commit moves from one Application's folder to another's is never deleted: it goes from hand to hand, in
// either direction, so whichever is looked at first.
func TestMoves(t *testing.T) {
	i := anyCluster(t)
	r, apps := i.twoFolders(t, nil)
	name := apps["a"].namespace
	settled := func(commit, has, hasNot string) {
		t.Helper()
		eventually(t, 40*time.Second, "it is "+has+"'s", func() error {
			for _, folder := range []string{"a", "b"} {
				st := apps[folder].get(t).Status
				if st.Phase != v1alpha1.Applied || st.AppliedRevision.Commit != commit || (folder == has) != holds(st, "moves") {
					return errPhase(st)
				}
			}
			return nil
		})
	}
	settled(r.head(t), "a", "b")
	uid := configMapUID(t, i, name, "moves")
	for n, to := range []string{"b", "a", "b"} {
		from := map[string]string{"a": "b", "b": "a"}[to]
		value := fmt.Sprint("move ", n)
		commit := r.commit(t, value, map[string]string{from + "/moves.yaml": "", to + "/moves.yaml": configMap("moves", "k", value)})
		settled(commit, to, from)
		if got := configMapUID(t, i, name, "moves"); got != uid {
			t.Fatalf("moving it to %s made another one: %s was %s", to, got, uid)
		}
		checkMaps(t, i, name, map[string]string{"own-a": "v", "own-b": "v", "moves": value})
	}
	r.commit(t, "nobody's", map[string]string{"b/moves.yaml": ""})
	eventually(t, 30*time.Second, "what nobody asks for goes", func() error {
		if left := i.configMaps(t, name); left["moves"] != "" {
			return fmt.Errorf("it is there")
		}
		return nil
	})
}

// twoFolders makes Applications a and b of two folders of one repository; ConfigMap moves is the first's.
func (i *instance) twoFolders(t testing.TB, changeB func(*v1alpha1.Application)) (*repo, map[string]*app) {
	t.Helper()
	r := newRepo(t, map[string]string{"a/own.yaml": configMap("own-a", "k", "v"), "b/own.yaml": configMap("own-b", "k", "v"), "a/moves.yaml": configMap("moves", "k", "one")})
	name := nameOf(t)
	i.namespace(t, name)
	apps := map[string]*app{}
	for _, folder := range []string{"a", "b"} {
		apps[folder] = &app{i, name, folder, r}
		obj := apps[folder].object()
		obj.Spec.Source.Path = folder
		if folder == "b" && changeB != nil {
			changeB(obj)
		}
		i.createApplication(t, obj)
	}
	return r, apps
}

func holds(st v1alpha1.ApplicationStatus, name string) bool {
	for _, o := range st.Inventory {
		if o.Name == name {
			return true
		}
	}
	return false
}
