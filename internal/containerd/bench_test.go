package containerd

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// BenchmarkPod starts pods one after another and tells the median time of each step, and what containerd and a pod take in memory.
func BenchmarkPod(b *testing.B) {
	p, k := start(b)
	steps := map[string][]time.Duration{}
	timed := func(name string, f func()) {
		began := time.Now()
		f()
		steps[name] = append(steps[name], time.Since(began))
	}
	idle := memory(b, p.Pid())
	i, last := 0, ""
	for b.Loop() {
		i++
		var sandbox string
		var config *cri.PodSandboxConfig
		timed("all", func() {
			timed("sandbox", func() { sandbox, config = k.sandbox(fmt.Sprintf("p%d", i)) })
			timed("container", func() { k.container(sandbox, config, "main") })
		})
		last = sandbox
	}
	for name, times := range steps {
		slices.Sort(times)
		b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "ms/"+name)
	}
	b.ReportMetric(idle, "MB-containerd-idle")
	b.ReportMetric(memory(b, p.Pid()), "MB-containerd")
	shims, err := p.shims()
	check(b, err)
	b.ReportMetric(memory(b, shims[0].pid), "MB-shim")
	closeAll(shims)
	b.ReportMetric(memory(b, k.pid(last)), "MB-pause")
}

// memory is the resident size of a process.
func memory(b *testing.B, pid int) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	check(b, err)
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); fields[0] == "Rss:" {
			kb, err := strconv.Atoi(fields[1])
			check(b, err)
			if os.Getenv("SMAPS") != "" {
				b.Log(string(data))
			}
			return float64(kb) / 1024
		}
	}
	b.Fatal("no Rss")
	return 0
}
