package diff

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write what is printed into the cases")

// TestCases runs testdata/*.txtar: live.yaml and would.yaml are one object as it is and as the API would make it; plan
// is what is printed. With theirs in it, the fields that others have set on live.yaml are printed too. To add a case,
// add a file and run: go test ./internal/diff -update
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { runCase(t, file) })
	}
}

func runCase(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	in := map[string]string{}
	for _, f := range archive.Files {
		in[f.Name] = string(f.Data)
	}
	live, would := object(t, in["live.yaml"]), object(t, in["would.yaml"])
	got := map[string]string{"plan": printPlan(live, would)}
	if _, wanted := in["theirs"]; wanted {
		got["theirs"] = printForeign(live)
	}
	for i, f := range archive.Files {
		text, made := got[f.Name]
		if !made || text == string(f.Data) {
			continue
		}
		if !*update {
			t.Errorf("%s:\n%s\nwant:\n%s", f.Name, text, f.Data)
		}
		archive.Files[i].Data = []byte(text)
	}
	if *update {
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func printPlan(live, would *unstructured.Unstructured) string {
	c := Change{Ref: RefOf(live), Action: Unchanged}
	if c.Fields = Fields(live, would); len(c.Fields) > 0 {
		c.Action = Update
	}
	return Plan{Changes: []Change{c}}.String()
}

func printForeign(live *unstructured.Unstructured) string {
	var b strings.Builder
	for _, f := range ForeignFields(live, "gitopsd") {
		b.WriteString(f.Manager + ": " + strings.Join(f.Fields, ", ") + "\n")
	}
	return b.String()
}

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

func TestPlanPrintsItsChangesInOrder(t *testing.T) {
	p := Plan{Changes: []Change{
		{Ref: Ref{Kind: "Service", Namespace: "web", Name: "b"}, Action: Prune},
		{Ref: Ref{Kind: "Service", Namespace: "web", Name: "a"}, Action: Create, Deferred: "its namespace is made by the same revision"},
		{Ref: Ref{Kind: "Namespace", Name: "web"}, Action: Unchanged},
	}}
	p.Sort()
	want := "+ Service web/a  (not proven: its namespace is made by the same revision)\n- Service web/b\n1 to create, 1 to prune\n"
	if got := p.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}
