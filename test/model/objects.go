package model

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing/fstest"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// resources of the kinds that histories have, by the first part of an object's name.
var resources = map[string]struct{ apiVersion, kind, plural string }{
	"cm":     {"v1", "ConfigMap", "configmaps"},
	"secret": {"v1", "Secret", "secrets"},
	"svc":    {"v1", "Service", "services"},
	"deploy": {"apps/v1", "Deployment", "deployments"},
}

// refuse in a value makes that the object is refused when it is written, but not by a dry-run: as a quota that adds up is.
const refuse = "refuse"

// invalid as a value makes that every dry-run refuses the object.
const invalid = "invalid"

// objectOf is a declared object. Its value is an image for a Deployment and text for the others.
func objectOf(key, value string) *unstructured.Unstructured {
	kind, name, _ := strings.Cut(key, "/")
	r := resources[kind]
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": r.apiVersion, "kind": r.kind, "metadata": map[string]any{"name": name}}}
	switch kind {
	case "cm":
		u.Object["data"] = map[string]any{"k": value}
		if value == invalid {
			u.Object["data"] = map[string]any{"no/key": value}
		}
	case "secret":
		u.Object["stringData"] = map[string]any{"k": value}
		if strings.HasSuffix(value, "1") { // both ways of spelling one
			u.Object["stringData"] = nil
			delete(u.Object, "stringData")
			u.Object["data"] = map[string]any{"k": "djE="}
		}
	case "svc":
		u.Object["spec"] = map[string]any{"selector": map[string]any{"app": value}, "ports": []any{map[string]any{"port": int64(80)}}}
	case "deploy":
		labels := map[string]any{"app": name}
		u.Object["spec"] = map[string]any{"selector": map[string]any{"matchLabels": labels}, "template": map[string]any{
			"metadata": map[string]any{"labels": labels},
			"spec":     map[string]any{"containers": []any{map[string]any{"name": "c", "image": value}}}}}
	}
	return u
}

// runs says whether the pods of an image become ready; late ones do from some moment on.
func runs(image string, late bool) bool {
	return strings.HasPrefix(image, "good") || late && strings.HasPrefix(image, "late")
}

// commit is one commit of the repository, and the files of it.
type commit struct {
	name    string
	objects Objects
	broken  bool
}

// nameFile is the one file of a commit: it holds its name, by which the renderer here finds what it declares.
const nameFile = "commit"

// Open makes a commit the fs.FS of its snapshot.
func (c *commit) Open(name string) (fs.File, error) {
	return fstest.MapFS{nameFile: {Data: []byte(c.name)}}.Open(name)
}

func commitName(namespace string, n int) string {
	sum := sha1.Sum(fmt.Appendf(nil, "%s/%d", namespace, n))
	return hex.EncodeToString(sum[:])
}

func (c *commit) keys() []string { return slices.Sorted(maps.Keys(c.objects)) }

// good says that every object is taken and becomes healthy.
func (c *commit) good() bool {
	for key, value := range c.objects {
		if value == invalid || strings.HasPrefix(value, refuse) || strings.HasPrefix(key, "deploy/") && !runs(value, true) {
			return false
		}
	}
	return true
}

func base64Of(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
