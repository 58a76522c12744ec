package pipeline

import (
	"testing"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// An Application is in one phase, and in none when it is gone.
func TestPhaseMetric(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := NewMetrics(registry)
	phases := func() (out []string) {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, series := range f.GetMetric() {
				if f.GetName() == "gitopsd_application_phase" {
					for _, l := range series.GetLabel() {
						out = append(out, l.GetValue())
					}
				}
			}
		}
		return out
	}
	a, b := types.NamespacedName{Namespace: "n", Name: "a"}, types.NamespacedName{Namespace: "n", Name: "b"}
	m.phase(a, v1alpha1.Pending)
	m.phase(b, v1alpha1.Held)
	m.phase(a, v1alpha1.Applied)
	m.phase(a, v1alpha1.Applied)
	if got := phases(); len(got) != 6 || got[2] != "Applied" || got[5] != "Held" {
		t.Errorf("%q", got)
	}
	m.forget(a)
	m.phase(a, v1alpha1.Waiting)
	m.forget(b)
	if got := phases(); len(got) != 3 || got[2] != "Waiting" {
		t.Errorf("%q", got)
	}
}
