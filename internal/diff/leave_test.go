package diff

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestLeave(t *testing.T) {
	const desired = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {replicas: 1, template: {spec: {
		containers: [{name: c, image: one, args: [x], resources: {limits: {cpu: "1"}}}, {name: d, image: one}], volumes: [{name: v, emptyDir: {}}]}}}}`
	const live = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, managedFields: [
		{manager: gitopsd, operation: Apply, apiVersion: apps/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {OWN "f:template": {"f:spec": {"f:containers": {
			'k:{"name":"c"}': {".": {}, "f:name": {}, "f:args": {}, "f:image": {}}}}}}}},
		{manager: hand, operation: Update, apiVersion: apps/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {
			'k:{"name":"c"}': {"f:image": {}, "f:resources": {"f:limits": {"f:cpu": {}}}}}}}}}}]},
		spec: {replicas: 3, template: {spec: {containers: [{name: new}, {name: c, image: two, args: [z], resources: {limits: {cpu: "2"}}}]}}}}`
	ours := `"f:replicas": {},`
	for name, c := range map[string]struct {
		own      string
		pointers []string
		managers []string
		change   func(spec map[string]any)
		left     []string
	}{
		"a field of somebody else is left out":  {"", []string{"/spec/replicas"}, nil, func(s map[string]any) { delete(s, "replicas") }, []string{".spec.replicas"}},
		"one that is ours keeps its value":      {ours, []string{"/spec/replicas"}, nil, func(s map[string]any) { s["replicas"] = 3.0 }, []string{".spec.replicas"}},
		"one that nobody declares is no matter": {"", []string{"/spec/paused", "/spec/strategy/type"}, nil, nil, nil},
		"items by their place in the manifest":  {"", []string{"/spec/template/spec/containers/0/resources"}, nil, func(s map[string]any) { delete(container(s, 0), "resources") }, []string{".spec.template.spec.containers[0].resources"}},
		"what is empty then goes too":           {"", []string{"/spec/template/spec/containers/*/resources/limits/cpu"}, nil, func(s map[string]any) { delete(container(s, 0), "resources") }, []string{".spec.template.spec.containers[0].resources.limits.cpu"}},
		"what was empty stays":                  {"", []string{"/spec/template/spec/volumes/*/emptyDir/sizeLimit"}, nil, nil, nil},
		"inside of what is ours as one":         {"", []string{"/spec/template/spec/containers/*/args"}, nil, func(s map[string]any) { container(s, 0)["args"] = []any{"z"} }, []string{".spec.template.spec.containers[0].args"}},
		"what a manager owns, with us or alone": {"", nil, []string{"hand"}, func(s map[string]any) {
			delete(s, "replicas")
			delete(container(s, 0), "resources")
			container(s, 0)["image"] = "two"
		}, []string{".spec.replicas", `.spec.template.spec.containers[name="c"].image`, `.spec.template.spec.containers[name="c"].resources.limits.cpu`}},
		"what another manager owns is not left": {"", nil, []string{"other"}, nil, nil},
		"several pointers":                      {ours, []string{"/spec/replicas", "/spec/template/spec/containers/1/image"}, nil, func(s map[string]any) { s["replicas"] = 3.0; delete(container(s, 1), "image") }, []string{".spec.replicas", ".spec.template.spec.containers[1].image"}},
	} {
		want := parse(t, desired)
		if c.change != nil {
			c.change(want.Object["spec"].(map[string]any))
		}
		var pointers []Pointer
		for _, text := range c.pointers {
			p, err := ParsePointer(text)
			if err != nil {
				t.Fatal(err)
			}
			pointers = append(pointers, p)
		}
		asked := parse(t, desired)
		got, left := Leave(asked, parse(t, strings.Replace(live, "OWN", c.own, 1)), "gitopsd", pointers, c.managers)
		if !reflect.DeepEqual(got.Object, want.Object) {
			t.Errorf("%s:\n got %v\nwant %v", name, got.Object, want.Object)
		}
		if !slices.Equal(left, c.left) {
			t.Errorf("%s: left %q, want %q", name, left, c.left)
		}
		if !reflect.DeepEqual(asked, parse(t, desired)) {
			t.Errorf("%s: the desired object was changed", name)
		}
	}
}

func container(spec map[string]any, n int) map[string]any {
	list, _, _ := unstructured.NestedFieldNoCopy(spec, "template", "spec", "containers")
	return list.([]any)[n].(map[string]any)
}

func TestParsePointer(t *testing.T) {
	for text, good := range map[string]bool{"/spec/replicas": true, "/metadata/annotations/example.org~1x": true, "/data/*": true,
		"spec/replicas": false, "": false, "/": false, "/metadata": false, "/metadata/name": false, "/kind": false, "/*": false,
		"/metadata/labels": false, "/metadata/labels/gitopsd.io~1application": false, "/metadata/labels/a~2b": false} {
		if _, err := ParsePointer(text); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
	}
	if p, _ := ParsePointer("/metadata/annotations/example.org~1x~0y"); !slices.Equal(p, Pointer{"metadata", "annotations", "example.org/x~y"}) {
		t.Errorf("%q", p)
	}
}
