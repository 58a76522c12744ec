package network

import (
	"testing"
	"time"
)

func TestGathering(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{0: gather, time.Millisecond: gather, 50 * time.Millisecond: 200 * time.Millisecond, time.Minute: mostGathered} {
		if got := gathering(took); got != want {
			t.Errorf("after %s changes are gathered for %s, not %s", took, got, want)
		}
	}
}
