package diff

import (
	"fmt"
	"slices"
	"strings"
)

// key is the fields by which Kubernetes tells the items of a list apart. The first has to be there, the others may be
// absent: they have a default.
type key []string

// keys are tried in this order. Those of lists called ports come first for these, because a name is no key there: two
// ports may have one number and two protocols.
var (
	portKeys = []key{{"containerPort", "protocol"}, {"port", "protocol"}}
	keys     = append([]key{{"name"}, {"name", "namespace", "kind"}, {"mountPath"}, {"devicePath"}, {"key"}, {"ip"}, {"type"},
		{"topologyKey", "whenUnsatisfiable"}, {"uid"}, {"host"}, {"path", "pathType"}}, portKeys...)
)

// mergeKey is the first key that every item of both lists has and that no two of one list share; nil when there is none.
func mergeKey(path string, old, new []any) key {
	try := keys
	if strings.HasSuffix(path, ".ports") {
		try = append(slices.Clone(portKeys), keys...)
	}
	for _, k := range try {
		if len(old)+len(new) > 0 && k.fits(old) && k.fits(new) {
			return k
		}
	}
	return nil
}

func (k key) fits(list []any) bool {
	seen := map[string]bool{}
	for _, item := range list {
		m, ok := item.(map[string]any)
		if !ok || m[k[0]] == nil {
			return false
		}
		for _, part := range k {
			if !scalar(m[part]) {
				return false
			}
		}
		id := k.of(item)
		if seen[id] {
			return false
		}
		seen[id] = true
	}
	return true
}

// of is the key of an item, as text that tells 80 from "80".
func (k key) of(item any) string {
	m := item.(map[string]any)
	var b strings.Builder
	for _, part := range k {
		fmt.Fprintf(&b, "%T %[1]v\x00", m[part])
	}
	return b.String()
}

// labels says how items are called in a path: by the first field of the key alone where that is enough.
func (k key) labels(lists ...[]any) func(item any) string {
	ids := map[any]string{}
	parts := k[:1]
	for _, list := range lists {
		for _, item := range list {
			first, id := item.(map[string]any)[k[0]], k.of(item)
			if other, seen := ids[first]; seen && other != id {
				parts = k
			}
			ids[first] = id
		}
	}
	return func(item any) string {
		var out []string
		for _, part := range parts {
			if v := item.(map[string]any)[part]; v != nil {
				out = append(out, fmt.Sprintf("%s=%v", part, v))
			}
		}
		return printable(strings.Join(out, ","))
	}
}

func scalar(v any) bool {
	switch v.(type) {
	case nil, string, int64, float64, bool:
		return true
	}
	return false
}

// orderFree are lists, by their last step, of which Kubernetes says that the order means nothing. In those of other
// kinds it may: a list of steps is run from the first to the last.
var orderFree = map[string]bool{
	"containers": true, "ephemeralContainers": true, "ports": true, "volumes": true, "volumeMounts": true, "volumeDevices": true,
	"imagePullSecrets": true, "secrets": true, "hostAliases": true, "topologySpreadConstraints": true, "subjects": true,
	"ownerReferences": true, "tolerations": true, "items": true, "versions": true,
}

// ordered says whether another order of a list's items is a change. Of variables it is where one speaks of another.
func ordered(path string, lists ...[]any) bool {
	name := path[strings.LastIndexByte(path, '.')+1:]
	if name != "env" {
		return !orderFree[name]
	}
	for _, list := range lists {
		for _, item := range list {
			if v, _ := item.(map[string]any)["value"].(string); strings.Contains(v, "$(") {
				return true
			}
		}
	}
	return false
}

// inOrder are the keys of the items of a list that the other one has too.
func inOrder(k key, list, other []any) []string {
	there := map[string]bool{}
	for _, item := range other {
		there[k.of(item)] = true
	}
	var out []string
	for _, item := range list {
		if there[k.of(item)] {
			out = append(out, fmt.Sprint(item.(map[string]any)[k[0]]))
		}
	}
	return out
}

// asSet says whether lists are of texts whose order means nothing: finalizers, access modes, and what rules list.
func asSet(path string, lists ...[]any) bool {
	name := path[strings.LastIndexByte(path, '.')+1:]
	switch name {
	case "finalizers", "accessModes":
	case "verbs", "apiGroups", "apiVersions", "resources", "resourceNames", "nonResourceURLs", "operations":
		if !strings.Contains(path, "ules[") {
			return false
		}
	default:
		return false
	}
	for _, list := range lists {
		seen := map[any]bool{}
		for _, v := range list {
			if _, isText := v.(string); !isText || seen[v] {
				return false
			}
			seen[v] = true
		}
	}
	return true
}
