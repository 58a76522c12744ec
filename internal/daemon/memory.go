package daemon

import (
	"context"
	"os"
	"runtime/debug"
	"syscall"
	"time"
)

const (
	// restPercent trades a little CPU for memory: the control plane's heap is mostly caches that live long. GOGC in the
	// environment wins.
	restPercent = 40
	// workPercent is for times of much work: measured, the collector would take a quarter of the processor otherwise.
	workPercent = 100
	// settled is when the garbage of the start (OpenAPI documents, unpacked programs, first listings) is given back.
	settled = 20 * time.Second
)

// limitMemory makes the process as small as it can be without being slow, until ctx ends.
func limitMemory(ctx context.Context) {
	adapts := os.Getenv("GOGC") == ""
	if adapts {
		debug.SetGCPercent(restPercent)
	}
	second := time.NewTicker(time.Second)
	defer second.Stop()
	began := time.After(settled)
	p, used := pace{percent: restPercent}, processorTime()
	for {
		select {
		case <-began:
			debug.FreeOSMemory()
		case <-second.C:
			now := processorTime()
			if before := p.percent; adapts && p.after(now-used) != before {
				debug.SetGCPercent(p.percent)
				if p.percent == restPercent {
					debug.FreeOSMemory()
				}
			}
			used = now
		case <-ctx.Done():
			return
		}
	}
}

// pace says how lazily garbage is collected.
type pace struct {
	percent int
	calm    int // seconds
}

// after is the percentage that follows a second in which so much processor time was used: the lazy one as soon as there is
// work, the other when there was none for ten seconds.
func (p *pace) after(used time.Duration) int {
	if p.calm++; used >= time.Second/2 {
		p.calm, p.percent = 0, workPercent
	}
	if p.calm >= 10 {
		p.percent = restPercent
	}
	return p.percent
}

// processorTime is what this process has used of all cores.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
