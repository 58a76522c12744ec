package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
)

// Objects that do not go keep their own Applications waiting, which say what holds them; all others are worked on.
func TestWhatDoesNotGoHoldsNobodyUp(t *testing.T) {
	i := anyCluster(t)
	const many = 17 // more than are worked on at once
	files := map[string]string{"other/m.yaml": configMap("other", "k", "one")}
	for n := range many {
		files[fmt.Sprintf("%d/m.yaml", n)] = configMap(fmt.Sprint("m", n), "k", "v")
	}
	r, name := newRepo(t, files), nameOf(t)
	i.namespace(t, name)
	follow := func(folder string) *app {
		a := &app{i, name, "f" + folder, r}
		obj := a.object()
		obj.Spec.Source.Path = folder
		i.createApplication(t, obj)
		return a
	}
	other, apps := follow("other"), []*app{}
	for n := range many {
		apps = append(apps, follow(fmt.Sprint(n)))
	}
	for _, a := range append(apps, other) {
		a.await(t)
	}
	release := func() {
		for n := range many {
			i.kubectl("-n", name, "patch", "configmap", fmt.Sprint("m", n), "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
		}
	}
	t.Cleanup(release)
	for n := range many {
		i.mustKubectl(t, "-n", name, "patch", "configmap", fmt.Sprint("m", n), "--type=merge", "-p", `{"metadata":{"finalizers":["e2e.example.org/hold"]}}`)
	}
	i.mustKubectl(t, "-n", name, "delete", "configmaps", "--all", "--wait=false")
	eventually(t, 30*time.Second, "each says what holds its object", func() error {
		for _, a := range apps {
			if st := a.get(t).Status; !strings.Contains(st.Message, "has not gone yet (finalizers: [e2e.example.org/hold])") {
				return fmt.Errorf("%s: %w", a.name, errPhase(st))
			}
		}
		return nil
	})
	r.commit(t, "another's", map[string]string{"other/m.yaml": configMap("other", "k", "two")})
	eventually(t, 20*time.Second, "the other one goes on", func() error {
		if st := other.get(t).Status; st.Phase != v1alpha1.Applied || st.AppliedRevision.Commit != r.head(t) {
			return errPhase(st)
		}
		return nil
	})
	release()
	for _, a := range apps {
		a.await(t)
	}
	if left := i.configMaps(t, name); len(left) != many+1 {
		t.Errorf("%d of %d are back", len(left), many+1)
	}
}
