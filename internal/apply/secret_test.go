package apply

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func TestCheckSecretNamesThePlaceAndNeverTheValue(t *testing.T) {
	for text, want := range map[string]string{
		"stringData: {k: canary}":                            "",
		"data: {k: Y2FuYXJ5}\ntype: Opaque\nimmutable: true": "",
		"data: null":                "",
		"stringData: {k: [canary]}": "stringData.k is no text",
		"stringData: {k: 7}":        "stringData.k is no text",
		"stringData: canary":        "stringData is no map",
		"data: {k: canary!}":        "data.k is not base64",
		"strngData: {k: canary}":    `no field "strngData"`,
		"type: {canary: canary}":    "type has the wrong type",
		"immutable: canary":         "immutable has the wrong type",
	} {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n"+text), &u.Object); err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := checkSecret(u); err != nil {
			got = err.Error()
		}
		if (want == "") != (got == "") || !strings.Contains(got, want) || strings.Contains(got, "canary") {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	other := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.org/v1", "kind": "Secret", "spec": 7}}
	if err := checkSecret(other); err != nil {
		t.Errorf("a Secret of another group: %v", err)
	}
}
