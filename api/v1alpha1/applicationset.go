package v1alpha1

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// ApplicationSet makes Applications of its own namespace: one for each set of parameters that its generators give, from one template.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=appset;appsets,categories=gitopsd
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Applications",type=integer,JSONPath=`.status.applications`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ApplicationSet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ApplicationSetSpec   `json:"spec"`
	Status ApplicationSetStatus `json:"status,omitempty"`
}

// ApplicationSetList is a list of ApplicationSets.
//
// +kubebuilder:object:root=true
type ApplicationSetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ApplicationSet `json:"items"`
}

// ApplicationSetSpec is written by people.
type ApplicationSetSpec struct {
	// Generators give the parameters; those of all of them are put together.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	Generators []Generator `json:"generators"`
	// Template is an Application in which every text may hold actions, such as {{ .path.basename }}.
	Template ApplicationTemplate `json:"template"`
	// DeleteLimit is how many Applications may be deleted at once: a number, or a percentage of those that are there. When more would go, none
	// goes and the status says which. Absent: less than five, or up to half.
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^([0-9]+|[0-9]{1,2}%|100%)$`
	// +optional
	DeleteLimit *intstr.IntOrString `json:"deleteLimit,omitempty"`
	// OnRemove says what happens to an Application of which the parameters are gone, and to all of them when the set is deleted: Delete (with what its own
	// sync.onDelete says of its objects) or Keep. Delete when absent.
	// +kubebuilder:validation:Enum=Delete;Keep
	// +optional
	OnRemove OnRemove `json:"onRemove,omitempty"`
	// Suspend stops making, changing and deleting Applications until it is false again.
	// +optional
	Suspend bool `json:"suspend,omitempty"`
}

// OnRemove is the fate of Applications that a set no longer makes.
type OnRemove string

const (
	RemoveDelete OnRemove = "Delete"
	RemoveKeep   OnRemove = "Keep"
)

// ApplicationTemplate is an Application to be.
type ApplicationTemplate struct {
	Metadata TemplateMetadata `json:"metadata"`
	// Spec is that of an Application.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	Spec apiextensionsv1.JSON `json:"spec"`
}

// TemplateMetadata is what an Application's metadata may be given.
type TemplateMetadata struct {
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
	// +optional
	Labels map[string]string `json:"labels,omitempty"`
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Generator gives sets of parameters. Exactly one of its kinds is set, beside values.
//
// +kubebuilder:validation:XValidation:rule="(has(self.list) ? 1 : 0) + (has(self.directories) ? 1 : 0) + (has(self.files) ? 1 : 0) + (has(self.branches) ? 1 : 0) + (has(self.pullRequests) ? 1 : 0) + (has(self.clusters) ? 1 : 0) == 1",message="exactly one of list, directories, files, branches, pullRequests and clusters has to be set"
type Generator struct {
	// +optional
	List *ListGenerator `json:"list,omitempty"`
	// +optional
	Directories *DirectoriesGenerator `json:"directories,omitempty"`
	// +optional
	Files *FilesGenerator `json:"files,omitempty"`
	// +optional
	Branches *BranchesGenerator `json:"branches,omitempty"`
	// +optional
	PullRequests *PullRequestsGenerator `json:"pullRequests,omitempty"`
	// +optional
	Clusters *ClustersGenerator `json:"clusters,omitempty"`
	// Values are further parameters, the same in each set, as .values.NAME.
	// +optional
	Values map[string]string `json:"values,omitempty"`
}

// ListGenerator gives what it lists.
type ListGenerator struct {
	// Elements are maps: their keys are the parameters.
	// +listType=atomic
	// +kubebuilder:validation:items:Type=object
	// +kubebuilder:validation:items:XPreserveUnknownFields
	Elements []apiextensionsv1.JSON `json:"elements"`
}

// GeneratorSource is the repository that a generator reads.
type GeneratorSource struct {
	// Repo is the URL of a Git repository.
	// +kubebuilder:validation:MinLength=1
	Repo string `json:"repo"`
	// +optional
	Ref Ref `json:"ref,omitempty"`
	// Interval is the time between two looks. 1m when absent; at least 1s.
	// +optional
	Interval *metav1.Duration `json:"interval,omitempty"`
	// SecretRef names a Secret of the set's namespace with the repository's credentials.
	// +optional
	SecretRef *LocalReference `json:"secretRef,omitempty"`
}

// DirectoriesGenerator gives the folders of a repository: .path.path, .path.basename, .path.basenameNormalized and .path.segments.
type DirectoriesGenerator struct {
	GeneratorSource `json:",inline"`
	// Paths are patterns as path.Match has them, with ** for any number of folders; a folder counts if one of them matches and no one with exclude.
	// +kubebuilder:validation:MinItems=1
	// +listType=atomic
	Paths []PathPattern `json:"paths"`
}

// PathPattern is a pattern of paths.
type PathPattern struct {
	// +kubebuilder:validation:MinLength=1
	Path string `json:"path"`
	// +optional
	Exclude bool `json:"exclude,omitempty"`
}

// FilesGenerator gives what YAML and JSON files of a repository hold: the keys of the map in each, and .path of its folder with .path.filename.
type FilesGenerator struct {
	GeneratorSource `json:",inline"`
	// Paths are patterns of files.
	// +kubebuilder:validation:MinItems=1
	// +listType=atomic
	Paths []PathPattern `json:"paths"`
}

// BranchesGenerator gives the branches of a repository: .branch, .branchNormalized, .sha and .shortSha.
type BranchesGenerator struct {
	// +kubebuilder:validation:MinLength=1
	Repo string `json:"repo"`
	// Match is a regular expression (RE2) that the whole name has to match. All branches when absent.
	// +optional
	Match string `json:"match,omitempty"`
	// Interval is the time between two looks. 1m when absent; at least 1s.
	// +optional
	Interval *metav1.Duration `json:"interval,omitempty"`
	// +optional
	SecretRef *LocalReference `json:"secretRef,omitempty"`
}

// PullRequestsGenerator gives the open pull requests of a repository: .number, .title, .author, .branch, .branchNormalized, .targetBranch, .sha, .shortSha and .labels.
type PullRequestsGenerator struct {
	// URL is the base of the forge's API, which is GitHub's: https://HOST/api/v3/ of GitHub Enterprise Server. Absent for github.com.
	// +optional
	URL string `json:"url,omitempty"`
	// +kubebuilder:validation:MinLength=1
	Owner string `json:"owner"`
	// +kubebuilder:validation:MinLength=1
	Repo string `json:"repo"`
	// Labels that a pull request has to have, all of them.
	// +listType=atomic
	// +optional
	Labels []string `json:"labels,omitempty"`
	// Interval is the time between two looks. 1m when absent; at least 10s.
	// +optional
	Interval *metav1.Duration `json:"interval,omitempty"`
	// SecretRef names a Secret of the set's namespace with the key token.
	// +optional
	SecretRef *LocalReference `json:"secretRef,omitempty"`
}

// ClustersGenerator gives the clusters that the set's namespace knows: one for each ConfigMap with the label gitopsd.io/cluster, as .name, .nameNormalized, .labels,
// .annotations and .data.
type ClustersGenerator struct {
	// Selector chooses by the ConfigMap's labels. All when absent.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// ApplicationSetStatus is written by the engine alone.
type ApplicationSetStatus struct {
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Applications is how many there are of this set.
	// +optional
	Applications int32 `json:"applications"`
	// Withheld are Applications that would be deleted, and are not, because they are too many at once.
	// +listType=atomic
	// +optional
	Withheld []string `json:"withheld,omitempty"`
	// Reason is one word for programs, Message tells a person what is wrong, where, and what to do next.
	// +optional
	Reason string `json:"reason,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
