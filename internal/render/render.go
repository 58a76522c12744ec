// Package render turns the files of a repository into the Kubernetes objects they stand for: plain YAML and
// JSON, a kustomization, or a Helm chart, found out from the files. It knows nothing of Git, of a cluster, of the
// network or of the clock.
//
// Rendering runs what strangers wrote, so it happens in worker processes (the program gitopsd-render, package
// worker), which this package starts, feeds and watches, and which it kills when they take too much time, memory
// or output. A worker opens no file: what it wants to read it asks its parent for, who answers from the fs.FS and
// keeps a list of everything that was read or looked for. Helm and Kustomize are linked by the worker only
// (package engine), never by whoever imports this package.
//
// The bytes of every object are those that kustomize build and helm template print; their order is this
// package's own and stable.
package render

import (
	"io/fs"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Kind says how the files were understood.
type Kind string

const (
	Plain     Kind = "Plain"     // YAML and JSON files of a folder and the folders below it, or a single file
	Kustomize Kind = "Kustomize" // a folder with kustomization.yaml, kustomization.yml or Kustomization
	Helm      Kind = "Helm"      // a folder with Chart.yaml
)

// Request is what to render.
type Request struct {
	FS   fs.FS  // the repository at a commit; never written to
	Path string // folder or file below its root; "" and "." are the root itself
	Options
}

// Options is what the Application says besides the files. It travels to the worker as JSON.
type Options struct {
	Kind      Kind        `json:"kind,omitempty"`      // "": found out
	Namespace string      `json:"namespace,omitempty"` // where the objects go; Helm's .Release.Namespace. It is not written into objects.
	Helm      HelmOptions `json:"helm,omitzero"`
}

// HelmOptions is what helm template takes as flags.
type HelmOptions struct {
	ReleaseName string         `json:"releaseName,omitempty"` // "": release-name, as helm template has it
	Namespace   string         `json:"namespace,omitempty"`   // "": that of Options, and then "default"
	ValuesFiles []string       `json:"valuesFiles,omitempty"` // relative to the chart, within the repository; the later wins
	Values      map[string]any `json:"values,omitempty"`      // wins over the files
	SkipCRDs    bool           `json:"skipCRDs,omitempty"`    // leave out the folder crds/
	KubeVersion string         `json:"kubeVersion,omitempty"` // .Capabilities.KubeVersion; "": the version this program was built for
	APIVersions []string       `json:"apiVersions,omitempty"` // added to .Capabilities.APIVersions
}

// Result is what the files stand for.
type Result struct {
	Kind    Kind
	Objects []Object // in the order of Arrange
	Inputs  Inputs   // everything the result depends on besides Options
}

// Object is one object of a Result.
type Object struct {
	YAML   []byte // as the tool prints it; ends in one newline
	Object *unstructured.Unstructured
	Origin string   // the file it came from; with ":line" where that is known
	Hooks  []string // Helm's hook events; empty for an ordinary object. Test hooks never leave this package.
}

// Raw is an object as an engine found it, before Arrange looked at it.
type Raw struct {
	YAML   []byte
	JSON   []byte // the same object
	Origin string
	Hooks  []string
}
