package fakeapi

import (
	"encoding/json"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
)

// discovery are the documents that say what is served, by their path.
var discovery = func() map[string][]byte {
	out := map[string][]byte{}
	add := func(path string, v any) {
		raw, err := json.Marshal(v)
		if err != nil {
			panic(fmt.Sprintf("fakeapi: discovery: %v", err)) // structs of texts
		}
		out[path] = raw
	}
	var versions []schema.GroupVersion
	resources := map[schema.GroupVersion][]metav1.APIResource{}
	for _, k := range kinds {
		gv := k.gvk.GroupVersion()
		if !slices.Contains(versions, gv) {
			versions = append(versions, gv)
		}
		r := metav1.APIResource{Name: k.plural, Kind: k.gvk.Kind, Namespaced: k.namespaced,
			Verbs: metav1.Verbs{"create", "delete", "get", "list", "patch", "update", "watch"}}
		resources[gv] = append(resources[gv], r)
		if k.status != nil {
			resources[gv] = append(resources[gv], metav1.APIResource{Name: k.plural + "/status", Kind: k.gvk.Kind, Namespaced: k.namespaced, Verbs: metav1.Verbs{"get", "patch", "update"}})
		}
	}
	groups := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	for _, gv := range versions {
		list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: gv.String(), APIResources: resources[gv]}
		if gv.Group == "" {
			add("/api/"+gv.Version, list)
			continue
		}
		add("/apis/"+gv.String(), list)
		v := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
		groups.Groups = append(groups.Groups, metav1.APIGroup{Name: gv.Group, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v})
	}
	add("/version", version.Info{Major: "1", Minor: "36", GitVersion: "v1.36.3"})
	add("/apis", groups)
	add("/api", metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions", APIVersion: "v1"}, Versions: []string{"v1"}})
	return out
}()
