package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// HealthPolicy says how the health of objects is told where the built-in rules (kstatus') do not know.
type HealthPolicy struct {
	// Rules by kind. They count for this Application's objects alone.
	// +listType=atomic
	// +optional
	Rules []HealthRule `json:"rules,omitempty"`
}

// Ignored are fields of some objects that are left to others once the objects exist: they are no difference and no drift, are not
// healed and not taken by a sync.
type Ignored struct {
	// Group, kind, namespace and name of the objects; what is absent stands for any.
	// +optional
	Group string `json:"group,omitempty"`
	// +optional
	Kind string `json:"kind,omitempty"`
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// +optional
	Name string `json:"name,omitempty"`
	// JSONPointers (RFC 6901) lead to the fields; a step * stands for every item of a list.
	// +listType=atomic
	// +optional
	JSONPointers []string `json:"jsonPointers,omitempty"`
	// Managers are field managers: what they own is left to them.
	// +listType=atomic
	// +optional
	Managers []string `json:"managers,omitempty"`
}

// SyncWindow is open from each time of its schedule for its duration.
type SyncWindow struct {
	// +kubebuilder:validation:Enum=Allow;Deny
	Kind string `json:"kind"`
	// Schedule in cron's five fields: minute, hour, day of month, month, day of week.
	// +kubebuilder:validation:MinLength=1
	Schedule string `json:"schedule"`
	// Duration of real time, from 1m on.
	Duration metav1.Duration `json:"duration"`
	// TimeZone of the schedule, such as Europe/Berlin. UTC when absent.
	// +optional
	TimeZone string `json:"timeZone,omitempty"`
}

// HealthRule says in CEL when objects of a kind are well, as Flux' healthCheckExprs do. The expressions see apiVersion, kind,
// metadata, spec, status and data of the object, and the whole as object. They are asked in the order inProgress, failed, current.
type HealthRule struct {
	// APIVersion of the kind; an object is judged by the rule whatever version of the group it is read in.
	// +kubebuilder:validation:MinLength=1
	APIVersion string `json:"apiVersion"`
	// +kubebuilder:validation:MinLength=1
	Kind string `json:"kind"`
	// Current is true when the object is healthy. While it is false the object is in progress.
	// +kubebuilder:validation:MinLength=1
	Current string `json:"current"`
	// InProgress is true while the object is on its way.
	// +optional
	InProgress string `json:"inProgress,omitempty"`
	// Failed is true when the object is broken.
	// +optional
	Failed string `json:"failed,omitempty"`
}
