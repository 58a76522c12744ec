package apply

import (
	"reflect"
	"testing"

	"github.com/gitopsd/gitopsd/internal/diff"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Objects and images come back as they were, integers as integers.
func TestContent(t *testing.T) {
	objects := []Object{
		{&unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "a"},
			"data": map[string]any{"k": "<line>\nand more"}}}, "a.yaml:1"},
		{&unstructured.Unstructured{Object: map[string]any{"kind": "X", "spec": map[string]any{"n": int64(9007199254740993), "f": 1.5, "l": []any{int64(1), true, nil}}}}, ""},
	}
	content, err := Encode(objects)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(content)
	if err != nil || !reflect.DeepEqual(got, objects) {
		t.Errorf("%v, %v", got, err)
	}
	if Digest(got) != Digest(objects) {
		t.Error("the digest is another one")
	}
	images := []Image{
		{Held: Held{Ref: diff.Ref{Kind: "ConfigMap", Name: "a"}, Version: "v1"}},
		{Held: Held{Ref: diff.Ref{Kind: "ConfigMap", Name: "b"}, Version: "v1", UID: "u"}, Object: objects[1].Object},
	}
	if content, err = EncodeImages(images); err != nil {
		t.Fatal(err)
	}
	back, err := DecodeImages(content)
	if err != nil || !reflect.DeepEqual(back, images) {
		t.Errorf("%v, %v", back, err)
	}
	if _, err := Decode([]byte("{\"object\":")); err == nil {
		t.Error("a torn content is read")
	}
	// What an object was before the first of several intents is what it was.
	later := []Image{{Held: Held{Ref: diff.Ref{Kind: "ConfigMap", Name: "a"}, UID: "later"}}, {Held: Held{Ref: diff.Ref{Kind: "ConfigMap", Name: "c"}}}}
	if u := Union(images, later); len(u) != 3 || u[0].Held.UID != "" || u[2].Held.Ref.Name != "c" {
		t.Errorf("union: %v", u)
	}
}
