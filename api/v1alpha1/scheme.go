package v1alpha1

import (
	_ "embed"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of the API.
var GroupVersion = schema.GroupVersion{Group: "gitopsd.io", Version: "v1alpha1"}

// Labels and annotations that gitopsd writes or reads.
const (
	// LabelApplication on an object says which Application made it, as namespace.name; a name that is too long for a
	// label is cut and ends in a hash.
	LabelApplication = "gitopsd.io/application"
	// AnnotationSync on an Application asks for a sync now; its value is the time of the request.
	AnnotationSync = "gitopsd.io/sync-requested"
	// AnnotationAskedBy on an Application is when and by whom a command asked for something last: a time, a space, and a name
	// that the command gave. The ledger repeats it; who may write annotations may write any name.
	AnnotationAskedBy = "gitopsd.io/asked-by"
	// AnnotationSuspend on an Application suspends it, beside spec.sync.suspend, where applying its parent does not
	// reset it; `gitopsd suspend` sets it to "true".
	AnnotationSuspend = "gitopsd.io/suspend"
	// AnnotationRetry on an Application asks to try a rejected revision again; its value is that of the sync request
	// that it goes with.
	AnnotationRetry = "gitopsd.io/retry"
	// AnnotationAllowPrune on an Application agrees to a deletion of many objects; its value is the commit that does it.
	AnnotationAllowPrune = "gitopsd.io/allow-prune"
	// AnnotationSkipHooks on an Application that is being deleted, with the value true, deletes it without running its hooks.
	AnnotationSkipHooks = "gitopsd.io/skip-hooks"
	// AnnotationIgnoreWindows on an Application is the commit that may be synced outside of the sync windows.
	AnnotationIgnoreWindows = "gitopsd.io/ignore-windows"
	// AnnotationPin on an Application holds it at a revision of its history until a newer commit comes; its value is
	// digest@commit, the commit being the newest one at that time. `gitopsd rollback` sets it, `gitopsd resume` ends it.
	AnnotationPin = "gitopsd.io/pin"
	// FieldManager owns the fields that the repository declares.
	FieldManager = "gitopsd"
	// Finalizer holds an Application with onDelete: Cascade until its objects are gone.
	Finalizer = "gitopsd.io/cascade"
	// RootNamespace and RootName name the first Application, which `gitopsd up --repo` makes.
	RootNamespace = "gitopsd"
	RootName      = "root"
)

// CRD is the custom resource definition of Application, as YAML.
//
//go:embed gitopsd.io_applications.yaml
var CRD []byte

// SetCRD is that of ApplicationSet.
//
//go:embed gitopsd.io_applicationsets.yaml
var SetCRD []byte

// AddToScheme registers the types.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Application{}, &ApplicationList{}, &ApplicationSet{}, &ApplicationSetList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
