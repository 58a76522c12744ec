package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// waved is a ConfigMap of a wave that is healthy once somebody has put a word into it.
func waved(name string, wave int, value string) string {
	return strings.Replace(configMap(name, "k", value), "name: "+name,
		fmt.Sprintf("name: %s, annotations: {gitopsd.io/wave: %q, gitopsd.io/health: \"has(data.word) && data.word == data.k\"}", name, fmt.Sprint(wave)), 1)
}

// A wave begins when the one before it is healthy; what fails in one is undone with all that was written, and what leaves goes in
// the opposite order.
func TestWaves(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{"a.yaml": waved("a", 2, "one"), "b.yaml": waved("b", 0, "one"), "c.yaml": waved("c", -1, "one")}, withTimeout(time.Minute))
	word := func(name, word string) {
		i.mustKubectl(t, "-n", a.namespace, "patch", "configmap", name, "--type=merge", "-p", `{"data":{"word":"`+word+`"}}`)
	}
	waits := func(commit, says string) {
		t.Helper()
		eventually(t, 20*time.Second, says, func() error {
			if st := a.get(t).Status; st.ObservedCommit != commit || st.Phase != v1alpha1.Applying || !strings.Contains(st.Message, says) {
				return errPhase(st)
			}
			return nil
		})
	}
	first := a.repo.head(t)
	waits(first, "wave 0 waits for wave -1: ConfigMap "+a.namespace+"/c: not yet")
	checkMaps(t, i, a.namespace, map[string]string{"c": "one"})
	word("c", "one")
	waits(first, "wave 2 waits for wave 0: ConfigMap "+a.namespace+"/b")
	checkMaps(t, i, a.namespace, map[string]string{"b": "one", "c": "one"})
	word("b", "one")
	a.awaitCommit(t, first, v1alpha1.Verifying)
	word("a", "one")
	st := a.await(t).Status
	if st.LastSync.Created != 3 || st.LastSync.Updated != 0 {
		t.Errorf("the account of all waves: %+v", st.LastSync)
	}

	a.patch(t, `{"spec":{"sync":{"timeout":"3s"}}}`)
	bad := a.repo.commit(t, "does not come past wave 0", map[string]string{"a.yaml": waved("a", 2, "two"), "b.yaml": waved("b", 0, "two"), "c.yaml": configMap("c", "k", "two"), "d.yaml": waved("d", -5, "one")})
	word2 := func() error {
		_, code := i.kubectl("-n", a.namespace, "patch", "configmap", "d", "--type=merge", "-p", `{"data":{"word":"one"}}`)
		return exitOf(code)
	}
	eventually(t, 20*time.Second, "wave -5", word2)
	if st := a.awaitCommit(t, bad, v1alpha1.RolledBack).Status; !strings.Contains(st.Message, "waits for wave 0") {
		t.Errorf("%s: %s", st.Reason, st.Message)
	}
	checkMaps(t, i, a.namespace, map[string]string{"a": "one", "b": "one", "c": "one"})

	refused := a.repo.commit(t, "no number", map[string]string{"d.yaml": annotated("d", "gitopsd.io/wave", "first")})
	if st := a.awaitCommit(t, refused, v1alpha1.Failed).Status; st.Reason != "ObjectsRefused" || !strings.Contains(st.Message, "d.yaml") || !strings.Contains(st.Message, `"first"`) {
		t.Errorf("%s: %s", st.Reason, st.Message)
	}
	mark := auditSize(t, i)
	a.repo.commit(t, "one is left", map[string]string{"a.yaml": "", "b.yaml": "", "c.yaml": "", "d.yaml": configMap("left", "k", "v")})
	a.await(t)
	var gone []string
	for _, e := range auditSince(t, i, mark) {
		if e.Verb == "delete" && e.ObjectRef.Namespace == a.namespace {
			gone = append(gone, e.ObjectRef.Name)
		}
	}
	if !slices.Equal(gone, []string{"a", "b", "c"}) {
		t.Errorf("deleted in the order %v", gone)
	}
	if list, err := i.kube.CoreV1().ConfigMaps(a.namespace).List(ctx(t), metav1.ListOptions{}); err != nil || len(list.Items) != 2 { // with the API's own
		t.Errorf("%d are left, %v", len(list.Items), err)
	}
}

func exitOf(code int) error {
	if code != 0 {
		return fmt.Errorf("exit code %d", code)
	}
	return nil
}
