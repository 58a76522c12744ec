package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/gitopsd/gitopsd/internal/nodeagent/cri"
	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
)

const statsAge = 5 * time.Second

// statsCache keeps the last answer for those who ask often.
type statsCache struct {
	mu   sync.Mutex
	at   time.Time
	last *stats.Summary
}

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	sum, err := s.collect(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, sum)
}

// collect asks the runtime for the use of all containers.
func (s *Server) collect(ctx context.Context) (*stats.Summary, error) {
	s.stats.mu.Lock()
	defer s.stats.mu.Unlock()
	if s.stats.last != nil && time.Since(s.stats.at) < statsAge {
		return s.stats.last, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	r, err := s.CRI.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask container stats: %w", err)
	}
	byID := map[string]*runtimeapi.ContainerStats{}
	for _, c := range r.Stats {
		byID[c.Attributes.GetId()] = c
	}
	sum := &stats.Summary{Node: nodeStats(s.NodeName)}
	for _, pod := range s.Pods.List() {
		_, seen, ok := s.Pods.Find(pod.Namespace, pod.Name)
		if !ok {
			continue
		}
		p := stats.PodStats{PodRef: stats.PodReference{Name: pod.Name, Namespace: pod.Namespace, UID: string(pod.UID)}, StartTime: pod.CreationTimestamp}
		if pod.Status.StartTime != nil {
			p.StartTime = *pod.Status.StartTime
		}
		for _, c := range seen.Containers {
			if one := byID[cri.RawID(c.ID)]; one != nil && c.State == lifecycle.Running {
				p.Containers = append(p.Containers, containerStats(c, one))
			}
		}
		if len(p.Containers) == 0 {
			continue
		}
		sort.Slice(p.Containers, func(i, j int) bool { return p.Containers[i].Name < p.Containers[j].Name })
		p.CPU, p.Memory = total(p.Containers)
		sum.Pods = append(sum.Pods, p)
	}
	s.stats.last, s.stats.at = sum, time.Now()
	return sum, nil
}

func containerStats(c lifecycle.Container, r *runtimeapi.ContainerStats) stats.ContainerStats {
	out := stats.ContainerStats{Name: c.Name, StartTime: metav1.NewTime(c.Started)}
	if u := r.GetCpu(); u != nil {
		out.CPU = &stats.CPUStats{Time: metav1.NewTime(time.Unix(0, u.Timestamp)), UsageCoreNanoSeconds: value(u.UsageCoreNanoSeconds), UsageNanoCores: value(u.UsageNanoCores)}
	}
	if u := r.GetMemory(); u != nil {
		out.Memory = &stats.MemoryStats{
			Time: metav1.NewTime(time.Unix(0, u.Timestamp)), WorkingSetBytes: value(u.WorkingSetBytes), AvailableBytes: value(u.AvailableBytes),
			UsageBytes: value(u.UsageBytes), RSSBytes: value(u.RssBytes), PageFaults: value(u.PageFaults), MajorPageFaults: value(u.MajorPageFaults),
		}
	}
	if u := r.GetWritableLayer(); u != nil {
		out.Rootfs = &stats.FsStats{Time: metav1.NewTime(time.Unix(0, u.Timestamp)), UsedBytes: value(u.UsedBytes), InodesUsed: value(u.InodesUsed)}
	}
	return out
}

func value(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

func total(list []stats.ContainerStats) (*stats.CPUStats, *stats.MemoryStats) {
	cpu, memory := &stats.CPUStats{}, &stats.MemoryStats{}
	for _, c := range list {
		if c.CPU != nil {
			cpu.Time = c.CPU.Time
			add(&cpu.UsageCoreNanoSeconds, c.CPU.UsageCoreNanoSeconds)
			add(&cpu.UsageNanoCores, c.CPU.UsageNanoCores)
		}
		if c.Memory != nil {
			memory.Time = c.Memory.Time
			add(&memory.WorkingSetBytes, c.Memory.WorkingSetBytes)
			add(&memory.UsageBytes, c.Memory.UsageBytes)
			add(&memory.RSSBytes, c.Memory.RSSBytes)
		}
	}
	return cpu, memory
}

func add(to **uint64, v *uint64) {
	if v == nil {
		return
	}
	if *to == nil {
		*to = new(uint64)
	}
	**to += *v
}

// clockTick is USER_HZ, which Linux fixes at 100 for what it shows in /proc.
const clockTick = 100

// nodeStats reads the machine's own use from /proc.
func nodeStats(name string) stats.NodeStats {
	now := metav1.Now()
	out := stats.NodeStats{NodeName: name}
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n")
	if f := strings.Fields(line); len(f) > 8 {
		var busy uint64
		for i, s := range f[1:9] {
			if n, err := strconv.ParseUint(s, 10, 64); err == nil && i != 3 && i != 4 { // idle, iowait
				busy += n
			}
		}
		busy *= uint64(time.Second) / clockTick
		out.CPU = &stats.CPUStats{Time: now, UsageCoreNanoSeconds: &busy}
	}
	m := meminfo()
	available := m["MemAvailable"]
	used := m["MemTotal"] - available
	usage := m["MemTotal"] - m["MemFree"]
	out.Memory = &stats.MemoryStats{Time: now, AvailableBytes: &available, WorkingSetBytes: &used, UsageBytes: &usage}
	b, _ = os.ReadFile("/proc/uptime")
	if f := strings.Fields(string(b)); len(f) > 0 {
		if up, err := strconv.ParseFloat(f[0], 64); err == nil {
			out.StartTime = metav1.NewTime(time.Now().Add(-time.Duration(up * float64(time.Second))))
		}
	}
	return out
}

func meminfo() map[string]uint64 {
	out := map[string]uint64{}
	b, _ := os.ReadFile("/proc/meminfo")
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if n, err := strconv.ParseUint(f[1], 10, 64); err == nil {
			out[strings.TrimSuffix(f[0], ":")] = n << 10
		}
	}
	return out
}

// resourceMetrics are the figures that metrics-server reads, in the text format of Prometheus.
func (s *Server) resourceMetrics(w http.ResponseWriter, r *http.Request) {
	sum, err := s.collect(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	m := metricsText{w}
	m.family("node_cpu_usage_seconds_total", "counter")
	m.cpu("node_cpu_usage_seconds_total", "", sum.Node.CPU)
	m.family("node_memory_working_set_bytes", "gauge")
	m.memory("node_memory_working_set_bytes", "", sum.Node.Memory)
	each := func(name, kind string, line func(labels string, c stats.ContainerStats)) {
		m.family(name, kind)
		for _, p := range sum.Pods {
			for _, c := range p.Containers {
				line(fmt.Sprintf("container=%q,namespace=%q,pod=%q", c.Name, p.PodRef.Namespace, p.PodRef.Name), c)
			}
		}
	}
	each("container_cpu_usage_seconds_total", "counter", func(l string, c stats.ContainerStats) { m.cpu("container_cpu_usage_seconds_total", l, c.CPU) })
	each("container_memory_working_set_bytes", "gauge", func(l string, c stats.ContainerStats) { m.memory("container_memory_working_set_bytes", l, c.Memory) })
	each("container_start_time_seconds", "gauge", func(l string, c stats.ContainerStats) {
		m.line("container_start_time_seconds", l, float64(c.StartTime.UnixNano())/1e9, time.Now())
	})
	m.family("pod_cpu_usage_seconds_total", "counter")
	for _, p := range sum.Pods {
		m.cpu("pod_cpu_usage_seconds_total", fmt.Sprintf("namespace=%q,pod=%q", p.PodRef.Namespace, p.PodRef.Name), p.CPU)
	}
	m.family("pod_memory_working_set_bytes", "gauge")
	for _, p := range sum.Pods {
		m.memory("pod_memory_working_set_bytes", fmt.Sprintf("namespace=%q,pod=%q", p.PodRef.Namespace, p.PodRef.Name), p.Memory)
	}
	m.family("resource_scrape_error", "gauge")
	_, _ = io.WriteString(w, "resource_scrape_error 0\n")
}

// metricsText writes lines with the time of measuring, as the readers of this endpoint expect.
type metricsText struct{ w io.Writer }

func (m metricsText) family(name, kind string) { fmt.Fprintf(m.w, "# TYPE %s %s\n", name, kind) }

func (m metricsText) line(name, labels string, v float64, at time.Time) {
	if labels != "" {
		labels = "{" + labels + "}"
	}
	fmt.Fprintf(m.w, "%s%s %s %d\n", name, labels, strconv.FormatFloat(v, 'g', -1, 64), at.UnixMilli())
}

func (m metricsText) cpu(name, labels string, c *stats.CPUStats) {
	if c != nil && c.UsageCoreNanoSeconds != nil {
		m.line(name, labels, float64(*c.UsageCoreNanoSeconds)/1e9, c.Time.Time)
	}
}

func (m metricsText) memory(name, labels string, c *stats.MemoryStats) {
	if c != nil && c.WorkingSetBytes != nil {
		m.line(name, labels, float64(*c.WorkingSetBytes), c.Time.Time)
	}
}
