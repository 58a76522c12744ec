package source

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/gitopsd/gitopsd/internal/source/sourcetest"
)

// largeIndex is an index as those of large public repositories: charts with versions each.
func largeIndex(charts, versions int) []byte {
	var out []string
	for c := range charts {
		out = append(out, fmt.Sprintf("  chart-%d:\n", c))
		for v := range versions {
			out = append(out, sourcetest.IndexEntry(fmt.Sprintf("chart-%d", c), fmt.Sprintf("1.%d.0", v), fmt.Sprintf("chart-%d-1.%d.0.tgz", c, v), someDigest))
		}
	}
	return sourcetest.Index(out...)
}

// BenchmarkIndex reads one chart of 200 with 400 versions each, as a whole document and as it is read here.
func BenchmarkIndex(b *testing.B) {
	text := largeIndex(200, 400)
	b.Run("here", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			if all, err := indexed(bytes.NewReader(text), "chart-7"); err != nil || len(all) != 400 {
				b.Fatal(len(all), err)
			}
		}
	})
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			var index struct {
				Entries map[string][]chartVersion `yaml:"entries"`
			}
			if err := yaml.NewDecoder(strings.NewReader(string(text))).Decode(&index); err != nil || len(index.Entries["chart-7"]) != 400 {
				b.Fatal(err)
			}
		}
	})
}
