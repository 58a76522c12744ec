package render

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// maxCPU is the processor time a worker may use in its life (RLIMIT_CPU); it is replaced long before.
const maxCPU = time.Hour

// mostOfOne is how many bytes of JSON one object may have: an API takes half of that (etcd, 1.5 MiB).
const mostOfOne = 3 << 20

// What a value takes at most once it is decoded, besides its text: a map with its first eight keys, and anything else with its place in what holds it.
const (
	mapWeight   = 400
	valueWeight = 100
)

// weigh reckons how many bytes of memory JSON takes once it is decoded, without decoding it: of small values that is fifty times their text.
func weigh(content []byte) int64 {
	weight := int64(len(content) + valueWeight)
	text := false
	for i := 0; i < len(content); i++ {
		switch b := content[i]; {
		case text && b == '\\':
			i++
		case b == '"':
			text = !text
		case text:
		case b == '{':
			weight += mapWeight
		case b == ',' || b == '[' || b == ':':
			weight += valueWeight
		}
	}
	return weight
}

// watchMemory kills the worker when it grows over the limit, until the function it returns is called. The kernel's
// limits on address space do not fit Go, and a cgroup is not there for everybody, so the size is looked at, often
// enough that it cannot get far.
func (w *process) watchMemory(path string) (stop func()) {
	limit := w.pool.cfg.Limits.Memory
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				if resident(w.cmd.Process.Pid) > limit {
					w.kill(memoryError(path, limit))
				}
			}
		}
	}()
	return func() { close(end); <-ended }
}

// resident is the process' resident memory in bytes (proc(5), statm), 0 if it cannot be told.
func resident(pid int) int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(data)
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(string(fields[1]), 10, 64)
	return pages * int64(os.Getpagesize())
}

// cpuTime is what the process used so far (proc(5), stat: utime and stime in clock ticks of 10 ms).
func cpuTime(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(data, []byte(") "))
	fields := bytes.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(string(fields[11]), 10, 64)
	system, _ := strconv.ParseInt(string(fields[12]), 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}
