package generate

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

func setOf(t *testing.T, text string) *v1alpha1.ApplicationSet {
	t.Helper()
	set := &v1alpha1.ApplicationSet{}
	if err := yaml.UnmarshalStrict([]byte(text), set); err != nil {
		t.Fatal(err)
	}
	return set
}

const perFolder = `
metadata: {name: folders, namespace: team}
spec:
  generators: [{list: {elements: []}}]
  template:
    metadata: {name: 'app-{{ .path.basenameNormalized }}', labels: {team: '{{ .team | default "none" }}'}}
    spec:
      source: {repo: https://git.example.com/infra, path: '{{ .path.path }}', interval: 30s}
      destination: {namespace: '{{ .path.basename | lower }}'}
      sync: {prune: true, timeout: 5m}
`

func folder(path string) Params {
	return Params{"path": pathParams(path), "team": "blue"}
}

func TestWanted(t *testing.T) {
	apps, err := Wanted(setOf(t, perFolder), []Params{folder("apps/Web_1"), folder("apps/api")})
	if err != nil {
		t.Fatal(err)
	}
	if len(apps) != 2 || apps[0].Name != "app-api" || apps[1].Name != "app-web-1" {
		t.Fatalf("made %v", apps)
	}
	web := apps[1]
	if web.Namespace != "team" || web.Spec.Source.Path != "apps/Web_1" || web.Spec.Destination.Namespace != "web_1" || web.Labels["team"] != "blue" || web.Labels[SetLabel] != "folders" {
		t.Errorf("made %+v", web)
	}
}

func TestFaultsAreToldWithTheirPlace(t *testing.T) {
	template := func(name, spec string) string {
		return "metadata: {name: s, namespace: n}\nspec: {generators: [], template: {metadata: {name: " + fmt.Sprintf("%q", name) + "}, spec: " + spec + "}}\n"
	}
	const good = "{source: {repo: r}}"
	for name, c := range map[string]struct{ set, want string }{
		"a missing parameter": {template("{{ .path.base }}", good), `spec.template.metadata.name uses the parameter "base", which is not among those of this set: path, team`},
		"no name":             {template("Ä{{ .team }}", good), `spec.template.metadata.name becomes "Äblue", which is no name`},
		"an unknown field":    {template("a", "{source: {repos: r}}"), `unknown field "repos"`},
		"a wrong type":        {template("a", "{source: {repo: 1}}"), "Application a is not that of an Application"},
		"a loop":              {template("{{ range .path.segments }}x{{ end }}", good), "is not allowed"},
		"a definition":        {template(`{{ define "x" }}{{ template "x" }}{{ end }}a`, good), "no range, define or template"},
		"a hidden loop":       {template("{{ if .team }}{{ with .team }}{{ range .path.segments }}x{{ end }}{{ end }}{{ end }}", good), "is not allowed"},
		"printf":              {template(`{{ printf "%1000000000d" 1 }}`, good), "the function printf is not there"},
		"a hidden printf":     {template(`{{ if eq .team (print "a" | lower) }}x{{ end }}`, good), "the function print is not there"},
		"js":                  {template(`{{ "\\\\" | js | js }}`, good), "the function js is not there"},
		"html":                {template(`{{ html .team }}`, good), "the function html is not there"},
		"urlquery":            {template(`{{ with $x := urlquery .team }}{{ $x }}{{ end }}`, good), "the function urlquery is not there"},
		"call":                {template(`{{ (call .team).x }}`, good), "the function call is not there"},
		"a long template":     {template(strings.Repeat("{{ .team }}", 6000), good), "a text with actions may have 65536 bytes"},
		"no template":         {template("{{ .team", good), "spec.template.metadata.name"},
		"the same name":       {template("a", good), "two sets of parameters make the Application a"},
	} {
		t.Run(name, func(t *testing.T) {
			params := []Params{folder("a")}
			if name == "the same name" {
				params = append(params, folder("b"))
			}
			if _, err := Wanted(setOf(t, c.set), params); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error: %v", err)
			}
		})
	}
}

func TestEveryFaultIsToldAtOnce(t *testing.T) {
	set := setOf(t, "metadata: {name: s}\nspec: {generators: [], template: {metadata: {name: '{{ .name }}'}, spec: {source: {repo: r, path: '{{ .folder }}'}}}}\n")
	_, err := Wanted(set, []Params{{"name": "A"}, {"name": "b"}, {}})
	for _, want := range []string{`becomes "A"`, `"folder"`, `"name"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not told: %v", want, err)
		}
	}
}

// Text that doubles with every step ends in an error, not in all memory.
func TestTextIsBounded(t *testing.T) {
	text := "{{ .x }}"
	for range 12 {
		text = `{{ replace "a" "aaaaaaaaaaaaaaaa" .x }}` + text
	}
	set := setOf(t, "metadata: {name: s}\nspec: {generators: [], template: {metadata: {name: a, annotations: {a: "+fmt.Sprintf("%q", text)+"}}, spec: {source: {repo: r}}}}\n")
	if _, err := Wanted(set, []Params{{"x": strings.Repeat("a", 60000)}}); err == nil || !strings.Contains(err.Error(), "long") {
		t.Errorf("error: %v", err)
	}
}

// What a function would make is reckoned before it is made: these would take hundreds of gigabytes.
func TestFunctionsReckonFirst(t *testing.T) {
	long := strings.Repeat("a", 700<<10)
	for _, text := range []string{`{{ replace "" .x .x }}`, `{{ .x | replace "a" .x }}`, `{{ splitList "" .x | join .x }}`} {
		if _, err := fill("name", text, Params{"x": long}); err == nil || !strings.Contains(err.Error(), "the text becomes too long") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if out, err := fill("name", `{{ splitList "" .x | join "" | replace "a" "" }}`, Params{"x": long[:most]}); err != nil || out != "" {
		t.Errorf("made %d bytes, %v", len(out), err)
	}
}

func TestAllApplicationsTogetherAreBounded(t *testing.T) {
	set := setOf(t, "metadata: {name: s}\nspec: {generators: [], template: {metadata: {name: 'a-{{ .n }}', annotations: {a: b}}, spec: {source: {repo: r}, render: {helm: {values: {x: "+strings.Repeat("a", 1000)+"}}}}}}\n")
	params := []Params{{"n": 1}, {"n": 2}, {"n": 3}}
	if apps, err := wanted(set, params, 3200); err != nil || len(apps) != 3 {
		t.Errorf("made %d, %v", len(apps), err)
	}
	if _, err := wanted(set, params, 2900); err == nil || !strings.Contains(err.Error(), "more than 2900 bytes together") {
		t.Errorf("error: %v", err)
	}
}

// A pattern costs no more than its length and that of the path, multiplied.
func TestMatchIsQuick(t *testing.T) {
	deep := strings.Split(strings.Repeat("a/", 500)+"b", "/")
	pattern := strings.Split(strings.Repeat("**/a/", 100)+"c", "/")
	if ok, err := match(pattern, deep); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	pattern[len(pattern)-1] = "b"
	if ok, err := match(pattern, deep); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
}

func TestFilesAreBounded(t *testing.T) {
	all := []v1alpha1.PathPattern{{Path: "**"}}
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"one file":    {map[string]string{"a": "x: " + strings.Repeat("a", mostFile)}, "a: the file is too long for parameters"},
		"many files":  {map[string]string{"a": "x: " + strings.Repeat("a", mostFile-9), "b": "x: " + strings.Repeat("a", mostFile-9), "c": "x: " + strings.Repeat("a", mostFile-9), "d": "x: " + strings.Repeat("a", mostFile-9), "e": "x: " + strings.Repeat("a", 99)}, "e: the files up to this one hold too much: at most 4 MiB"},
		"many values": {map[string]string{"a": `{"a":[` + strings.Repeat(`{"b":0},`, mostValues/3) + "0]}"}, "a: the files up to this one hold too much"},
		"many lists":  {map[string]string{"a": "a:\n" + strings.Repeat(strings.Repeat("- ", 9000)+"\n", 20)}, "hold too much"},
		"an alias":    {map[string]string{"a": "a: &a b\nc: [*a, *a]"}, "a: a file of parameters may have no anchors and aliases"},
		"another":     {map[string]string{"a": "{a: &a b,c:*a}"}, "no anchors and aliases"},
		"UTF-16":      {map[string]string{"a": "\xff\xfea\x00:\x00 \x00b\x00"}, "a: the file is no UTF-8"},
	} {
		tree := fstest.MapFS{}
		for file, content := range c.files {
			tree[file] = &fstest.MapFile{Data: []byte(content)}
		}
		if _, err := Files(tree, all); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ordinary := fstest.MapFS{"a.yaml": {Data: []byte("glob: '*.yaml'\nbold: '**x** *y*'\nurl: https://x?a=1&b=2\nrun: a && b\ncron: 0 */5 * * *\n")}}
	if p, err := Files(ordinary, all); err != nil || p[0]["run"] != "a && b" {
		t.Errorf("%v, %v", p, err)
	}
}

func TestPatterns(t *testing.T) {
	tree := fstest.MapFS{}
	for _, f := range []string{"apps/web/a.yaml", "apps/api/prod/config.json", "apps/old/a.yaml", ".git/x/y", "infra/a.yaml"} {
		tree[f] = &fstest.MapFile{Data: []byte("{name: x}")}
	}
	for _, c := range []struct {
		patterns string
		want     string
	}{
		{"[{path: apps/*}]", "apps/api apps/old apps/web"},
		{"[{path: apps/*}, {path: apps/old, exclude: true}]", "apps/api apps/web"},
		{"[{path: '**/prod'}]", "apps/api/prod"},
		{"[{path: '**'}]", "apps apps/api apps/api/prod apps/old apps/web infra"},
		{"[{path: none/*}]", ""},
		{"[{path: /apps/web/}]", "apps/web"},
	} {
		var patterns []v1alpha1.PathPattern
		if err := yaml.Unmarshal([]byte(c.patterns), &patterns); err != nil {
			t.Fatal(err)
		}
		params, err := Directories(tree, patterns)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range params {
			got = append(got, p["path"].(map[string]any)["path"].(string))
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s: %s", c.patterns, text)
		}
	}
	if _, err := Directories(tree, []v1alpha1.PathPattern{{Path: "[a"}}); err == nil || !strings.Contains(err.Error(), `the pattern "[a" is not valid`) {
		t.Errorf("error: %v", err)
	}
	files, err := Files(tree, []v1alpha1.PathPattern{{Path: "**/config.json"}})
	if err != nil || len(files) != 1 || files[0]["name"] != "x" || files[0]["path"].(map[string]any)["basename"] != "prod" || files[0]["path"].(map[string]any)["filename"] != "config.json" {
		t.Errorf("%v, %v", files, err)
	}
	tree["apps/web/a.yaml"].Data = []byte("- a\n")
	if _, err := Files(tree, []v1alpha1.PathPattern{{Path: "apps/web/*"}}); err == nil || !strings.Contains(err.Error(), "apps/web/a.yaml: the file is no YAML or JSON map") {
		t.Errorf("error: %v", err)
	}
}

func TestCompare(t *testing.T) {
	set := setOf(t, perFolder)
	wanted := func(n int) []*v1alpha1.Application {
		var params []Params
		for k := range n {
			params = append(params, folder(fmt.Sprint("apps/", k)))
		}
		apps, err := Wanted(set, params)
		if err != nil {
			t.Fatal(err)
		}
		return apps
	}
	var there []v1alpha1.Application
	for _, app := range wanted(8) {
		there = append(there, *app)
	}
	there[0].Labels["mine"], there[1].Spec.Source.Path = "too", "elsewhere"
	plan, err := Compare(set, wanted(8), there)
	if err != nil || plan.Unchanged != 7 || len(plan.Change) != 1 || plan.Change[0].Name != "app-1" {
		t.Errorf("%+v, %v", plan, err)
	}
	if plan, err = Compare(set, wanted(9)[4:], there); err != nil || len(plan.Delete) != 4 || len(plan.Create) != 1 {
		t.Errorf("%+v, %v", plan, err)
	}
	if plan, err = Compare(set, nil, there); err != nil || len(plan.Delete) != 0 || len(plan.Withheld) != 8 {
		t.Errorf("all would go: %+v, %v", plan, err)
	}
	limit := intstr.FromString("100%")
	set.Spec.DeleteLimit = &limit
	if plan, err = Compare(set, nil, there); err != nil || len(plan.Delete) != 8 {
		t.Errorf("all may go: %+v, %v", plan, err)
	}
	set.Spec.OnRemove = v1alpha1.RemoveKeep
	if plan, err = Compare(set, nil, there); err != nil || len(plan.Delete) != 0 || len(plan.Kept) != 8 {
		t.Errorf("all are kept: %+v, %v", plan, err)
	}
	delete(there[2].Labels, SetLabel)
	if _, err = Compare(set, wanted(8), there); err == nil || !strings.Contains(err.Error(), "Application app-2 is there, and this set did not make it") {
		t.Errorf("error: %v", err)
	}
}

func FuzzTemplate(f *testing.F) {
	for _, text := range []string{"{{ .path.basename }}", "{{ .a | default \"b\" | trunc 3 }}", "{{ index .path.segments 0 }}", "{{", "{{ with $x := .a }}{{ $x }}{{ end }}"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		out, err := fill("name", text, folder("a/b"))
		if err == nil && len(out) > most+len(text) {
			t.Errorf("%d bytes of %q", len(out), text)
		}
	})
}

// What a file becomes is bounded by what it is: nothing in it stands for much.
func FuzzParams(f *testing.F) {
	for _, text := range []string{"a: b", `{"a":[{"b":0},1e9,null]}`, "a: &x [b]\nc: *x", "? a\n: - - b", "<<: {a: b}", "a: |\n  b", "a: !!binary aGk=", "'a': \"\\u0041\"", "%YAML 1.1\n---\na: 1"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := (&reading{fsys: fstest.MapFS{"d/f": {Data: data}}}).params("d/f")
		if err != nil {
			return
		}
		delete(p, "path")
		if n := count(map[string]any(p)); n > values(data) {
			t.Errorf("%d values of %q", n, data)
		}
		if out, err := json.Marshal(p); err != nil || len(out) > 64+16*len(data) {
			t.Errorf("%d bytes of %q, %v", len(out), data, err)
		}
	})
}

// count is how many values there are, the map itself not among them.
func count(v any) (n int) {
	switch v := v.(type) {
	case map[string]any:
		for _, item := range v {
			n += 1 + count(item)
		}
	case []any:
		for _, item := range v {
			n += 1 + count(item)
		}
	}
	return n
}
