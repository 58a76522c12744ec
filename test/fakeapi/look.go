package fakeapi

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Look calls f while nothing changes; it may use Object and Objects.
func (s *Server) Look(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Objects are the bytes of all stored objects of a namespace, in a stable order. It is for Look and Observe.
func (s *Server) Objects(namespace string) [][]byte {
	var out [][]byte
	for _, k := range kinds {
		var keys []types.NamespacedName
		for key := range s.objects[k] {
			if key.Namespace == namespace {
				keys = append(keys, key)
			}
		}
		slices.SortFunc(keys, func(a, b types.NamespacedName) int { return strings.Compare(a.Name, b.Name) })
		for _, key := range keys {
			out = append(out, s.objects[k][key].raw)
		}
	}
	return out
}

// Fields are the fields of an applied object, as the managedFields of whoever applies it name them.
func Fields(u *unstructured.Unstructured) *fieldpath.Set {
	v, err := converter.ObjectToTyped(u)
	if err != nil {
		panic(fmt.Sprintf("fakeapi: fields of %s %s: %v", u.GetKind(), u.GetName(), err)) // a kind that is not in the table
	}
	set, err := v.ToFieldSet()
	if err != nil {
		panic(fmt.Sprintf("fakeapi: fields of %s %s: %v", u.GetKind(), u.GetName(), err))
	}
	return set.Difference(identity)
}

// identity is what names an object; nobody owns that.
var identity = fieldpath.NewSet(fieldpath.MakePathOrDie("apiVersion"), fieldpath.MakePathOrDie("kind"), fieldpath.MakePathOrDie("metadata"),
	fieldpath.MakePathOrDie("metadata", "name"), fieldpath.MakePathOrDie("metadata", "namespace"))
