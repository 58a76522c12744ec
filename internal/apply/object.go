package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/gitopsd/gitopsd/internal/diff"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// Object is a desired object and the file it comes from.
type Object struct {
	*unstructured.Unstructured
	Origin string
}

// Ref names the object.
func (o Object) Ref() diff.Ref { return diff.RefOf(o.Unstructured) }

// Held is an object of the inventory: what an Application made, or was about to make when UID is empty.
type Held struct {
	Ref     diff.Ref
	Version string // of the API under which it was written
	UID     string
	// Finished of a Job that ended: how, and the hash of what was declared. It is not run again when it is gone.
	Finished string
}

// Target is an API as one Application may use it.
type Target struct {
	Dynamic dynamic.Interface
	Mapper  meta.ResettableRESTMapper
	// Kinds are all kinds that live in namespaces, as the API serves them now. nil: not known.
	Kinds func() ([]*metav1.APIResourceList, error)
	// Label and Owner mark every object: Label is the key, Owner this Application's value.
	Label, Owner string
	// OwnerName is the name of the Application that a label value stands for, or "": objects of one that is gone are
	// free.
	OwnerName func(owner string) string
	// Takes says whether an object may be taken over from the Application that a label value stands for; Spoken whether
	// another Application asks for an object, so that it is not pruned. nil: none.
	Takes  func(owner string, r diff.Ref) bool
	Spoken func(diff.Ref) bool
	// Vital says of an object that it is never deleted. nil: of none.
	Vital func(diff.Ref) bool
	// RefuseStrangers leaves objects that others made to them: one in the way is a refusal.
	RefuseStrangers bool
	// Ignored are fields that are left to others, and Scaled are workloads whose replicas are.
	Ignored []Ignored
	Scaled  *Scaled
	// Manager owns the declared fields.
	Manager string
	// Turn is the right to write; Maker is what creations are marked with.
	Turn  Turn
	Maker Maker
}

// mapping finds the resource of a kind; kinds that came into being since are found at the second try.
func (t Target) mapping(gk schema.GroupKind, version string) (*meta.RESTMapping, error) {
	m, err := t.Mapper.RESTMapping(gk, version)
	if meta.IsNoMatchError(err) {
		t.Mapper.Reset()
		m, err = t.Mapper.RESTMapping(gk, version)
	}
	return m, err
}

func (t Target) resource(m *meta.RESTMapping, namespace string) dynamic.ResourceInterface {
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		return t.Dynamic.Resource(m.Resource).Namespace(namespace)
	}
	return t.Dynamic.Resource(m.Resource)
}

// Place makes desired objects ready for the API: a namespace for those that need one and name none, none for those
// that are cluster-wide, and the owner's label. Kinds that the API does not know yet are taken as namespaced unless
// scopes, from the custom resource definitions of the same revision, say otherwise.
func (t Target) Place(objects []Object, namespaceOf func(schema.GroupKind) string) []Object {
	scopes := definedScopes(objects)
	out := make([]Object, 0, len(objects))
	for _, o := range objects {
		u := o.DeepCopy()
		gvk := u.GroupVersionKind()
		scope, known := scopes[gvk.GroupKind()]
		if m, err := t.mapping(gvk.GroupKind(), gvk.Version); err == nil {
			scope, known = m.Scope.Name(), true
		}
		switch {
		case known && scope == meta.RESTScopeNameRoot:
			u.SetNamespace("")
		case u.GetNamespace() == "":
			u.SetNamespace(namespaceOf(gvk.GroupKind()))
		}
		labels := u.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels[t.Label] = t.Owner
		u.SetLabels(labels)
		out = append(out, Object{u, o.Origin})
	}
	return out
}

// Knows says whether the API knows the kinds of all objects, so that where they go is certain.
func (t Target) Knows(objects []Object) bool {
	return !slices.ContainsFunc(objects, func(o Object) bool {
		gvk := o.GroupVersionKind()
		_, err := t.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		return err != nil
	})
}

// definedScopes are the kinds that custom resource definitions among the objects define.
func definedScopes(objects []Object) map[schema.GroupKind]meta.RESTScopeName {
	out := map[schema.GroupKind]meta.RESTScopeName{}
	for _, o := range objects {
		if o.GroupVersionKind().GroupKind() != crdKind {
			continue
		}
		group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
		scope, _, _ := unstructured.NestedString(o.Object, "spec", "scope")
		name := meta.RESTScopeNameNamespace
		if scope == "Cluster" {
			name = meta.RESTScopeNameRoot
		}
		out[schema.GroupKind{Group: group, Kind: kind}] = name
	}
	return out
}

// Digest of desired objects: equal when the cluster would be asked for the same.
func Digest(objects []Object) string {
	h := sha256.New()
	for _, o := range objects {
		h.Write([]byte(hash(o.Object)))
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// hash of a tree; JSON sorts the keys of maps.
func hash(v map[string]any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("object is not JSON: %v", err)) // it came from JSON
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
