package network

import (
	"testing"
	"time"
)

func TestGathering(t *testing.T) {
	for _, c := range []struct {
		took, ago time.Duration
		hurried   bool
		want      time.Duration
	}{
		{0, 0, false, gather},
		{time.Millisecond, 0, false, gather},
		{50 * time.Millisecond, 0, false, 950 * time.Millisecond},
		{50 * time.Millisecond, 0, true, 200 * time.Millisecond},
		{50 * time.Millisecond, 900 * time.Millisecond, false, 50 * time.Millisecond},
		{50 * time.Millisecond, 900 * time.Millisecond, true, gather},
		{50 * time.Millisecond, time.Hour, false, gather},
		{time.Minute, 0, false, mostGathered},
	} {
		if got := gathering(c.took, c.ago, c.hurried); got != c.want {
			t.Errorf("after %s, %s ago, hurried %t, changes are gathered for %s, not %s", c.took, c.ago, c.hurried, got, c.want)
		}
	}
}
