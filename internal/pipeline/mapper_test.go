package pipeline

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	fakediscovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes/fake"
)

// What a kind is, is known until Reset.
func TestMapperKeepsUntilReset(t *testing.T) {
	kube := fake.NewClientset()
	discovery := kube.Discovery().(*fakediscovery.FakeDiscovery)
	serve := func(namespaced bool) {
		discovery.Resources = []*metav1.APIResourceList{{GroupVersion: "example.org/v1", APIResources: []metav1.APIResource{{Name: "things", Kind: "Thing", Namespaced: namespaced}}}}
	}
	thing := schema.GroupKind{Group: "example.org", Kind: "Thing"}
	scope := func(m *mapper) meta.RESTScopeName {
		t.Helper()
		found, err := m.RESTMapping(thing, "v1")
		if err != nil {
			t.Fatal(err)
		}
		return found.Scope.Name()
	}
	serve(true)
	m := newMapper(kube)
	if got := scope(m); got != meta.RESTScopeNameNamespace {
		t.Errorf("it is %s", got)
	}
	kube.ClearActions()
	serve(false)
	if got := scope(m); got != meta.RESTScopeNameNamespace || len(kube.Actions()) > 0 {
		t.Errorf("it is %s after the questions %v; want what is known", got, kube.Actions())
	}
	m.Reset()
	if got := scope(m); got != meta.RESTScopeNameRoot {
		t.Errorf("it is %s after a reset", got)
	}
}
