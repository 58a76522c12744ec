package daemon

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	p := pace{percent: restPercent}
	second := func(used time.Duration, want int) {
		t.Helper()
		if got := p.after(used); got != want {
			t.Errorf("after a second with %s of processor: %d, want %d", used, got, want)
		}
	}
	second(100*time.Millisecond, restPercent)
	second(700*time.Millisecond, workPercent)
	for range 9 {
		second(50*time.Millisecond, workPercent)
	}
	second(50*time.Millisecond, restPercent)
	second(2*time.Second, workPercent)
}
