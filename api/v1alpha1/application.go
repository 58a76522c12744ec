package v1alpha1

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Application says which path of which Git repository is to run where, and its status says how far that is true.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=app;apps,categories=gitopsd
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Health",type=string,JSONPath=`.status.health`
// +kubebuilder:printcolumn:name="Applied",type=string,JSONPath=`.status.appliedRevision.commit`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Application struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ApplicationSpec   `json:"spec"`
	Status ApplicationStatus `json:"status,omitempty"`
}

// ApplicationList is a list of Applications.
//
// +kubebuilder:object:root=true
type ApplicationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Application `json:"items"`
}

// ApplicationSpec is written by people, through Git or by hand.
type ApplicationSpec struct {
	// Source is where the manifests come from.
	Source Source `json:"source"`
	// Render says how to render what the path holds. Absent: found out from the files (a kustomization, a chart, or
	// plain manifests).
	// +optional
	Render *Render `json:"render,omitempty"`
	// Destination is where the objects go.
	// +optional
	Destination Destination `json:"destination,omitempty"`
	// DependsOn names Applications of the same namespace that have to be applied and healthy before this one is synced.
	// +optional
	DependsOn []Dependency `json:"dependsOn,omitempty"`
	// Sync says what the engine may do by itself.
	// +kubebuilder:default={}
	// +optional
	Sync SyncPolicy `json:"sync,omitempty"`
	// Ignore lists fields that are left to others.
	// +listType=atomic
	// +optional
	Ignore []Ignored `json:"ignore,omitempty"`
	// Health says when objects are well, for kinds of which the engine does not know.
	// +optional
	Health HealthPolicy `json:"health,omitempty"`
}

// Source is a path at a ref of a repository.
type Source struct {
	// Repo is the URL of the Git repository (https, http, ssh or file, or user@host:path), of an artifact of a registry
	// (oci://host/repository), or, with Chart, of a Helm repository (https or http) or of a registry's folder (oci).
	// +kubebuilder:validation:MinLength=1
	Repo string `json:"repo"`
	// Chart is the name of a chart in the Helm repository or registry at Repo; its files are what is read then. Absent: what is at
	// Repo itself.
	// +kubebuilder:validation:MaxLength=250
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9][-A-Za-z0-9._]*$`
	// +optional
	Chart string `json:"chart,omitempty"`
	// Ref is what to follow. Absent: the default branch of a Git repository, the tag latest of an artifact, the highest version of
	// a chart that is no pre-release.
	// +optional
	Ref Ref `json:"ref,omitempty"`
	// Path is the folder inside the repository. Absent: its root.
	// +optional
	Path string `json:"path,omitempty"`
	// Interval is the time between two looks at the repository, give or take a tenth. Local repositories are watched
	// besides. 30s when absent; at least 1s.
	// +optional
	Interval *metav1.Duration `json:"interval,omitempty"`
	// SecretRef names a Secret of the Application's namespace with the repository's credentials: username and
	// password, bearerToken, identity and known_hosts, or .dockerconfigjson; caFile besides.
	// +optional
	SecretRef *LocalReference `json:"secretRef,omitempty"`
	// ProxySecretRef names a Secret of the Application's namespace with the proxy that the repository is reached through: address
	// (http, https or socks5), username and password. Absent: what HTTPS_PROXY and NO_PROXY of gitopsd's environment say.
	// +optional
	ProxySecretRef *LocalReference `json:"proxySecretRef,omitempty"`
	// Submodules has the files of Git submodules read too, at the commits that the repository names.
	// +optional
	Submodules bool `json:"submodules,omitempty"`
	// Verify has only signed commits rendered. Absent: any commit is.
	// +optional
	Verify *Verify `json:"verify,omitempty"`
	// CommitStatus has what became of each commit told where the repository lives. Absent: it is not.
	// +optional
	CommitStatus *CommitStatus `json:"commitStatus,omitempty"`
}

// Verify says whose signature a commit needs.
type Verify struct {
	// SecretRef names a Secret of the Application's namespace with the public keys that count: OpenPGP as NAME.asc or NAME.gpg,
	// SSH as NAME.pub or as lines of allowed_signers.
	SecretRef LocalReference `json:"secretRef"`
}

// CommitStatus is how to reach a forge that speaks GitHub's API for commit statuses.
type CommitStatus struct {
	// URL is the base of the API: https://HOST/api/v3/ of GitHub Enterprise Server, https://HOST/api/v1/ of Gitea or Forgejo.
	// Absent for github.com.
	// +optional
	URL string `json:"url,omitempty"`
	// SecretRef names a Secret of the Application's namespace with the key token: it has to be allowed to write commit statuses.
	SecretRef LocalReference `json:"secretRef"`
	// LedgerHead puts the head of the ledger beside each end of a sync, under a context of its own: kept by the forge, it shows a ledger that
	// was cut or written anew (gitopsd audit verify --head).
	// +optional
	LedgerHead bool `json:"ledgerHead,omitempty"`
}

// Ref is one of a branch, a tag, a range of versions or a commit.
//
// +kubebuilder:validation:MaxProperties=1
type Ref struct {
	// Branch to follow.
	// +optional
	Branch string `json:"branch,omitempty"`
	// Tag to follow; a tag that is moved is followed.
	// +optional
	Tag string `json:"tag,omitempty"`
	// Semver is a range of versions such as 1.x or ">=1.2.0 <2.0.0"; the highest tag in it is followed, with or without a v in
	// front. Pre-releases count only if the range names one.
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[-0-9A-Za-z.,|<>=!~^*+ ]*$`
	// +optional
	Semver string `json:"semver,omitempty"`
	// Commit to stay at, as 40 hex digits.
	// +kubebuilder:validation:Pattern=`^([0-9a-f]{40})?$`
	// +optional
	Commit string `json:"commit,omitempty"`
	// Digest to stay at, of a chart's archive or of an artifact's manifest: sha256: and 64 hex digits.
	// +kubebuilder:validation:Pattern=`^(sha256:[0-9a-f]{64})?$`
	// +optional
	Digest string `json:"digest,omitempty"`
}

// LocalReference names an object of the same namespace.
type LocalReference struct {
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
}

// Dependency names an Application of the same namespace.
type Dependency struct {
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
}

// Render holds the options of one renderer.
type Render struct {
	// Helm renders the path as a chart.
	// +optional
	Helm *Helm `json:"helm,omitempty"`
	// Decrypt opens files that SOPS encrypted. Absent: an object or a value that is encrypted is an error.
	// +optional
	Decrypt *Decrypt `json:"decrypt,omitempty"`
}

// Decrypt says with which keys.
type Decrypt struct {
	// SecretRef names a Secret of the Application's namespace: keys that end in .agekey hold age identities, those that end in .asc
	// private OpenPGP keys.
	SecretRef LocalReference `json:"secretRef"`
}

// Helm are the options of `helm template` that matter here.
type Helm struct {
	// ReleaseName is what the chart sees as .Release.Name. Absent: the Application's name.
	// +optional
	ReleaseName string `json:"releaseName,omitempty"`
	// ValuesFiles are paths inside the repository, relative to the chart; later ones win.
	// +optional
	ValuesFiles []string `json:"valuesFiles,omitempty"`
	// IgnoreMissingValuesFiles leaves out values files that are not there.
	// +optional
	IgnoreMissingValuesFiles bool `json:"ignoreMissingValuesFiles,omitempty"`
	// ValuesFrom are values of ConfigMaps and Secrets, over those of files; later ones win.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +optional
	ValuesFrom []ValuesReference `json:"valuesFrom,omitempty"`
	// Values win over all others.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +optional
	Values *apiextensionsv1.JSON `json:"values,omitempty"`
	// SkipCRDs leaves out what is in the chart's folder crds.
	// +optional
	SkipCRDs bool `json:"skipCRDs,omitempty"`
	// KubeVersion is what the chart sees as .Capabilities.KubeVersion, such as v1.34.0. Absent: the destination's when the
	// revision is rendered.
	// +optional
	KubeVersion string `json:"kubeVersion,omitempty"`
	// APIVersions are added to .Capabilities.APIVersions, which is what the destination has when the revision is rendered.
	// +listType=set
	// +optional
	APIVersions []string `json:"apiVersions,omitempty"`
	// Lookup says what the function lookup gives: Cluster answers from the destination with the rights of the Application, Empty
	// gives nothing as helm template does, Refuse fails the chart. Cluster when absent.
	// +kubebuilder:validation:Enum=Cluster;Empty;Refuse
	// +optional
	Lookup string `json:"lookup,omitempty"`
	// Release says whether what was deployed is written as Helm writes it, for helm list, history and get: Secret writes a Secret
	// for each revision into the destination's namespace, None does not. Secret when absent.
	// +kubebuilder:validation:Enum=Secret;None
	// +optional
	Release string `json:"release,omitempty"`
}

// ReleaseNone has no releases written.
const ReleaseNone = "None"

// ValuesReference names values in an object of the Application's namespace.
type ValuesReference struct {
	// +kubebuilder:validation:Enum=ConfigMap;Secret
	Kind string `json:"kind"`
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
	// Key of its data. values.yaml when absent.
	// +optional
	Key string `json:"key,omitempty"`
	// TargetPath is where the one value goes, as in helm --set: a.b[0].c. Absent: what is under the key is a map in YAML.
	// +optional
	TargetPath string `json:"targetPath,omitempty"`
	// Optional leaves the values out when object or key are not there. Otherwise that is an error.
	// +optional
	Optional bool `json:"optional,omitempty"`
}

// Destination is where the objects go and under whose rights.
type Destination struct {
	// Namespace for namespaced objects that name none. "default" when absent. An Application that names none lives
	// where its parent lives.
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// ServiceAccountName is a service account of the Application's own namespace: the engine reads and writes the
	// objects with its rights and no others. Absent: with the engine's.
	// +optional
	ServiceAccountName string `json:"serviceAccountName,omitempty"`
}

// SyncPolicy says what the engine may do by itself.
type SyncPolicy struct {
	// Prune deletes objects that left the repository.
	// +kubebuilder:default=true
	// +optional
	Prune *bool `json:"prune,omitempty"`
	// PruneLimit is how much a revision may delete before it asks: a number of objects, or a percentage of the inventory with
	// all that hangs below. Absent: less than five objects, or up to half of all.
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^([0-9]+|[0-9]{1,2}%|100%)$`
	// +optional
	PruneLimit *intstr.IntOrString `json:"pruneLimit,omitempty"`
	// Heal undoes changes that others make to declared fields.
	// +kubebuilder:default=true
	// +optional
	Heal *bool `json:"heal,omitempty"`
	// OnFailure says what happens to a revision of which an object is refused, or which is not healthy in time: Rollback
	// brings every declared field back to the last applied revision, Hold leaves everything as it is and says what is
	// wrong. Rollback when absent.
	// +kubebuilder:validation:Enum=Rollback;Hold
	// +optional
	OnFailure OnFailure `json:"onFailure,omitempty"`
	// Timeout is how long a revision may take to be written and to become healthy before it counts as failed. 5m when absent.
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// Adopt says what happens when an object is there already that others made: Allow takes it over as it is, Refuse fails the
	// revision before anything is written. Allow when absent. An object's annotation gitopsd.io/adopt is over it.
	// +kubebuilder:validation:Enum=Allow;Refuse
	// +optional
	Adopt Adopt `json:"adopt,omitempty"`
	// Windows say when a sync, or a healing, may begin: not while a Deny window is open, and where there are Allow windows only while
	// one of them is. What was begun is brought to its end.
	// +listType=atomic
	// +optional
	Windows []SyncWindow `json:"windows,omitempty"`
	// Suspend stops syncing, healing and pruning until it is false again.
	// +optional
	Suspend bool `json:"suspend,omitempty"`
	// OnDelete says what happens to the objects when the Application is deleted: Orphan leaves them, Cascade deletes
	// them. Orphan when absent.
	// +kubebuilder:validation:Enum=Orphan;Cascade
	// +optional
	OnDelete OnDelete `json:"onDelete,omitempty"`
}

// OnFailure is the fate of a revision that fails.
type OnFailure string

const (
	Rollback OnFailure = "Rollback"
	Hold     OnFailure = "Hold"
)

// Adopt is the fate of objects that others made.
type Adopt string

const (
	AdoptAllow  Adopt = "Allow"
	AdoptRefuse Adopt = "Refuse"
)

// OnDelete is the fate of the objects of a deleted Application.
type OnDelete string

const (
	Orphan  OnDelete = "Orphan"
	Cascade OnDelete = "Cascade"
)
