package render_test

import (
	"os"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/render"
)

// BenchmarkRender is one render by a warm worker; first-ms is the one that had to start it.
func BenchmarkRender(b *testing.B) {
	name, err := worker()
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []string{"plain", "kustomize", "helm"} {
		b.Run(c, func(b *testing.B) {
			p, err := render.NewPool(render.PoolConfig{Program: name, Workers: 1, Reuse: 1 << 30})
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			tc := loadCase(&testing.T{}, "testdata/"+c+".txtar")
			req := render.Request{FS: tc.files, Path: tc.path, Options: tc.options}
			start := time.Now()
			if _, err := p.Render(b.Context(), req); err != nil {
				b.Fatal(err)
			}
			first := time.Since(start)
			for b.Loop() {
				if _, err := p.Render(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(first.Microseconds())/1000, "first-ms")
			if os.Getenv("RENDER_BENCH_MEMORY") != "" {
				for _, pid := range children(os.Getpid()) {
					b.Logf("worker %d: %s", pid, memoryOf(pid))
				}
			}
		})
	}
}
