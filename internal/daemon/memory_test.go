package daemon

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	p, room := pace{percent: restPercent}, false
	second := func(used time.Duration, want int) {
		t.Helper()
		if got := p.after(used, func() bool { return room }); got != want {
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
	room = true
	second(2*time.Second, roomyPercent)
	second(50*time.Millisecond, roomyPercent)
	room = false
	second(2*time.Second, workPercent)
}

func TestAvailable(t *testing.T) {
	if free, known := available(); !known || free < 1<<20 {
		t.Errorf("%d bytes, %v: this test itself runs in more", free, known)
	}
}
