package render

import (
	"bytes"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
)

func itoa(n int) string { return strconv.Itoa(n) }

// kindOrder puts first what others need. It is Helm's install order (pkg/releaseutil) with cluster-wide things
// in front; kinds that are not listed come after those that are, by name.
var kindOrder = rank("Namespace", "CustomResourceDefinition", "PriorityClass", "NetworkPolicy", "ResourceQuota", "LimitRange",
	"PodSecurityPolicy", "PodDisruptionBudget", "ServiceAccount", "Secret", "SecretList", "ConfigMap", "StorageClass",
	"PersistentVolume", "PersistentVolumeClaim", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service",
	"DaemonSet", "Pod", "ReplicationController", "ReplicaSet", "Deployment", "HorizontalPodAutoscaler", "StatefulSet", "Job",
	"CronJob", "IngressClass", "Ingress", "APIService", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")

func rank(kinds ...string) map[string]int {
	m := make(map[string]int, len(kinds))
	for i, k := range kinds {
		m[k] = i + 1
	}
	return m
}

// Arrange makes objects of raw ones: each must have apiVersion, kind and name, and none may be there twice. The
// order depends on the objects only, never on the order of files: by kind, then group, namespace and name.
func Arrange(raw []Raw) ([]Object, error) {
	objects := make([]Object, 0, len(raw))
	first := make(map[string]string, len(raw))
	for _, r := range raw {
		o, err := decode(r)
		if err != nil {
			return nil, err
		}
		key := identity(o)
		if before, ok := first[key]; ok {
			return nil, &Error{Class: ErrInvalid, File: fileOf(r.Origin), Line: lineOf(r.Origin), Object: Name(o.Object),
				Text: "declared twice, first in " + before, Next: "remove one of the two"}
		}
		first[key] = r.Origin
		objects = append(objects, o)
	}
	sort.SliceStable(objects, func(i, j int) bool { return less(objects[i], objects[j]) })
	return objects, nil
}

func decode(r Raw) (Object, error) {
	bad := func(text, next string) error {
		return &Error{Class: ErrInvalid, File: fileOf(r.Origin), Line: lineOf(r.Origin), Text: text, Next: next}
	}
	var content map[string]any
	if err := json.Unmarshal(r.JSON, &content); err != nil || content == nil {
		return Object{}, bad("the document is no object", "a manifest is a map with apiVersion, kind and metadata")
	}
	u := &unstructured.Unstructured{Object: content}
	if text, next := lacks(u); text != "" {
		return Object{}, bad(text, next)
	}
	return Object{YAML: slices.Concat(bytes.TrimRight(r.YAML, "\n"), []byte("\n")), Object: u, Origin: r.Origin, Hooks: r.Hooks}, nil
}

// lacks says what is missing for an object to have an identity.
func lacks(u *unstructured.Unstructured) (text, next string) {
	missing := func(field string) (string, string) {
		what := "the object has no " + field
		if n := u.GetName(); n != "" {
			what = strconv.Quote(n) + " has no " + field
		}
		return what, "add it, or take the file out of the path if it is no manifest"
	}
	for _, field := range []string{"apiVersion", "kind"} {
		if s, ok, err := unstructured.NestedString(u.Object, field); err != nil || !ok || s == "" {
			return missing(field)
		}
	}
	meta, ok := u.Object["metadata"].(map[string]any)
	if !ok {
		return u.GetKind() + " has no metadata", "add metadata.name"
	}
	if s, _ := meta["generateName"].(string); s != "" {
		return u.GetKind() + " has a generateName, so every sync would make a new one", "give it a name"
	}
	for _, field := range []string{"name", "namespace"} {
		v, there := meta[field]
		if _, isText := v.(string); there && !isText && v != nil {
			return fmt.Sprintf("%s has a metadata.%s that is no text", u.GetKind(), field), "put it in quotes"
		}
	}
	if u.GetName() == "" {
		return u.GetKind() + " has no metadata.name", "give it a name"
	}
	return "", ""
}

// identity is what the API server goes by, except the version: two versions of one object are one object. A hook
// and an object may share a name, as they do not exist at the same time.
func identity(o Object) string {
	gvk := o.Object.GroupVersionKind()
	return strings.Join([]string{gvk.Group, gvk.Kind, o.Object.GetNamespace(), o.Object.GetName(), strings.Join(o.Hooks, ",")}, "\x00")
}

// Name is how an object is called in messages.
func Name(u *unstructured.Unstructured) string {
	if ns := u.GetNamespace(); ns != "" {
		return u.GetKind() + " " + ns + "/" + u.GetName()
	}
	return u.GetKind() + " " + u.GetName()
}

func less(a, b Object) bool {
	place := func(o Object) int {
		if n := kindOrder[o.Object.GetKind()]; n > 0 {
			return n
		}
		return len(kindOrder) + 1
	}
	if pa, pb := place(a), place(b); pa != pb {
		return pa < pb
	}
	ga, gb := a.Object.GroupVersionKind(), b.Object.GroupVersionKind()
	for _, pair := range [][2]string{
		{ga.Kind, gb.Kind}, {ga.Group, gb.Group},
		{a.Object.GetNamespace(), b.Object.GetNamespace()}, {a.Object.GetName(), b.Object.GetName()},
	} {
		if pair[0] != pair[1] {
			return pair[0] < pair[1]
		}
	}
	return len(a.Hooks) < len(b.Hooks)
}

// fileOf and lineOf take an Origin apart.
func fileOf(origin string) string {
	if f, n, ok := cutLine(origin); ok && n > 0 {
		return f
	}
	return origin
}

func lineOf(origin string) int {
	_, n, _ := cutLine(origin)
	return n
}

func cutLine(origin string) (string, int, bool) {
	i := strings.LastIndexByte(origin, ':')
	if i < 0 {
		return origin, 0, false
	}
	n, err := strconv.Atoi(origin[i+1:])
	return origin[:i], n, err == nil
}
