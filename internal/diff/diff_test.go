package diff

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write what is printed into the cases")

// TestCases runs testdata/*.txtar. live.yaml holds objects as they are, dryrun.yaml the same ones as the API would make
// them; what is in the first alone is pruned, what is in the second alone is created. deferred has lines "object:
// reason" for what the API could not be asked about. want.txt, want.json and want.md are what is printed; with
// want.theirs in it, the fields that others have set on live.yaml too.
//
// To add a case, write live.yaml and dryrun.yaml and run: go test ./internal/diff -update
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
	live, would := objects(t, in["live.yaml"]), objects(t, in["dryrun.yaml"])
	p := planOf(live, would, in["deferred"])
	got := map[string]string{"want.txt": p.Text(Style{Width: 100}), "want.json": printJSON(t, p), "want.md": Markdown(p)}
	if _, wanted := in["want.theirs"]; wanted {
		got["want.theirs"] = printForeign(live)
	}
	if *update {
		archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { return got[f.Name] != "" })
		for _, name := range []string{"want.theirs", "want.txt", "want.json", "want.md"} {
			if got[name] != "" {
				archive.Files = append(archive.Files, txtar.File{Name: name, Data: []byte(got[name])})
			}
		}
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for name, text := range got {
		if text != in[name] {
			t.Errorf("%s:\n%s\nwant:\n%s", name, text, in[name])
		}
	}
	for name, text := range got {
		if strings.Contains(text, "canary") {
			t.Errorf("%s shows a secret:\n%s", name, text)
		}
	}
}

func planOf(live, would []*unstructured.Unstructured, deferred string) Plan {
	p := Plan{}
	find := func(in []*unstructured.Unstructured, r Ref) *unstructured.Unstructured {
		n := slices.IndexFunc(in, func(u *unstructured.Unstructured) bool { return RefOf(u) == r })
		if n < 0 {
			return nil
		}
		return in[n]
	}
	for _, w := range would {
		c := Change{Ref: RefOf(w), Action: Unchanged}
		if l := find(live, c.Ref); l == nil {
			c.Action, c.Fields = Create, Made(w)
		} else if c.Fields = Fields(l, w); len(c.Fields) > 0 {
			c.Action = Update
		}
		for line := range strings.Lines(deferred) {
			if name, why, _ := strings.Cut(line, ": "); name == c.Ref.String() {
				c.Deferred = strings.TrimSpace(why)
			}
		}
		p.Changes = append(p.Changes, c)
	}
	for _, l := range live {
		if find(would, RefOf(l)) == nil {
			p.Changes = append(p.Changes, Change{Ref: RefOf(l), Action: Prune})
		}
	}
	p.Sort()
	return p
}

func printJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := v.(json.Marshaler).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func printForeign(live []*unstructured.Unstructured) string {
	var b strings.Builder
	for _, u := range live {
		for _, f := range ForeignFields(u, "gitopsd") {
			b.WriteString(f.Manager + ": " + strings.Join(f.Fields, ", ") + "\n")
		}
	}
	return b.String()
}

// objects reads YAML documents as the API's clients do: whole numbers are integers.
func objects(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	for _, doc := range strings.Split("\n"+text, "\n---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		b, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{}
		if err := utiljson.Unmarshal(b, &u.Object); err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}
