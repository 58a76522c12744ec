package render_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gitopsd/gitopsd/internal/render"
)

// overlay is a kustomization over a chart that throws dice and looks at the cluster.
var overlay = fstest.MapFS{
	"c/kustomization.yaml":      {Data: []byte("helmCharts: [{name: dice, releaseName: dice}]\n")},
	"c/charts/dice/Chart.yaml":  {Data: []byte("apiVersion: v2\nname: dice\nversion: 1.0.0\n")},
	"c/charts/dice/values.yaml": {Data: []byte("a: b\n")},
	"c/charts/dice/templates/secret.yaml": {Data: []byte(`apiVersion: v1
kind: Secret
metadata: {name: dice, annotations: {kube: "{{ .Capabilities.KubeVersion }}", found: "{{ (lookup "v1" "ConfigMap" "web" "settings").data }}"}}
stringData: {thrown: {{ randAlphaNum 20 }}}
`)},
}

// A chart of a kustomization asks the cluster as a chart of its own does, in the same mode.
func TestOverlaysLookUp(t *testing.T) {
	p := pool(t, render.PoolConfig{Workers: 1})
	var asked []string
	answer := func(_ context.Context, q render.LookupQuestion) ([]byte, error) {
		asked = append(asked, q.String())
		return []byte(`{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"k": "seen"}}`), nil
	}
	for path, files := range map[string]fstest.MapFS{"c": overlay, ".": with(overlay, "plain.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: plain}\n")} {
		asked = nil
		req := render.Request{FS: files, Path: path, Lookup: answer}
		req.Helm.Lookup = render.LookupCluster
		r, err := p.Render(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if got := printed(r); !strings.Contains(got, "map[k:seen]") || strings.Join(asked, ", ") != "v1 ConfigMap web settings" || !r.Charts {
			t.Errorf("%s: asked for %v: %s", path, asked, got)
		}
		if _, noted := r.Inputs[render.LookupName(render.LookupQuestion{APIVersion: "v1", Kind: "ConfigMap", Namespace: "web", Name: "settings"})]; !noted {
			t.Errorf("%s: the question is not among the inputs", path)
		}
	}
	req := render.Request{FS: overlay, Path: "c", Lookup: answer}
	req.Helm.Lookup = render.LookupRefuse
	if _, err := p.Render(t.Context(), req); err == nil || !strings.Contains(err.Error(), "lookup is refused") {
		t.Errorf("refused: %v", err)
	}
	req.Helm.Lookup = render.LookupCluster
	req.Lookup = func(context.Context, render.LookupQuestion) ([]byte, error) { return nil, errors.New("forbidden") }
	if _, err := p.Render(t.Context(), req); !errors.Is(err, render.ErrLookup) {
		t.Errorf("forbidden: %v", err)
	}
}

// What charts made for a kustomization is the Application's own, and of the cluster as it was: nobody else has the same password, and what is rendered anew is
// rendered for the cluster as it is.
func TestCacheKnowsChartsOfOverlays(t *testing.T) {
	k := keep(t, t.TempDir(), 0)
	first := k.print(t, dice(overlay))
	if again := k.print(t, dice(overlay)); again != first || k.hits != 1 {
		t.Errorf("%d hits: %s", k.hits, again)
	}
	other := dice(overlay)
	other.Owner = "uid-2"
	if got := k.print(t, other); got == first {
		t.Error("two Applications have the same password")
	}
	upgraded := dice(overlay)
	upgraded.Helm.Revision, upgraded.Helm.Upgrade, upgraded.Earlier, upgraded.Helm.Cluster.KubeVersion = 2, true, []int64{1}, "v1.99.0"
	if got := k.print(t, upgraded); got != first {
		t.Errorf("what is applied is rendered again: %s", got)
	}
	upgraded.Helm.Revision, upgraded.Earlier = 3, []int64{2} // back to the files of the first, after others
	if got := k.print(t, upgraded); !strings.Contains(got, "v1.99.0") {
		t.Errorf("rendered for the cluster as it was: %s", got)
	}
	plain := dice(fstest.MapFS{"c/kustomization.yaml": {Data: []byte("resources: [m.yaml]\n")}, "c/m.yaml": {Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n")}})
	k.print(t, plain)
	hits := k.hits
	plain.Owner = "uid-2"
	if k.print(t, plain); k.hits != hits+1 {
		t.Error("what knows no charts is not shared")
	}
}
