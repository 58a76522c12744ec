// Package intent says how one sync of an Application goes from its first write to its end, and keeps what it needs to get there
// after a crash.
//
// In go what one look at the cluster found (an Event); out comes the next Phase. Next is the one function that owns the
// transitions; it is pure. Store keeps contents durably: revisions as they were rendered, and images of objects as they were
// before. The package writes to no cluster and knows nothing of Git. docs/design/atomicity.md has the whole.
package intent

import "fmt"

// Phase of an intent. Those up to Incomplete are open: something is still to come.
type Phase string

const (
	Applying   Phase = "Applying"   // objects are being written
	Verifying  Phase = "Verifying"  // every object is written; health is awaited
	Pruning    Phase = "Pruning"    // the revision is the applied one; what left it is deleted; there is only forward
	Undoing    Phase = "Undoing"    // objects are brought back to the base
	Held       Phase = "Held"       // it failed and stays as it is, as the Application wishes
	Incomplete Phase = "Incomplete" // it failed and cannot be undone; tried again
	Applied    Phase = "Applied"    // sealed: wholly the new revision
	RolledBack Phase = "RolledBack" // sealed: wholly the base
	Superseded Phase = "Superseded" // sealed: a newer intent has taken over
)

// Open says whether anything is still to come.
func (p Phase) Open() bool {
	switch p {
	case Applying, Verifying, Pruning, Undoing, Held, Incomplete:
		return true
	}
	return false
}

// Event is what one look at an open intent found.
type Event string

const (
	Written   Event = "Written"   // every object is written
	Arrived   Event = "Arrived"   // everything is healthy and nothing differs
	Pruned    Event = "Pruned"    // nothing is left to delete
	Failed    Event = "Failed"    // an object was refused, or time ran out
	Undone    Event = "Undone"    // a dry-run of the base finds no difference
	Stuck     Event = "Stuck"     // an object cannot be brought back
	Overtaken Event = "Overtaken" // a newer revision has passed its dry-run
	Retried   Event = "Retried"   // a person asked for another try
)

// Policy is what happens to an intent that fails.
type Policy string

const (
	Rollback Policy = "Rollback"
	Hold     Policy = "Hold"
)

type step struct {
	phase Phase
	event Event
}

// transitions are all there are. A failure's is in Next, because it depends on the policy.
var transitions = map[step]Phase{
	{Applying, Written}:     Verifying,
	{Applying, Overtaken}:   Superseded,
	{Verifying, Arrived}:    Pruning,
	{Verifying, Overtaken}:  Superseded,
	{Pruning, Pruned}:       Applied,
	{Pruning, Overtaken}:    Applied, // something cannot be deleted, and holds no newer revision up
	{Undoing, Undone}:       RolledBack,
	{Undoing, Stuck}:        Incomplete,
	{Undoing, Overtaken}:    Superseded,
	{Held, Arrived}:         Pruning, // it became healthy after all
	{Held, Retried}:         Applying,
	{Held, Overtaken}:       Superseded,
	{Incomplete, Undone}:    RolledBack,
	{Incomplete, Stuck}:     Incomplete,
	{Incomplete, Retried}:   Applying,
	{Incomplete, Overtaken}: Superseded,
}

// Next is the phase after an event. It panics on an event that the phase does not have: the caller would be about to write something
// that no rule allows.
func Next(p Phase, e Event, policy Policy) Phase {
	if e == Failed && (p == Applying || p == Verifying) {
		if policy == Hold {
			return Held
		}
		return Undoing
	}
	next, ok := transitions[step{p, e}]
	if !ok {
		panic(fmt.Sprintf("intent: %s has no event %s", p, e))
	}
	return next
}

// Interruptible says whether a newer revision may take over, after so many interruptions in a row: at some point one has to finish.
func Interruptible(p Phase, interruptions int) bool {
	const inARow = 5
	switch p {
	case Applying, Verifying:
		return interruptions < inARow
	case Undoing, Held, Incomplete:
		return true
	}
	return false
}
