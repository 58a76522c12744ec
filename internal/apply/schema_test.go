package apply

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/diff"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

func object(t *testing.T, origin, text string) Object {
	t.Helper()
	u := &unstructured.Unstructured{}
	b, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := u.UnmarshalJSON(b); err != nil {
		t.Fatal(err)
	}
	return Object{u, origin}
}

const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {kind: Widget, plural: widgets}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [size]
            x-kubernetes-validations: [{rule: "self.size <= self.max", message: size is over max}]
            properties:
              size: {type: integer, minimum: 1}
              max: {type: integer, default: 5}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
              names: {type: array, x-kubernetes-list-type: set, items: {type: string}}
          status: {type: object, properties: {n: {type: integer}}}
  - {name: v2, served: false, storage: false, schema: {openAPIV3Schema: {type: object}}}
`

// A custom resource is checked as the API would by the definition of the same revision, and everything is told at once.
func TestDefinitionChecksItsObjects(t *testing.T) {
	gk, d := defined(object(t, "crd.yaml:1", widgets))
	if gk != (schema.GroupKind{Group: "example.org", Kind: "Widget"}) || d == nil {
		t.Fatalf("%v, %v", gk, d)
	}
	for name, c := range map[string]struct {
		version, rest string
		there         bool
		wrong         []string
	}{
		"good":                       {"v1", "spec: {size: 3, free: {a: {b: 1}}, names: [a, b]}", false, nil},
		"defaults count":             {"v1", "spec: {size: 6}", false, []string{"spec: Invalid value", "size is over max"}},
		"every error at once":        {"v1", "spec: {size: big, color: red, names: [a, a]}\nmore: 1", false, []string{`unknown field "spec.color"`, `unknown field "more"`, "spec.size", "spec.names[1]: Duplicate value"}},
		"what is required":           {"v1", "spec: {}", false, []string{"spec.size: Required value"}},
		"others may have set it":     {"v1", "spec: {max: 3}", true, nil},
		"but not what is not known":  {"v1", "spec: {color: red}", true, []string{`unknown field "spec.color"`}},
		"metadata too":               {"v1", "metadata: {name: w, label: {}}\nspec: {size: 1}", false, []string{`unknown field "metadata.label"`}},
		"status is not made":         {"v1", "spec: {size: 1}\nstatus: {n: 1}", false, nil},
		"a version that is not here": {"v2", "spec: {size: 1}", false, []string{"it serves no version v2"}},
	} {
		err := d.check(context.Background(), object(t, "w.yaml:1", "apiVersion: example.org/"+c.version+"\nkind: Widget\n"+c.rest+"\n"), c.there)
		if (err == nil) != (c.wrong == nil) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, w := range append(c.wrong, "crd.yaml:1") {
			if err != nil && !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v does not say %s", name, err, w)
			}
		}
		if err != nil && Transient(err) {
			t.Errorf("%s: would be tried again", name)
		}
	}
	if _, d := defined(object(t, "", "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nspec: {versions: {}}\n")); d != nil {
		t.Error("a definition that is none is read")
	}
}

// What stands on something that the revision itself brings is not judged by an API that has not got it yet.
func TestExcuses(t *testing.T) {
	role := object(t, "", "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: r, namespace: n}\n")
	binding := func(kind, name string) Object {
		return object(t, "", "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: b, namespace: n}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: "+kind+", name: "+name+"}\n")
	}
	crd, widget := object(t, "", widgets), object(t, "", "apiVersion: example.org/v1\nkind: Widget\nmetadata: {name: w, namespace: n}\n")
	absent := apierrors.NewNotFound(schema.GroupResource{Group: roleKind.Group, Resource: "roles"}, "r")
	strict, forbidden := apierrors.NewBadRequest("strict decoding error"), apierrors.NewForbidden(schema.GroupResource{}, "w", nil)
	made := madeHere([]Object{role, crd})
	made.define([]Object{role, crd}, []answer{{}, {change: diff.Change{Action: diff.Update}}})
	same := madeHere([]Object{crd})
	same.define([]Object{crd}, []answer{{change: diff.Change{Action: diff.Unchanged}}})
	for name, c := range map[string]struct {
		made    provisions
		o       Object
		err     error
		excused bool
	}{
		"a new role is bound":          {made, binding("Role", "r"), absent, true},
		"another role":                 {made, binding("Role", "other"), absent, false},
		"a cluster role of the name":   {made, binding("ClusterRole", "r"), absent, false},
		"who may not bind at all":      {made, binding("Role", "r"), forbidden, false},
		"a kind that changes":          {made, widget, strict, true},
		"a field that it has not":      {made, widget, &apierrors.StatusError{ErrStatus: metav1.Status{Code: 500, Message: ".spec.color: field not declared in schema"}}, true},
		"its namespace is not there":   {made, widget, apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "n"), false},
		"an API that is away":          {made, widget, apierrors.NewServiceUnavailable("away"), false},
		"who may not write it":         {made, widget, forbidden, false},
		"a kind that stays as it is":   {same, widget, strict, false},
		"no error":                     {made, widget, nil, false},
		"what stands on nothing of it": {made, role, absent, false},
	} {
		if why := c.made.excuses(c.o, nil, c.err); (why != "") != c.excused {
			t.Errorf("%s: %q", name, why)
		}
	}
	gone := apierrors.NewGenericServerResponse(404, "GET", schema.GroupResource{}, "w", "404 page not found", 0, true)
	if !noSuchPage(gone) || noSuchPage(absent) {
		t.Error("a kind that is gone is one that the API knows no page of")
	}
	inVain := errors.New("failed to prune fields: failed to convert merged object to last applied version: .spec.color: field not declared in schema")
	if why := same.excuses(widget, widget.Unstructured, inVain); why != appliedBefore {
		t.Errorf("a field that the version of before does not know: %q", why)
	}
	if stageOf(roleKind) >= stageOf(roleBindingKind) || stageOf(clusterRoleKind) >= stageOf(clusterRoleBindingKind) {
		t.Error("bindings are written with their roles, or before them")
	}
}
