package daemon

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// restPercent trades a little CPU for memory: the control plane's heap is mostly caches that live long. GOGC in the
	// environment wins.
	restPercent = 40
	// workPercent is for times of much work: measured, the collector would take a quarter of the processor otherwise. roomyPercent is for where there is
	// memory for it: docs/performance.md says what it costs and brings.
	workPercent  = 100
	roomyPercent = 300
	// roomy is how many times its own size the machine has to have free for that.
	roomy = 4
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
			if p.percent == restPercent { // else it is given back when there is less work
				debug.FreeOSMemory()
			}
		case <-second.C:
			now := processorTime()
			if before := p.percent; adapts && p.after(now-used, hasRoom) != before {
				debug.SetGCPercent(p.percent)
				if p.percent == restPercent {
					debug.FreeOSMemory()
					now = processorTime() // which was no work of anybody's
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

// after is the percentage that follows a second in which so much processor time was used: a lazy one as soon as there is
// work, the other when there was none for ten seconds. Room says that there is memory to be lazy with.
func (p *pace) after(used time.Duration, room func() bool) int {
	if p.calm++; used >= time.Second/2 {
		p.calm, p.percent = 0, workPercent
		if room() {
			p.percent = roomyPercent
		}
	}
	if p.calm >= 10 {
		p.percent = restPercent
	}
	return p.percent
}

// hasRoom says that neither the machine nor a limit on this process is short of memory.
func hasRoom() bool {
	var own runtime.MemStats
	free, known := available()
	if !known {
		return false
	}
	runtime.ReadMemStats(&own)
	return free > roomy*own.HeapAlloc
}

// available is how much memory may still be taken, in bytes: of the machine, and of the control group where that has a limit.
func available() (free uint64, known bool) {
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(info)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			free, known = kib<<10, err == nil
		}
	}
	for _, files := range [][2]string{{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
		{"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"}} {
		limit, limited := number(files[0])
		used, counted := number(files[1])
		if limited && counted {
			free = min(free, limit-min(used, limit))
		}
	}
	return free, known
}

// number reads a file that holds one number; false for "max" and for one that is not there.
func number(name string) (uint64, bool) {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}

// processorTime is what this process has used of all cores, without the collector of garbage: of a large heap that alone would look like work.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	collector := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}}
	metrics.Read(collector)
	var collecting time.Duration
	if v := collector[0].Value; v.Kind() == metrics.KindFloat64 {
		collecting = time.Duration(v.Float64() * float64(time.Second))
	}
	return time.Duration(u.Utime.Nano()+u.Stime.Nano()) - collecting
}
