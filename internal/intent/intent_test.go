package intent

import (
	"fmt"
	"strings"
	"testing"
)

// The whole table: every phase with every event. What is not in it must not happen.
func TestNext(t *testing.T) {
	want := map[string]Phase{
		"Applying Written": Verifying, "Applying Failed Rollback": Undoing, "Applying Failed Hold": Held, "Applying Overtaken": Superseded,
		"Verifying Arrived": Pruning, "Verifying Failed Rollback": Undoing, "Verifying Failed Hold": Held, "Verifying Overtaken": Superseded, "Pruning Overtaken": Applied,
		"Pruning Pruned": Applied,
		"Undoing Undone": RolledBack, "Undoing Stuck": Incomplete, "Undoing Overtaken": Superseded,
		"Held Arrived": Pruning, "Held Retried": Applying, "Held Overtaken": Superseded,
		"Incomplete Undone": RolledBack, "Incomplete Stuck": Incomplete, "Incomplete Retried": Applying, "Incomplete Overtaken": Superseded,
	}
	phases := []Phase{Applying, Verifying, Pruning, Undoing, Held, Incomplete, Applied, RolledBack, Superseded}
	events := []Event{Written, Arrived, Pruned, Failed, Undone, Stuck, Overtaken, Retried}
	seen := 0
	for _, p := range phases {
		for _, e := range events {
			for _, policy := range []Policy{Rollback, Hold} {
				name := fmt.Sprintf("%s %s", p, e)
				if e == Failed {
					name += " " + string(policy)
				}
				got, ok := try(p, e, policy)
				if next, allowed := want[name]; ok != allowed || ok && got != next {
					t.Errorf("%s leads to %q (allowed: %v), want %q", name, got, ok, next)
				}
				if ok && !p.Open() {
					t.Errorf("%s is sealed and goes on to %s", p, got)
				}
				seen++
			}
		}
	}
	if seen != len(phases)*len(events)*2 {
		t.Errorf("%d looked at", seen)
	}
}

func try(p Phase, e Event, policy Policy) (next Phase, ok bool) {
	defer func() {
		if r := recover(); r != nil {
			ok = false
			if !strings.Contains(fmt.Sprint(r), string(e)) {
				panic(r)
			}
		}
	}()
	return Next(p, e, policy), true
}

// After pruning has begun there is only forward, and what is interrupted again and again comes to its end once.
func TestInterruptible(t *testing.T) {
	if Interruptible(Pruning, 0) || Interruptible(Applied, 0) {
		t.Error("what prunes, or is sealed, is interrupted")
	}
	for n, want := range []bool{true, true, true, true, true, false} {
		if got := Interruptible(Verifying, n); got != want {
			t.Errorf("after %d interruptions: %v", n, got)
		}
	}
}
