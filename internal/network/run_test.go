package network

import (
	"testing"
	"time"
)

func TestGathering(t *testing.T) {
	for _, c := range []struct{ took, ago, want time.Duration }{
		{0, 0, gather}, {time.Millisecond, 0, gather}, {50 * time.Millisecond, 0, 950 * time.Millisecond}, {50 * time.Millisecond, 900 * time.Millisecond, 50 * time.Millisecond},
		{50 * time.Millisecond, time.Hour, gather}, {time.Minute, 0, mostGathered},
	} {
		if got := gathering(c.took, c.ago); got != c.want {
			t.Errorf("after %s, %s ago, changes are gathered for %s, not %s", c.took, c.ago, got, c.want)
		}
	}
}
