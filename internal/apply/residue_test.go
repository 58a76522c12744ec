package apply

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// What Kubernetes puts into each namespace, what goes, and what goes with an owner that is gone is no content.
func TestAnyLasts(t *testing.T) {
	namespaced := map[schema.GroupVersionKind]bool{{Group: "apps", Version: "v1", Kind: "Deployment"}: true, {Group: "apps", Version: "v1", Kind: "ReplicaSet"}: true}
	made := func(more string) unstructured.Unstructured { return *object(t, "", more).Unstructured }
	replicaSet := "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: rs, uid: rs, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: d, uid: d}]}\n"
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: p, uid: p, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: rs, uid: rs}]}\n"
	for name, c := range map[string]struct {
		objects []string
		lasts   bool
	}{
		"nothing": {nil, false},
		"what every namespace has": {[]string{"apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default, uid: a}\n", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kube-root-ca.crt, uid: b}\n",
			"apiVersion: events.k8s.io/v1\nkind: Event\nmetadata: {name: e, uid: e}\n"}, false},
		"somebody's":             {[]string{"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: theirs, uid: a}\n"}, true},
		"another account":        {[]string{"apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: builder, uid: a}\n"}, true},
		"on its way":             {[]string{"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, uid: a, deletionTimestamp: \"2026-01-01T00:00:00Z\"}\n"}, false},
		"below what is gone":     {[]string{replicaSet, pod}, false},
		"below what is there":    {[]string{replicaSet, pod, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, uid: d}\n"}, true},
		"below what nobody sees": {[]string{"apiVersion: v1\nkind: Pod\nmetadata: {name: p, uid: p, ownerReferences: [{apiVersion: v1, kind: Node, name: n, uid: n}]}\n"}, true},
		"what is only computed":  {[]string{"apiVersion: metrics.k8s.io/v1beta1\nkind: PodMetrics\nmetadata: {name: p}\n"}, false},
		"a circle":               {[]string{"apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: a, uid: a, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: a, uid: a}]}\n"}, true},
	} {
		var objects []unstructured.Unstructured
		for _, text := range c.objects {
			objects = append(objects, made(text))
		}
		if got := anyLasts(objects, namespaced); got != c.lasts {
			t.Errorf("%s: %v", name, got)
		}
	}
}
