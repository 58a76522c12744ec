package apply

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"

	"github.com/gitopsd/gitopsd/internal/diff"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// checkSecret refuses a Secret of the wrong shape before it is sent: the API quotes what it cannot read in its errors,
// and writes these into its own log and audit log. What is wrong is named by its place, never by its value.
func checkSecret(u *unstructured.Unstructured) error {
	if diff.RefOf(u).GroupKind() != secretKind {
		return nil
	}
	for _, field := range slices.Sorted(maps.Keys(u.Object)) {
		value := u.Object[field]
		ok := true
		switch field {
		case "apiVersion", "kind", "metadata":
		case "type":
			_, ok = value.(string)
		case "immutable":
			_, ok = value.(bool)
		case "data", "stringData":
			if err := checkSecretData(field, value); err != nil {
				return err
			}
		default:
			return fmt.Errorf("a Secret has no field %q; its values belong into data or stringData", field)
		}
		if !ok {
			return fmt.Errorf("%s has the wrong type; mend it", field)
		}
	}
	return nil
}

func checkSecretData(field string, value any) error {
	m, ok := value.(map[string]any)
	if !ok && value != nil {
		return fmt.Errorf("%s is no map of keys to texts; mend it", field)
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		text, ok := m[key].(string)
		if !ok && m[key] != nil {
			return fmt.Errorf("%s.%s is no text; put it in quotes", field, key)
		}
		if _, err := base64.StdEncoding.DecodeString(text); field == "data" && err != nil {
			return fmt.Errorf("data.%s is not base64; encode it, or move it to stringData", key)
		}
	}
	return nil
}
