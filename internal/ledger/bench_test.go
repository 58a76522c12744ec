package ledger

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
)

func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 8, 64, 1000} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			l := open(b, filepath.Join(b.TempDir(), "ledger"), Options{})
			var n atomic.Int64
			b.SetParallelism(writers) // times GOMAXPROCS
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := l.Append(act(int(n.Add(1)))); err != nil {
						b.Error(err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
		})
	}
}

// filled is a ledger of many entries, written as fast as it goes.
func filled(b *testing.B, entries int64) string {
	dir := filepath.Join(b.TempDir(), "ledger")
	l := open(b, dir, Options{})
	var n atomic.Int64
	done := make(chan struct{})
	const writers = 500
	for range writers {
		go func() {
			for i := n.Add(1); i <= entries; i = n.Add(1) {
				if _, err := l.Append(act(int(i))); err != nil {
					b.Error(err)
				}
			}
			done <- struct{}{}
		}()
	}
	for range writers {
		<-done
	}
	_ = l.Close()
	return dir
}

const manyEntries = 50_000

func BenchmarkOpen(b *testing.B) {
	dir := filled(b, manyEntries)
	for b.Loop() {
		l, err := Open(dir, Options{})
		if err != nil {
			b.Fatal(err)
		}
		_ = l.Close()
	}
	b.ReportMetric(float64(manyEntries*b.N)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkVerify(b *testing.B) {
	dir := filled(b, manyEntries)
	for b.Loop() {
		if _, err := verify(b, dir, Head{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(manyEntries*b.N)/b.Elapsed().Seconds(), "entries/s")
}
