package e2e

import (
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
)

// What others made is in the way where the Application refuses strangers, with who made it; one that may be taken over keeps its UID
// and what is not declared.
func TestTakingOver(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{"a.yaml": configMap("a", "k", "one")}, func(app *v1alpha1.Application) { app.Spec.Sync.Adopt = v1alpha1.AdoptRefuse })
	a.await(t)
	i.apply(t, a.namespace, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: theirs, annotations: {meta.helm.sh/release-name: shop}}\ndata: {k: theirs, other: kept}\n")
	uid := configMapUID(t, i, a.namespace, "theirs")
	refused := a.repo.commit(t, "in the way", map[string]string{"t.yaml": configMap("theirs", "k", "ours"), "a.yaml": configMap("a", "k", "two")})
	st := a.awaitCommit(t, refused, v1alpha1.Failed).Status
	if st.Reason != "ObjectsRefused" || !strings.Contains(st.Message, "t.yaml") || !strings.Contains(st.Message, "Helm release shop") || !strings.Contains(st.Message, "kubectl-client-side-apply") {
		t.Errorf("%s: %s", st.Reason, st.Message)
	}
	checkMaps(t, i, a.namespace, map[string]string{"a": "one", "theirs": "theirs"})
	i.mustKubectl(t, "-n", a.namespace, "label", "configmap", "a", "gitopsd.io/application-") // ours stays ours without its label
	a.patch(t, `{"spec":{"sync":{"suspend":true}}}`)
	a.repo.commit(t, "may be taken over", map[string]string{"t.yaml": strings.Replace(configMap("theirs", "k", "ours"), "name: theirs", "name: theirs, annotations: {gitopsd.io/adopt: \"true\"}", 1)})
	out, code := i.run("plan", a.namespace+"/"+a.name, "--dir", a.repo.dir)
	if code != 2 || !strings.Contains(out, "ConfigMap "+a.namespace+"/theirs is there already, made by Helm release shop") {
		t.Errorf("plan: exit code %d\n%s", code, out)
	}
	a.patch(t, `{"spec":{"sync":{"suspend":false}}}`)
	a.await(t)
	if configMapUID(t, i, a.namespace, "theirs") != uid {
		t.Error("it was made anew")
	}
	if got := i.mustKubectl(t, "-n", a.namespace, "get", "configmap", "theirs", "-o", "jsonpath={.data.k} {.data.other}"); got != "ours kept" {
		t.Errorf("data %s", got)
	}
}
