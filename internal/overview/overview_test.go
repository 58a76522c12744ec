package overview

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write what is printed into the cases")

// moment is when the cases are printed.
var moment = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// TestStatusCases runs testdata/*.txtar: state.yaml is what the API holds, overview what `gitopsd status` prints of it
// and detail what `gitopsd status APP` prints of the first Application. To add a case, add a file and run:
// go test ./internal/overview -update
func TestStatusCases(t *testing.T) {
	t.Setenv("TZ", "UTC")
	time.Local = time.UTC
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { runStatusCase(t, file) })
	}
}

func runStatusCase(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var state struct {
		Apps  []v1alpha1.Application
		Nodes []corev1.Node
		Pods  []corev1.Pod
	}
	for _, f := range archive.Files {
		if f.Name == "state.yaml" {
			if err := yaml.UnmarshalStrict(f.Data, &state); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, f := range archive.Files {
		var got string
		switch f.Name {
		case "overview":
			got = All(state.Apps, state.Nodes, state.Pods, false, moment, false)
		case "detail":
			got = One(&state.Apps[0], moment, false)
		default:
			continue
		}
		for _, line := range strings.Split(got, "\n") {
			if len([]rune(line)) > 80 {
				t.Errorf("%s: a line has more than 80 columns: %q", f.Name, line)
			}
		}
		if *update {
			archive.Files[i].Data = []byte(got)
		} else if got != string(f.Data) {
			t.Errorf("%s:\n%s\nwant:\n%s", f.Name, got, f.Data)
		}
	}
	if *update {
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestColourIsForTerminalsOnly(t *testing.T) {
	app := v1alpha1.Application{}
	app.Name, app.Namespace, app.Status.Phase = "web", "prod", v1alpha1.Failed
	if got := All([]v1alpha1.Application{app}, nil, nil, false, moment, false); strings.Contains(got, "\033") {
		t.Errorf("colour without a terminal: %q", got)
	}
	if got := All([]v1alpha1.Application{app}, nil, nil, false, moment, true); !strings.Contains(got, "\033[31mFailed") {
		t.Errorf("no red on a terminal: %q", got)
	}
}
