package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Outside of its windows nothing begins, neither a sync nor a healing, and at their time it begins by itself.
func TestSyncWindows(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one")})
	a.await(t)
	name := a.namespace + "/" + a.name
	always := `{"spec":{"sync":{"windows":[{"kind":"Deny","schedule":"* * * * *","duration":"2m"}]}}}`
	a.patch(t, always)
	eventually(t, 10*time.Second, "the spec is seen", func() error {
		if got := a.get(t); got.Status.ObservedGeneration != got.Generation {
			return errPhase(got.Status)
		}
		return nil
	})
	second := a.repo.commit(t, "two", map[string]string{"a.yaml": configMap("a", "k", "two")})
	st := a.awaitCommit(t, second, v1alpha1.Waiting).Status
	if st.Reason != "OutsideSyncWindow" || !strings.Contains(st.Message, "1 to update") || !strings.Contains(st.Message, "--ignore-windows") || st.Health != v1alpha1.Healthy {
		t.Errorf("%+v", st)
	}
	if out, code := i.run("sync", name); code != 1 || !strings.Contains(out, "OutsideSyncWindow") {
		t.Errorf("sync: exit code %d\n%s", code, out)
	}
	checkMaps(t, i, a.namespace, map[string]string{"a": "one"})
	i.must(t, "sync", name, "--ignore-windows")
	checkMaps(t, i, a.namespace, map[string]string{"a": "two"})

	third := a.repo.commit(t, "three", map[string]string{"a.yaml": configMap("a", "k", "three")})
	a.awaitCommit(t, third, v1alpha1.Waiting) // consent was for the one before
	i.mustKubectl(t, "-n", a.namespace, "patch", "configmap", "a", "-p", `{"data":{"k":"theirs"}}`)
	eventually(t, 10*time.Second, "drift is told", func() error {
		if st := a.get(t).Status; len(st.Drift) != 1 || !st.Drift[0].Ours {
			return fmt.Errorf("%+v", st.Drift)
		}
		return nil
	})
	checkMaps(t, i, a.namespace, map[string]string{"a": "theirs"})

	end := time.Now().Add(8 * time.Second)
	start := end.Add(-90 * time.Second).UTC().Truncate(time.Minute)
	a.patch(t, fmt.Sprintf(`{"spec":{"sync":{"windows":[{"kind":"Deny","schedule":"%d %d * * *","duration":%q}]}}}`, start.Minute(), start.Hour(), end.UTC().Sub(start).Truncate(time.Second)))
	done := a.await(t)
	if when := done.Status.AppliedRevision.Time; when.Before(&metav1.Time{Time: end.Add(-2 * time.Second)}) {
		t.Errorf("applied at %s, before %s", when, end)
	}
	checkMaps(t, i, a.namespace, map[string]string{"a": "three"})

	a.patch(t, `{"spec":{"sync":{"windows":[{"kind":"Allow","schedule":"0 8 * *","duration":"1h","timeZone":"Europe/Atlantis"}]}}}`)
	bad := a.awaitCommit(t, a.repo.head(t), v1alpha1.Failed).Status
	if bad.Reason != "InvalidSpec" || !strings.Contains(bad.Message, "windows[0].schedule") || !strings.Contains(bad.Message, "windows[0].timeZone") {
		t.Errorf("%s: %s", bad.Reason, bad.Message)
	}
}
