package apply

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A stray was made by a late request and never looked at again; what an undo has given back is none, nor what holds data.
func TestStray(t *testing.T) {
	target := Target{Manager: "gitopsd", Maker: Maker{Application: "uid"}}
	born := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		kind, mark string
		written    time.Time
		stray      bool
	}{
		"late":                     {"ConfigMap", "uid/i/1", born, true},
		"late, over a second's":    {"ConfigMap", "uid/i/1", born.Add(time.Second), true},
		"written again since":      {"ConfigMap", "uid/i/1", born.Add(2 * time.Second), false},
		"of another Application":   {"ConfigMap", "other/i/1", born, false},
		"a claim may hold data":    {"PersistentVolumeClaim", "uid/i/1", born, false},
		"a namespace may be used":  {"Namespace", "uid/i/1", born, false},
		"somebody's without marks": {"ConfigMap", "", born, false},
	} {
		o := inWave(c.kind, "a", map[string]string{MadeAnnotation: c.mark})
		o.SetAPIVersion("v1")
		o.SetCreationTimestamp(metav1.NewTime(born))
		written := metav1.NewTime(c.written)
		o.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "gitopsd", Operation: metav1.ManagedFieldsOperationApply, Time: &written},
			{Manager: epochManager, Operation: metav1.ManagedFieldsOperationApply, Time: &metav1.Time{Time: born.Add(time.Hour)}}})
		if got := target.Stray(o.Unstructured); got != c.stray {
			t.Errorf("%s: %v", name, got)
		}
	}
}
