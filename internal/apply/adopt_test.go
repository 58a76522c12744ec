package apply

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAdopts(t *testing.T) {
	target := Target{Label: "gitopsd.io/application", Owner: "n.web", Manager: "gitopsd"}
	ours := metav1.ManagedFieldsEntry{Manager: "gitopsd", Operation: metav1.ManagedFieldsOperationApply}
	kubectl := metav1.ManagedFieldsEntry{Manager: "kubectl-client-side-apply", Operation: metav1.ManagedFieldsOperationUpdate}
	for name, c := range map[string]struct {
		label     string
		managers  []metav1.ManagedFieldsEntry
		annotated string
		refuses   bool
		adopts    bool
	}{
		"by default":                        {"", []metav1.ManagedFieldsEntry{kubectl}, "", false, true},
		"not where strangers are refused":   {"", []metav1.ManagedFieldsEntry{kubectl}, "", true, false},
		"an object may say yes":             {"", []metav1.ManagedFieldsEntry{kubectl}, "true", true, true},
		"and no":                            {"", []metav1.ManagedFieldsEntry{kubectl}, "false", false, false},
		"ours is no stranger":               {"n.web", []metav1.ManagedFieldsEntry{kubectl, ours}, "false", true, true},
		"nor when somebody took our label":  {"", []metav1.ManagedFieldsEntry{kubectl, ours}, "", true, true},
		"what a gone Application left does": {"n.gone", []metav1.ManagedFieldsEntry{kubectl}, "", true, false},
	} {
		target.RefuseStrangers = c.refuses
		o := inWave("ConfigMap", "a", nil)
		if c.annotated != "" {
			o.SetAnnotations(map[string]string{AdoptAnnotation: c.annotated})
		}
		live := inWave("ConfigMap", "a", map[string]string{"meta.helm.sh/release-name": "shop"}).Unstructured
		live.SetManagedFields(c.managers)
		if c.label != "" {
			live.SetLabels(map[string]string{target.Label: c.label})
		}
		err := target.adopts(o, live)
		if (err == nil) != c.adopts {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "Helm release shop") || !strings.Contains(err.Error(), "kubectl-client-side-apply") || !strings.Contains(err.Error(), AdoptAnnotation)) {
			t.Errorf("%s: %v does not say who, and what to do", name, err)
		}
	}
	for v, good := range map[string]bool{"true": true, "false": true, "yes": false, "": false} {
		if err := CheckAdopt(inWave("ConfigMap", "a", map[string]string{AdoptAnnotation: v}).Unstructured); (err == nil) != good {
			t.Errorf("%q: %v", v, err)
		}
	}
}
