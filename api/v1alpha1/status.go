package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Phase is how far the newest commit has come.
//
// +kubebuilder:validation:Enum=Pending;Waiting;Applying;Verifying;Pruning;Applied;Undoing;RolledBack;Held;Incomplete;Failed;Suspended
type Phase string

const (
	Pending   Phase = "Pending"   // nothing is known yet
	Waiting   Phase = "Waiting"   // a dependency is not ready
	Applying  Phase = "Applying"  // objects are being written
	Verifying Phase = "Verifying" // everything is written; health is awaited
	Pruning   Phase = "Pruning"   // everything is written and healthy; what left the repository is deleted
	Applied   Phase = "Applied"   // everything is written and healthy
	Failed    Phase = "Failed"    // reason and message say why; what ran before still runs
	Suspended Phase = "Suspended" // by spec.sync.suspend

	// Of a revision that was begun and failed.
	Undoing    Phase = "Undoing"    // objects are brought back to the last applied revision
	RolledBack Phase = "RolledBack" // they are; the revision is not tried again by itself
	Held       Phase = "Held"       // it stays as it is, by spec.sync.onFailure
	Incomplete Phase = "Incomplete" // some objects cannot be brought back; the message names them; tried again
)

// Health of all objects of an Application: the worst of them.
//
// +kubebuilder:validation:Enum=Unknown;Healthy;Progressing;Degraded;Missing
type Health string

const (
	Unknown     Health = "Unknown"
	Healthy     Health = "Healthy"
	Progressing Health = "Progressing"
	Degraded    Health = "Degraded"
	Missing     Health = "Missing"
)

// ApplicationStatus is written by the engine alone.
type ApplicationStatus struct {
	// ObservedGeneration is the generation of the spec that the rest speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// ObservedCommit is the newest commit seen under the ref.
	// +optional
	ObservedCommit string `json:"observedCommit,omitempty"`
	// ObservedVersion is the name under which it was found, where that is not the ref itself: the tag that a range stands for, the version
	// of a chart.
	// +optional
	ObservedVersion string `json:"observedVersion,omitempty"`
	// AppliedRevision is the last revision of which every object was written.
	// +optional
	AppliedRevision *Revision `json:"appliedRevision,omitempty"`
	// Revisions is the highest number that a revision has had.
	// +optional
	Revisions int64 `json:"revisions,omitempty"`
	// Intent is the revision that is being applied, or undone. It is written before the first object is. Absent: every
	// declared field is as AppliedRevision has it, but for drift.
	// +optional
	Intent *Intent `json:"intent,omitempty"`
	// Deletion is how far the hooks of the Application's own deletion have come.
	// +optional
	Deletion *HookRun `json:"deletion,omitempty"`
	// Rejected is the revision that was rolled back last. It is not tried again until a newer one comes, the spec
	// changes, or `gitopsd sync --retry` asks for it.
	// +optional
	Rejected *Rejected `json:"rejected,omitempty"`
	// History are the revisions that were applied, newest first: what `gitopsd rollback` can go back to.
	// +listType=atomic
	// +optional
	History []Revision `json:"history,omitempty"`
	// Phase says how far the observed commit has come.
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// Reason is one word for programs: why the phase is what it is.
	// +optional
	Reason string `json:"reason,omitempty"`
	// Message tells a person what is wrong, where, and what to do next.
	// +optional
	Message string `json:"message,omitempty"`
	// Health of the objects.
	// +optional
	Health Health `json:"health,omitempty"`
	// HealthMessage names the objects that are not healthy, and why.
	// +optional
	HealthMessage string `json:"healthMessage,omitempty"`
	// Source tells of trouble with the repository. Absent: there is none.
	// +optional
	Source *SourceTrouble `json:"source,omitempty"`
	// Signature says who signed the observed commit. Absent when spec.source.verify is, and when the commit does not pass.
	// +optional
	Signature *Signature `json:"signature,omitempty"`
	// Charts are those that the files asked for and did not hold, as they were fetched. A range stays resolved for as long as the file
	// that asks stays as it is.
	// +listType=atomic
	// +optional
	Charts []FetchedChart `json:"charts,omitempty"`
	// Inventory are the objects that this Application made, or is about to make.
	// +listType=atomic
	// +optional
	Inventory []ObjectReference `json:"inventory,omitempty"`
	// Drift are the fields of our objects that others have set.
	// +listType=atomic
	// +optional
	Drift []Drift `json:"drift,omitempty"`
	// LastSync is what the last sync that wrote something did.
	// +optional
	LastSync *SyncRecord `json:"lastSync,omitempty"`
	// HandledSyncRequest is the last gitopsd.io/sync-requested that was acted on.
	// +optional
	HandledSyncRequest string `json:"handledSyncRequest,omitempty"`
	// Conditions in the form that programs know: Ready, Synced, Healthy.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Revision is rendered content: a commit and what it was rendered to.
type Revision struct {
	// Commit, as 40 hex digits; of an archive its digest, sha256: and 64 hex digits.
	Commit string `json:"commit"`
	// Digest of the rendered objects: two commits of one digest are the same to the cluster.
	// +optional
	Digest string `json:"digest,omitempty"`
	// Content by which the rendered objects are kept.
	// +optional
	Content string `json:"content,omitempty"`
	// Number of the revision, from 1: what a chart saw as .Release.Revision.
	// +optional
	Number int64 `json:"number,omitempty"`
	// Time when the last object was written.
	// +optional
	Time metav1.Time `json:"time,omitempty"`
}

// Intent is a revision on its way: docs/design/atomicity.md.
type Intent struct {
	// ID is the intent's own, never used again.
	ID string `json:"id"`
	// Epoch is the turn of the process that began it, or took it over last: only that one may carry on with it.
	// +optional
	Epoch int64 `json:"epoch,omitempty"`
	// ServiceAccountName is the account that it was begun as, and is brought to its end as. Absent: the engine itself.
	// +optional
	ServiceAccountName string `json:"serviceAccountName,omitempty"`
	// Phase of the intent: Applying, Verifying, Pruning, Undoing, Held or Incomplete.
	Phase string `json:"phase"`
	// Revision that is to be, and the content by which it is kept.
	Revision Revision `json:"revision"`
	// Base is the revision that was the applied one before this one took its place. Absent until then.
	// +optional
	Base *Revision `json:"base,omitempty"`
	// Images is the content that holds every object as it was before this intent, and those it took over from, changed it.
	Images string `json:"images"`
	// Started is when the first object was about to be written; Written when the last one was.
	Started metav1.Time `json:"started"`
	// +optional
	Written *metav1.Time `json:"written,omitempty"`
	// Interruptions in a row by newer revisions.
	// +optional
	Interruptions int32 `json:"interruptions,omitempty"`
	// Hooks is how far the revision's hooks have come. Absent: there are none to run.
	// +optional
	Hooks *HookRun `json:"hooks,omitempty"`
	// Supersedes is the intent that this one took over from.
	// +optional
	Supersedes *Superseded `json:"supersedes,omitempty"`
	// BaseUnhealthy says that what was there before was not healthy either: going back would mend nothing, so it is held instead.
	// +optional
	BaseUnhealthy bool `json:"baseUnhealthy,omitempty"`
	// Reason and Message say why it failed.
	// +optional
	Reason string `json:"reason,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
	// Remember says that the failure was the revision's own, so that it is not tried again.
	// +optional
	Remember bool `json:"remember,omitempty"`
}

// HookRun is how far hooks have come. It is written before a hook is made.
type HookRun struct {
	// Event is what happens to the Application, in Helm's words: install, upgrade, rollback or delete.
	Event string `json:"event"`
	// Ran are the hooks that ended well, in order, such as "pre-upgrade Job web/migrate"; and the points that are passed, such as "pre-upgrade".
	// +listType=atomic
	// +optional
	Ran []string `json:"ran,omitempty"`
	// Running is the hook that is about to be made, or awaited.
	// +optional
	Running string `json:"running,omitempty"`
	// Predecessor is the UID of what was there under its name before; UID is its own, once it is made.
	// +optional
	Predecessor string `json:"predecessor,omitempty"`
	// +optional
	UID string `json:"uid,omitempty"`
	// Ended is when the last one ended.
	// +optional
	Ended *metav1.Time `json:"ended,omitempty"`
	// Failed says that one failed.
	// +optional
	Failed bool `json:"failed,omitempty"`
}

// Superseded is an intent that a newer one has taken over from.
type Superseded struct {
	ID       string   `json:"id"`
	Revision Revision `json:"revision"`
}

// Rejected is a revision that failed and was undone.
type Rejected struct {
	Revision Revision `json:"revision"`
	// Generation of the spec under which it failed.
	Generation int64 `json:"generation"`
	// Reason and Message say why.
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Residue are objects that it made and that were left: claims of volumes, definitions of kinds, and namespaces.
	// +listType=atomic
	// +optional
	Residue []ObjectReference `json:"residue,omitempty"`
}

// SourceTrouble is why a repository cannot be read, and since when.
type SourceTrouble struct {
	Since   metav1.Time `json:"since"`
	Message string      `json:"message"`
}

// Signature is a signature that counts.
type Signature struct {
	Commit string `json:"commit"`
	// Signer is the key's kind, fingerprint and name.
	Signer string `json:"signer"`
}

// FetchedChart is a sub-chart, or a chart of helmCharts, that was fetched from a repository.
type FetchedChart struct {
	Repository string `json:"repository"`
	Name       string `json:"name"`
	// Requested is the version or range that the file asks for.
	// +optional
	Requested string `json:"requested,omitempty"`
	// Version that was taken.
	Version string `json:"version"`
	// Digest of its archive, or of its manifest.
	Digest string `json:"digest"`
	// By is the file that asks; For is the hash of what it says.
	By  string `json:"by"`
	For string `json:"for"`
}

// ObjectReference names an object of the cluster.
type ObjectReference struct {
	// +optional
	Group   string `json:"group,omitempty"`
	Version string `json:"version"`
	Kind    string `json:"kind"`
	// +optional
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// UID of the object that was made. Empty between intent and deed.
	// +optional
	UID string `json:"uid,omitempty"`
	// Finished says of a Job that ended how it ended, and the hash of what was declared: it is not run again when it is gone.
	// +optional
	Finished string `json:"finished,omitempty"`
}

// Drift is what somebody else has set on one of our objects.
type Drift struct {
	Object ObjectReference `json:"object"`
	// Manager is the field manager that set the fields.
	Manager string `json:"manager"`
	// Fields are paths such as .spec.replicas.
	// +listType=atomic
	Fields []string `json:"fields"`
	// Ours are fields that the repository declares; they are healed unless spec.sync.heal is false. Fields that are
	// not ours are left alone.
	Ours bool `json:"ours"`
	// Time when the manager last wrote.
	// +optional
	Time *metav1.Time `json:"time,omitempty"`
}

// SyncRecord is what one sync did.
type SyncRecord struct {
	Commit string `json:"commit"`
	// Cause is what started it: Commit, Spec, Drift.
	Cause    string      `json:"cause"`
	Started  metav1.Time `json:"started"`
	Finished metav1.Time `json:"finished"`
	// Counts of objects.
	// +optional
	Created int32 `json:"created,omitempty"`
	// +optional
	Updated int32 `json:"updated,omitempty"`
	// +optional
	Pruned int32 `json:"pruned,omitempty"`
	// +optional
	Unchanged int32 `json:"unchanged,omitempty"`
	// Took is the time from the first look at the cluster to the last write.
	// +optional
	Took metav1.Duration `json:"took,omitempty"`
	// HealthyAfter is the time from the start of the sync until everything was healthy. Absent until it is.
	// +optional
	HealthyAfter *metav1.Duration `json:"healthyAfter,omitempty"`
}
