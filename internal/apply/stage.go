package apply

import "k8s.io/apimachinery/pkg/runtime/schema"

var (
	crdKind         = schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}
	namespaceKind   = schema.GroupKind{Kind: "Namespace"}
	configMapKind   = schema.GroupKind{Kind: "ConfigMap"}
	secretKind      = schema.GroupKind{Kind: "Secret"}
	applicationKind = schema.GroupKind{Group: "gitopsd.io", Kind: "Application"}

	roleKind               = schema.GroupKind{Group: "rbac.authorization.k8s.io", Kind: "Role"}
	clusterRoleKind        = schema.GroupKind{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}
	roleBindingKind        = schema.GroupKind{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding"}
	clusterRoleBindingKind = schema.GroupKind{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"}
)

// stage is when an object is applied: what others stand on comes first.
type stage int

const (
	foundations   stage = iota // namespaces, definitions of kinds, classes
	configuration              // everything that is neither above nor below
	bindings                   // what gives the rights of roles, which have to be there
	workloads                  // what starts pods
	extensions                 // what changes how the API answers, and Applications below this one
	stages
)

func stageOf(gk schema.GroupKind) stage {
	switch gk {
	case crdKind, namespaceKind,
		schema.GroupKind{Group: "scheduling.k8s.io", Kind: "PriorityClass"},
		schema.GroupKind{Group: "storage.k8s.io", Kind: "StorageClass"},
		schema.GroupKind{Group: "node.k8s.io", Kind: "RuntimeClass"}:
		return foundations
	case roleBindingKind, clusterRoleBindingKind:
		return bindings
	case schema.GroupKind{Kind: "Pod"}, schema.GroupKind{Kind: "ReplicationController"},
		schema.GroupKind{Group: "apps", Kind: "Deployment"}, schema.GroupKind{Group: "apps", Kind: "StatefulSet"},
		schema.GroupKind{Group: "apps", Kind: "DaemonSet"}, schema.GroupKind{Group: "apps", Kind: "ReplicaSet"},
		schema.GroupKind{Group: "batch", Kind: "Job"}, schema.GroupKind{Group: "batch", Kind: "CronJob"}:
		return workloads
	case applicationKind,
		schema.GroupKind{Group: "admissionregistration.k8s.io", Kind: "ValidatingWebhookConfiguration"},
		schema.GroupKind{Group: "admissionregistration.k8s.io", Kind: "MutatingWebhookConfiguration"},
		schema.GroupKind{Group: "apiregistration.k8s.io", Kind: "APIService"}:
		return extensions
	}
	return configuration
}
