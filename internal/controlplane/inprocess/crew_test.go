package inprocess

import (
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Requests are served at once, by goroutines that have served before where one is free, and none is left a second later: the bubble would not end.
func TestCrew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := make(crew)
		by := func() string {
			buf := make([]byte, 64)
			name, _, _ := strings.Cut(string(buf[:runtime.Stack(buf, false)]), "[")
			return name
		}
		var first, second, third string
		held := make(chan struct{})
		c.do(func() { first = by(); <-held })
		c.do(func() { second = by() })
		synctest.Wait()
		c.do(func() { third = by() })
		synctest.Wait()
		if first == "" || second == "" || first == second || third != second {
			t.Errorf("served by %q, then %q while it was busy, then %q", first, second, third)
		}
		close(held)
		synctest.Wait()
		time.Sleep(rest)
		synctest.Wait()
		select {
		case c <- func() {}:
			t.Error("a goroutine waits longer than a second")
		default:
		}
	})
}
