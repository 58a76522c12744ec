package pipeline

import (
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
)

// class says what has to happen before another look at an Application is worth while.
type class int

const (
	done    class = iota // nothing but an event
	soon                 // it is expected to be over at once, and told only when it lasts: health is awaited, a repository is read
	waiting              // something outside is to change, which no watch tells
	retry                // the API refused or failed; it may be otherwise in a while
	stalled              // a person must act, and that will be an event
)

// outcome of one look at an Application.
type outcome struct {
	class   class
	phase   v1alpha1.Phase
	reason  string
	message string
}

// lasting is how long what is expected to be over at once may take before the status tells of it.
const lasting = time.Second

const (
	never   time.Duration = -1
	backoff time.Duration = -2
)

// requeueAfter is the one place that says when an Application is looked at again by itself.
func (o outcome) requeueAfter() time.Duration {
	switch o.class {
	case soon:
		return lasting
	case waiting:
		return 10 * time.Second
	case retry:
		return backoff
	}
	return never
}

// Reasons of a status, for programs.
const (
	reasonApplied    = "Applied"
	reasonSyncing    = "Syncing"
	reasonVerifying  = "AwaitingHealth"
	reasonSuspended  = "Suspended"
	reasonDependency = "DependencyNotReady"
	reasonCycle      = "DependencyCycle"
	reasonFetching   = "Fetching"
	reasonSource     = "SourceUnavailable"
	reasonFiles      = "SourceRefused"
	reasonSignature  = "SignatureInvalid"
	reasonRender     = "RenderFailed"
	reasonEmpty      = "NothingLeft"
	reasonRefused    = "ObjectsRefused"
	reasonApply      = "ApplyFailed"
	reasonUnhealthy  = "NotHealthyInTime"
	reasonDrifted    = "Drifted"
	reasonMassPrune  = "PruneNeedsConsent"
	reasonPrune      = "Pruning"
	reasonUndo       = "Undoing"
	reasonStore      = "RevisionStoreFailed"
	reasonPinned     = "PinnedByHand"
	reasonTakeOver   = "TakingOver"
	reasonInvalid    = "InvalidSpec"
	reasonWindow     = "OutsideSyncWindow"
	reasonWave       = "AwaitingWave"
	reasonAccount    = "NoServiceAccount"
	reasonHook       = "HookRunning"
	reasonHookFailed = "HookFailed"
)

// refusals are the reasons for which a revision or a spec is not acted on, which the ledger tells.
var refusals = map[string]bool{reasonRefused: true, reasonMassPrune: true, reasonEmpty: true, reasonRender: true, reasonSignature: true, reasonInvalid: true,
	reasonFiles: true, reasonAccount: true, reasonCycle: true}

// Causes of a sync.
const (
	causeCommit = "Commit"
	causeSpec   = "Spec"
	causeDrift  = "Drift"
)

func failed(c class, reason string, err error) outcome {
	return outcome{c, v1alpha1.Failed, reason, err.Error()}
}
