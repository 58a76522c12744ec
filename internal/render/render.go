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
	"context"
	"encoding/json"
	"io/fs"
	"strings"

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
	Lookup Lookup // answers a chart's questions about the cluster; nil: there is none to ask

	// The rest is for who keeps results. Scope is who may share them: within it, the same options over the same files are the
	// same result.
	Scope string
	// Owner is whose release it is: a result of charts is found again by its owner alone.
	Owner string
	// Earlier are the revisions of the release, Helm.Revision besides, of which a result is as good, the best first.
	Earlier []int64
}

// Options is what the Application says besides the files. It travels to the worker as JSON.
type Options struct {
	Kind      Kind        `json:"kind,omitempty"`      // "": found out
	Namespace string      `json:"namespace,omitempty"` // where the objects go; Helm's .Release.Namespace. It is not written into objects.
	Helm      HelmOptions `json:"helm,omitzero"`
	Decrypt   *Keys       `json:"decrypt,omitempty"` // nil: encrypted files are not decrypted
}

// Keys open files that SOPS encrypted.
type Keys struct {
	Age []string `json:"age,omitempty"` // key files as age-keygen writes them
	PGP []string `json:"pgp,omitempty"` // private keys, armored or not
}

// HelmOptions is what helm template takes as flags.
type HelmOptions struct {
	ReleaseName string         `json:"releaseName,omitempty"` // "": release-name, as helm template has it
	Namespace   string         `json:"namespace,omitempty"`   // "": that of Options, and then "default"
	ValuesFiles []string       `json:"valuesFiles,omitempty"` // relative to the chart, within the repository; the later wins
	Values      map[string]any `json:"values,omitempty"`      // wins over the files
	SkipCRDs    bool           `json:"skipCRDs,omitempty"`    // leave out the folder crds/
	KubeVersion string         `json:"kubeVersion,omitempty"` // .Capabilities.KubeVersion; "": the cluster's
	APIVersions []string       `json:"apiVersions,omitempty"` // added to .Capabilities.APIVersions

	Layers                   []ValuesLayer `json:"layers,omitempty"`                   // over the files, the later over the earlier; Values win over them
	IgnoreMissingValuesFiles bool          `json:"ignoreMissingValuesFiles,omitempty"` // otherwise they are an error

	Upgrade  bool       `json:"upgrade,omitempty"`  // .Release.IsUpgrade; otherwise .Release.IsInstall
	Revision int64      `json:"revision,omitempty"` // .Release.Revision; 0: 1
	Cluster  Cluster    `json:"cluster,omitzero"`
	Lookup   LookupMode `json:"lookup,omitempty"` // what the function lookup gives; "": LookupEmpty
}

// ValuesLayer are values that come from neither files nor the Application.
type ValuesLayer struct {
	Name   string `json:"name"`             // where it comes from, for messages: ConfigMap web/settings, key values.yaml
	Values string `json:"values"`           // YAML, or the one value that goes to Target
	Target string `json:"target,omitempty"` // as in helm --set: a.b[0].c; "": Values is a map
	Secret bool   `json:"secret,omitempty"` // no value of it may be in an error
}

// Cluster is where the objects go, as charts see it.
type Cluster struct {
	KubeVersion string   `json:"kubeVersion,omitempty"` // "": the version this program was built for
	APIVersions []string `json:"apiVersions,omitempty"` // all of .Capabilities.APIVersions; nil: those this program was built with
}

// LookupMode is what Helm's function lookup does.
type LookupMode string

const (
	LookupEmpty   LookupMode = "Empty"   // it finds nothing, as in helm template
	LookupCluster LookupMode = "Cluster" // it asks the cluster, as in helm install
	LookupRefuse  LookupMode = "Refuse"  // a chart that calls it fails
)

// LookupQuestion is one call of lookup. An empty Name asks for a list, an empty Namespace for all namespaces.
type LookupQuestion struct {
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name,omitempty"`
}

func (q LookupQuestion) String() string {
	return strings.Join([]string{q.APIVersion, q.Kind, q.Namespace, q.Name}, " ")
}

// Lookup answers with an object, or a list, as JSON; nil when there is none.
type Lookup func(context.Context, LookupQuestion) ([]byte, error)

// Result is what the files stand for.
type Result struct {
	Kind     Kind
	Objects  []Object // in the order of Arrange
	Inputs   Inputs   // everything the result depends on besides Options
	Revision int64    // that it was rendered for; 0 where no chart was
	Release  *Release // of a chart; nil otherwise
	// Charts says that a chart was rendered, be it for a kustomization: what came out may depend on the revision of the release, on the cluster and on dice.
	Charts bool
}

// Release is what Helm keeps of a chart besides its objects.
type Release struct {
	Chart  json.RawMessage `json:"chart"`  // its metadata, as in Chart.yaml
	Values json.RawMessage `json:"values"` // what was given besides the chart's own: helm get values
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
