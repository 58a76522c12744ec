package pipeline

import (
	"sync"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// Metrics of the engine, by Application.
type Metrics struct {
	syncs    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	phases   *prometheus.GaugeVec
	last     sync.Map // the phase of each Application that phases has
	sourceUp *prometheus.GaugeVec
	cache    prometheus.Gauge
	cached   prometheus.Gauge
	webhooks *prometheus.CounterVec
	kept     prometheus.Counter
	rendered prometheus.Counter
}

// NewMetrics registers the engine's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		syncs: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gitopsd_syncs_total",
			Help: "Syncs that wrote, or failed to, by Application, cause (Commit, Spec, Drift) and result."}, []string{"namespace", "name", "cause", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "gitopsd_sync_duration_seconds",
			Help: "Time from the first to the last write of a sync.", Buckets: prometheus.ExponentialBuckets(0.01, 2.5, 10)}, []string{"namespace", "name"}),
		phases: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "gitopsd_application_phase",
			Help: "1 for the phase that an Application is in."}, []string{"namespace", "name", "phase"}),
		sourceUp: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "gitopsd_source_up",
			Help: "1 when the last look at an Application's repository succeeded."}, []string{"namespace", "name"}),
		cache: prometheus.NewGauge(prometheus.GaugeOpts{Name: "gitopsd_source_cache_bytes",
			Help: "What the mirrors of repositories take on disk, as last measured."}),
		cached: prometheus.NewGauge(prometheus.GaugeOpts{Name: "gitopsd_source_cache_entries",
			Help: "Repositories of which there is a mirror."}),
		kept: prometheus.NewCounter(prometheus.CounterOpts{Name: "gitopsd_render_cache_hits_total",
			Help: "Renderings that were answered by what is kept."}),
		rendered: prometheus.NewCounter(prometheus.CounterOpts{Name: "gitopsd_render_cache_misses_total",
			Help: "Renderings that were made, or failed."}),
	}
	m.webhooks = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gitopsd_webhooks_total",
		Help: "Requests to /hooks, by kind of sender and what became of them."}, []string{"kind", "outcome"})
	r.MustRegister(m.syncs, m.seconds, m.phases, m.sourceUp, m.cache, m.cached, m.webhooks, m.kept, m.rendered)
	return m
}

// Rendered counts one rendering that was asked for, and whether it was kept.
func (m *Metrics) Rendered(hit bool) {
	if hit {
		m.kept.Inc()
	} else {
		m.rendered.Inc()
	}
}

func (m *Metrics) sync(k types.NamespacedName, r *v1alpha1.SyncRecord, err error) {
	result := "success"
	if err != nil {
		result = "failure"
	}
	m.syncs.WithLabelValues(k.Namespace, k.Name, r.Cause, result).Inc()
	m.seconds.WithLabelValues(k.Namespace, k.Name).Observe(r.Took.Seconds())
}

func (m *Metrics) phase(k types.NamespacedName, p v1alpha1.Phase) {
	if last, ok := m.last.Swap(k, p); ok && last != p {
		m.phases.DeleteLabelValues(k.Namespace, k.Name, string(last.(v1alpha1.Phase)))
	}
	m.phases.WithLabelValues(k.Namespace, k.Name, string(p)).Set(1)
}

func (m *Metrics) source(k types.NamespacedName, err error) {
	up := 1.0
	if err != nil {
		up = 0
	}
	m.sourceUp.WithLabelValues(k.Namespace, k.Name).Set(up)
}

// SourceCache notes how much is kept of repositories.
func (m *Metrics) SourceCache(bytes int64, entries int) {
	m.cache.Set(float64(bytes))
	m.cached.Set(float64(entries))
}

// Webhook counts a request to /hooks.
func (m *Metrics) Webhook(kind, outcome string) { m.webhooks.WithLabelValues(kind, outcome).Inc() }

func (m *Metrics) forget(k types.NamespacedName) {
	for _, v := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{m.syncs, m.seconds, m.phases, m.sourceUp} {
		v.DeletePartialMatch(prometheus.Labels{"namespace": k.Namespace, "name": k.Name})
	}
	m.last.Delete(k)
}

// newRecorder makes events about Applications.
func newRecorder(b record.EventBroadcaster, kube kubernetes.Interface) record.EventRecorder {
	b.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: kube.CoreV1().Events("")})
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		panic(err) // our own types
	}
	return b.NewRecorder(scheme, corev1.EventSource{Component: "gitopsd"})
}
