package render

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// ChartNeed is a chart that files ask for and do not hold. A worker asks for it like for any file, at Path; whoever starts the
// render may have it there, by a fs.FS that answers for such paths, and otherwise the render fails and says what is missing. So
// what was fetched is one of the Inputs, and a worker needs no network.
type ChartNeed struct {
	Repository string `json:"repository"` // https://… or oci://…
	Name       string `json:"name"`
	Version    string `json:"version,omitempty"` // exact, or a range; "": the highest that is no pre-release
	By         string `json:"by"`                // the file that asks
	For        string `json:"for"`               // SHA-256 of what it says: as long as that stays, so does what a range was resolved to
}

// chartsFolder holds nothing but needs. A repository's own folder of this name is hidden by who answers them.
const chartsFolder = ".gitopsd/charts/"

// Path is where a worker looks for the chart's archive.
func (n ChartNeed) Path() string {
	text, err := json.Marshal(n)
	if err != nil {
		panic(err) // strings only
	}
	return chartsFolder + base64.RawURLEncoding.EncodeToString(text) + ".tgz"
}

// Charts are those that a render asked for, of which there were some and were absent others, each in a stable order.
func (in Inputs) Charts() (there, absent []ChartNeed) {
	for _, path := range slices.Sorted(maps.Keys(in)) {
		need, ok := ParseChartNeed(path)
		switch {
		case !ok:
		case in[path].Content == "absent":
			absent = append(absent, need)
		default:
			there = append(there, need)
		}
	}
	return there, absent
}

// ParseChartNeed reads a path back.
func ParseChartNeed(path string) (ChartNeed, bool) {
	var n ChartNeed
	name, ours := strings.CutPrefix(path, chartsFolder)
	name, tgz := strings.CutSuffix(name, ".tgz")
	text, err := base64.RawURLEncoding.DecodeString(name)
	return n, ours && tgz && err == nil && json.Unmarshal(text, &n) == nil
}
