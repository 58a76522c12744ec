package model

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// History is what happens to one Application.
type History struct {
	Seed   uint64 `json:"seed,omitempty"`
	Policy Policy `json:"policy"`
	Steps  []Step `json:"steps"`
}

// Policy is the Application's own.
type Policy struct {
	Hold    bool `json:"hold,omitempty"` // onFailure
	NoHeal  bool `json:"noHeal,omitempty"`
	NoPrune bool `json:"noPrune,omitempty"`
}

// Objects are what a commit declares, by name: "cm/a" is a ConfigMap. The values are told by objectOf.
type Objects map[string]string

// Step is one thing that happens, with one fault at most, and how long nothing else does.
type Step struct {
	Do      Action        `json:"do"`
	Objects Objects       `json:"objects,omitempty"` // of a commit
	Object  string        `json:"object,omitempty"`  // that somebody changes
	Back    int           `json:"back,omitempty"`    // of a pin: how many revisions
	Fault   *Fault        `json:"fault,omitempty"`
	Settle  time.Duration `json:"settle,omitempty"`
}

// Action is what a step does.
type Action string

const (
	Commit   Action = "commit"   // Objects become the newest commit
	Broken   Action = "broken"   // a commit that cannot be rendered
	Change   Action = "change"   // somebody changes a declared field
	Delete   Action = "delete"   // somebody deletes an object
	Add      Action = "add"      // somebody adds a field that nobody declares
	Detain   Action = "detain"   // somebody sets a finalizer
	Release  Action = "release"  // takes all finalizers away
	Suspend  Action = "suspend"  //
	Resume   Action = "resume"   // ends Suspend and Pin
	Retry    Action = "retry"    // gitopsd sync --retry
	Pin      Action = "pin"      // gitopsd rollback
	Consent  Action = "consent"  // gitopsd sync --allow-prune
	Run      Action = "run"      // pods of the image "late" become ready
	Restart  Action = "restart"  // the engine ends, if it did not crash, and starts
	Relist   Action = "relist"   // watches end, and what happened before is forgotten
	Wait     Action = "wait"     // nothing but time
	TakeOver Action = "takeover" // another engine starts while the first is stopped in the middle; then the first goes on for a moment
)

// Fault makes the N-th effect of its target go wrong, once. An effect is a write to the API, the store of contents or the ledger.
type Fault struct {
	Target string `json:"target,omitempty"` // "object cm/a", "intent Undoing", "end", "contents", "ledger"; "" is any
	N      int    `json:"n"`                // 1 is the first since the step began
	Kind   Kind   `json:"kind"`
	effect string // if not empty, it meets this one only; as hit names them
}

// Kind is how an effect goes wrong.
type Kind string

const (
	Refused Kind = "refused" // it is not done: forbidden
	Failed  Kind = "failed"  // it is not done: internal error
	Lost    Kind = "lost"    // it is done, and the answer is lost
	Before  Kind = "before"  // the engine dies before it
	After   Kind = "after"   // the engine dies after it
	Stopped Kind = "stopped" // the engine is stopped (SIGSTOP) before it, until TakeOver
	Outage  Kind = "outage"  // from here on the API does not answer for 20 s
)

const (
	// timeout of a sync. Faults pass within it, but for Settle times above it.
	timeout = 5 * time.Minute
	// Rest is a time after which nothing is left to do but to wait for sync.timeout.
	Rest = 40 * time.Second
	// Late is a time after which sync.timeout is over.
	Late = timeout + time.Minute
)

func (h History) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, %+v\n", h.Seed, h.Policy)
	for n, s := range h.Steps {
		line, err := json.Marshal(s)
		if err != nil {
			panic(err) // texts and numbers
		}
		fmt.Fprintf(&b, "%3d %s\n", n, line)
	}
	return b.String()
}
