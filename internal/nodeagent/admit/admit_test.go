package admit

import (
	"testing"

	"github.com/cockroachdb/datadriven"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// TestAdmit plays testdata: node YAML sets the node, pod YAML admits or refuses a pod beside those admitted before.
func TestAdmit(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var node *v1.Node
		var present []*v1.Pod
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "node":
				node, present = &v1.Node{}, nil
				if err := yaml.UnmarshalStrict([]byte(d.Input), node); err != nil {
					t.Fatal(err)
				}
				return ""
			case "pod":
				pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
				if err := yaml.UnmarshalStrict([]byte(d.Input), &pod.Spec); err != nil {
					t.Fatal(err)
				}
				if no := Check(pod, present, node); no != nil {
					return no.Reason + ": " + no.Message + "\n"
				}
				present = append(present, pod)
				return "admitted\n"
			}
			t.Fatalf("unknown command %s", d.Cmd)
			return ""
		})
	})
}
