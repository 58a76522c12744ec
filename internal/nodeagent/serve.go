package nodeagent

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	v1 "k8s.io/api/core/v1"

	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
	"github.com/gitopsd/gitopsd/internal/nodeagent/server"
)

// serve runs the server on the node's port.
func (a *agent) serve(ctx context.Context) error {
	return server.New(server.Config{
		Address: a.cfg.ListenAddress, Port: a.cfg.Port,
		CertFile: a.cfg.ServingCertFile, KeyFile: a.cfg.ServingKeyFile, ClientCA: a.cfg.ClientCAFile, Allowed: a.cfg.AllowedClients,
		Pods: podsView{a.workers}, CRI: a.cri, LogDir: a.node.LogDir, NodeName: a.cfg.NodeName, Log: a.cfg.Log,
		Metrics: promhttp.HandlerFor(a.metrics(), promhttp.HandlerOpts{}),
	}).Run(ctx)
}

// metrics are the agent's own figures.
func (a *agent) metrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	gauge := func(name, help string, f func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	gauge("gitopsd_node_pods", "Pods on this node.", func() float64 { return float64(len(a.workers.list())) })
	gauge("gitopsd_node_running_containers", "Running containers on this node.", func() float64 {
		n := 0
		for _, w := range a.workers.list() {
			_, seen := w.snapshot()
			for _, c := range seen.Containers {
				if c.State == lifecycle.Running {
					n++
				}
			}
		}
		return float64(n)
	})
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// podsView shows the workers' pods to the server.
type podsView struct{ workers *workers }

// Find returns a pod with the status that the agent gives it now.
func (p podsView) Find(namespace, name string) (*v1.Pod, lifecycle.Runtime, bool) {
	w := p.workers.find(namespace, name)
	if w == nil {
		return nil, lifecycle.Runtime{}, false
	}
	pod, seen := w.snapshot()
	return w.withStatus(pod), seen, true
}

// List returns all pods, sorted.
func (p podsView) List() []*v1.Pod {
	var out []*v1.Pod
	for _, w := range p.workers.list() {
		out = append(out, w.withStatus(w.current()))
	}
	return out
}

// withStatus is the pod with the status decided last.
func (w *worker) withStatus(pod *v1.Pod) *v1.Pod {
	w.mu.Lock()
	st := w.latest
	w.mu.Unlock()
	if st == nil {
		return pod
	}
	out := *pod
	out.Status = *st
	return &out
}
