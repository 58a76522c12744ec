package diff

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPlanPrintsItsChangesInOrder(t *testing.T) {
	p := Plan{Application: "prod/web", Revision: strings.Repeat("1a", 20), Notes: []string{"suspended"}, Changes: []Change{
		{Ref: Ref{Kind: "Service", Namespace: "web", Name: "b"}, Action: Prune},
		{Ref: Ref{Kind: "Service", Namespace: "web", Name: "a"}, Action: Create, Deferred: "its predecessor is being deleted", Replaces: true},
		{Ref: Ref{Kind: "Namespace", Name: "web"}, Action: Unchanged},
	}}
	p.Sort()
	want := `prod/web at 1a1a1a1a
+ Service web/a  (not proven: its predecessor is being deleted)
- Service web/b
1 to create, 1 to prune
cannot be undone: Service web/a is replaced; Service web/b is deleted
note: suspended
`
	if got := p.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// Whatever the values are, no line is wider than the terminal, and a difference is seen.
func TestTextFits(t *testing.T) {
	alike := strings.Repeat("x", 300)
	fields := []Field{
		{Path: ".a", Old: alike + "old", New: alike + "new"},
		{Path: ".b", Old: nil, New: alike},
		{Path: ".spec." + strings.Repeat("long.", 8), Old: "one " + alike, New: "two", TakenFrom: "kubectl-edit"},
		{Path: ".lines", Old: alike + "\nold\n", New: alike + "\nnew\n"},
	}
	p := Plan{Changes: []Change{{Ref: Ref{Kind: "K", Name: "n"}, Action: Update, Fields: fields}}}
	for _, width := range []int{60, 80, 100, 200} {
		text := p.Text(Style{Width: width})
		for line := range strings.Lines(text) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
				t.Errorf("at %d a line of %d: %s", width, n, line)
			}
		}
		for _, want := range []string{`old"`, `new"`, `"two"`, "-old", "+new", "taken from kubectl-edit"} {
			if !strings.Contains(text, want) {
				t.Errorf("at %d %s is not seen:\n%s", width, want, text)
			}
		}
	}
	if text := p.Text(Style{Colour: true, Width: 80}); !strings.Contains(text, "\033[33m~\033[0m") {
		t.Errorf("no colours:\n%q", text)
	}
}

// A plan for a pull request stays within what a comment holds, and says what it leaves out.
func TestMarkdownHasALimit(t *testing.T) {
	var p Plan
	for n := range 500 {
		p.Changes = append(p.Changes, Change{Ref: Ref{Kind: "ConfigMap", Namespace: "prod", Name: fmt.Sprintf("c%03d", n)}, Action: Update,
			Fields: []Field{{Path: ".data.k", Old: strings.Repeat("old\n", 50), New: strings.Repeat("new\n", 50)}}})
	}
	text := Markdown(p, p, p)
	if len(text) > 60000 || !strings.Contains(text, "500 to update") || !strings.Contains(text, "more objects left out") {
		t.Errorf("%d bytes: …%s", len(text), text[len(text)-200:])
	}
	if open, closed := strings.Count(text, "<details>"), strings.Count(text, "</details>"); open != closed || open == 0 {
		t.Errorf("%d details are opened, %d closed", open, closed)
	}
}

func TestMergeKey(t *testing.T) {
	list := func(items ...map[string]any) []any {
		var out []any
		for _, i := range items {
			out = append(out, i)
		}
		return out
	}
	for name, c := range map[string]struct {
		path     string
		old, new []any
		want     string
	}{
		"by name":                       {".env", list(map[string]any{"name": "a"}), list(map[string]any{"name": "b"}), "name"},
		"ports by number and protocol":  {".ports", list(map[string]any{"name": "a", "containerPort": int64(53), "protocol": "TCP"}), nil, "containerPort,protocol"},
		"the protocol may be absent":    {".ports", list(map[string]any{"containerPort": int64(53)}), nil, "containerPort,protocol"},
		"ports of a Service":            {".spec.ports", list(map[string]any{"port": int64(53), "protocol": "TCP"}, map[string]any{"port": int64(53), "protocol": "UDP"}), nil, "port,protocol"},
		"listeners by name":             {".listeners", list(map[string]any{"name": "a", "port": int64(80)}, map[string]any{"name": "b", "port": int64(80)}), nil, "name"},
		"subjects of two namespaces":    {".subjects", list(map[string]any{"name": "a", "namespace": "x"}, map[string]any{"name": "a", "namespace": "y"}), nil, "name,namespace,kind"},
		"one key twice":                 {".tolerations", list(map[string]any{"key": "a"}, map[string]any{"key": "a"}), nil, ""},
		"an item without it":            {".env", list(map[string]any{"name": "a"}, map[string]any{"value": "b"}), nil, ""},
		"no maps":                       {".args", []any{"a"}, []any{"b"}, ""},
		"nothing on either side":        {".args", []any{}, nil, ""},
		"topology by key and behaviour": {".topologySpreadConstraints", list(map[string]any{"topologyKey": "zone", "whenUnsatisfiable": "x"}), nil, "topologyKey,whenUnsatisfiable"},
	} {
		if got := strings.Join(mergeKey(c.path, c.old, c.new), ","); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
