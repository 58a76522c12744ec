package pipeline

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiversion "k8s.io/apimachinery/pkg/version"
)

func TestComparable(t *testing.T) {
	for _, c := range []struct {
		said apiversion.Info
		want string
	}{
		{apiversion.Info{GitVersion: "v1.34.2"}, "v1.34.2"},
		{apiversion.Info{GitVersion: "v1.30.1-gke.100", Major: "1", Minor: "30+"}, "v1.30.1-gke.100"},
		{apiversion.Info{GitVersion: "v0.0.0-master+$Format:%H$", Major: "1", Minor: "36+"}, "v1.36.0"},
		{apiversion.Info{GitVersion: "unknown"}, ""},
	} {
		if got := comparable(&c.said); got != c.want {
			t.Errorf("%s is %q, want %q", c.said.GitVersion, got, c.want)
		}
	}
}

func TestVersionsOf(t *testing.T) {
	groups := []*metav1.APIGroup{{Versions: []metav1.GroupVersionForDiscovery{{GroupVersion: "v1"}}}, {Versions: []metav1.GroupVersionForDiscovery{{GroupVersion: "down.example.org/v1"}}}}
	lists := []*metav1.APIResourceList{{GroupVersion: "v1", APIResources: []metav1.APIResource{{Kind: "Pod"}, {Name: "pods/status", Kind: "Pod"}}}}
	if got, want := versionsOf(groups, lists), []string{"down.example.org/v1", "v1", "v1/Pod"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// What holds values is no word, and no line of a key's armour.
func TestUnspeakable(t *testing.T) {
	got := unspeakable(map[string]string{"values.yaml": "replicas: 3\npassword: \"canary-4711\"\n", "token": "s3cr3t-token\n"})
	for _, want := range []string{"canary-4711", "s3cr3t-token"} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is not among %q", want, got)
		}
	}
	if slices.Contains(got, "3") {
		t.Errorf("a number would be taken out of every text: %q", got)
	}
}
