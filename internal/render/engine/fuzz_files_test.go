package engine

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"

	"github.com/gitopsd/gitopsd/internal/render"
)

const canary = "canary-4711"

// renders renders files of strangers and checks what holds for all of them: an error has a class and no secret in it, what comes
// out are objects, and the second time is as the first.
func renders(t *testing.T, files fstest.MapFS, where string, o render.Options, mayTell bool) {
	t.Helper()
	out, err := Render(files, where, o, nil)
	if err == nil {
		_, err = render.Arrange(out.Objects)
		for _, raw := range out.Objects {
			if !json.Valid(raw.JSON) {
				t.Fatalf("no JSON: %q", raw.JSON)
			}
		}
	}
	var e *render.Error
	if err != nil && (!errors.As(err, &e) || e.Class == nil) {
		t.Fatalf("%T %v", err, err)
	}
	if err != nil && !mayTell && strings.Contains(err.Error(), canary) {
		t.Fatalf("a secret is told: %v", err)
	}
	if out.Tainted {
		return
	}
	again, errAgain := Render(files, where, o, nil)
	if (err == nil) != (errAgain == nil && arranged(again)) {
		t.Fatalf("first %v, then %v", err, errAgain)
	}
}

func arranged(out *Output) bool {
	_, err := render.Arrange(out.Objects)
	return err == nil
}

// Kustomizations and what they name are rendered or refused.
func FuzzKustomization(f *testing.F) {
	for _, text := range []string{
		"resources: [a.yaml]\n", "resources: [a.yaml]\nnamePrefix: x-\ncommonLabels: {a: b}\n", "resources: [..]\n", "resources: [https://example.org/x]\n",
		"secretGenerator: [{name: s, literals: [a=b]}]\n", "configMapGenerator: [{name: s, files: [a.yaml]}]\nresources: [a.yaml]\n",
		"resources: [a.yaml]\npatches: [{patch: \"[{op: remove, path: /data}]\", target: {kind: ConfigMap}}]\n",
		"resources: [a.yaml]\nreplacements: [{source: {kind: ConfigMap}, targets: [{select: {kind: ConfigMap}, fieldPaths: [data.x]}]}]\n",
		"openapi: {path: a.yaml}\n", "helmCharts: [{name: x}]\n", "components: [c]\n", "images: [{name: a, newTag: \"1\"}]\n", "generators: [a.yaml]\n",
	} {
		f.Add(text, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: y}\n")
	}
	f.Fuzz(func(t *testing.T, kustomization, manifest string) {
		renders(t, fstest.MapFS{
			"o/kustomization.yaml":   {Data: []byte(kustomization)},
			"o/a.yaml":               {Data: []byte(manifest)},
			"o/s.env":                {Data: []byte("PASSWORD=" + canary + "\n")},
			"o/c/kustomization.yaml": {Data: []byte("apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\n")},
		}, "o", render.Options{}, strings.Contains(kustomization+manifest, "canary"))
	})
}

// Charts are rendered or refused, whatever is in their templates and values.
func FuzzChart(f *testing.F) {
	for _, text := range []string{
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Values.name }}}\n", "{{ include \"x\" . }}", "{{ range $i, $e := .Values.list }}{{ $e }}{{ end }}",
		"{{ tpl .Values.name . }}", "{{ fail .Values.password }}", "{{ .Files.Get \"values.yaml\" }}", "{{ lookup \"v1\" \"Secret\" \"a\" \"b\" }}", "---\n---\n", "{{ toYaml .Values }}",
	} {
		f.Add(text, "name: x\nlist: [1, 2]\npassword: "+canary+"\n", "a: b\n")
	}
	f.Fuzz(func(t *testing.T, template, values, metadata string) {
		if strings.Contains(template, "rand") || strings.Contains(template, "gen") || strings.Contains(template, "now") || strings.Contains(template, "uuid") || len(template) > 4000 {
			return // another result each time
		}
		renders(t, fstest.MapFS{
			"Chart.yaml":       {Data: []byte("apiVersion: v2\nname: c\nversion: 1.0.0\n" + metadata)},
			"values.yaml":      {Data: []byte(values)},
			"templates/a.yaml": {Data: []byte(template)},
		}, ".", render.Options{}, true)
	})
}

// An archive of a dependency is read or refused.
func FuzzChartArchive(f *testing.F) {
	f.Add(archive("dep/Chart.yaml", "apiVersion: v2\nname: dep\nversion: 1.0.0\n", "dep/templates/a.yaml", "kind: A"))
	f.Add(archive("../../x", "y"))
	f.Add(archive("dep/charts/x.tgz", string(archive("x/Chart.yaml", "name: x"))))
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		renders(t, fstest.MapFS{
			"Chart.yaml":         {Data: []byte("apiVersion: v2\nname: c\nversion: 1.0.0\n")},
			"charts/dep.tgz":     {Data: data},
			"templates/own.yaml": {Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own}\n")},
		}, ".", render.Options{}, true)
	})
}

func archive(pairs ...string) []byte {
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	w := tar.NewWriter(zip)
	for n := 0; n < len(pairs); n += 2 {
		if w.WriteHeader(&tar.Header{Name: pairs[n], Size: int64(len(pairs[n+1])), Mode: 0o644}) == nil {
			_, _ = w.Write([]byte(pairs[n+1]))
		}
	}
	_, _ = w.Close(), zip.Close()
	return out.Bytes()
}

// A value that goes to a path sets nothing else, and stays what it is when it is quoted.
func FuzzSetAt(f *testing.F) {
	for _, pair := range [][2]string{{"a", "b"}, {"a.b[0].c", "1"}, {"a", "x,b=y"}, {"a", "{1,2}"}, {"a", `"quoted"`}, {"a", `\`}, {"a[70000]", "x"}, {"", ""}, {"a..b", "c"}} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, target, value string) {
		if strings.ContainsAny(target, `,={}\`) || !utf8.ValidString(target) || !utf8.ValidString(value) {
			return // a target is the Application's own word, and may be any; what is no text does not come so far
		}
		into := map[string]any{"keep": "this"}
		if err := setAt(target, value, into); err != nil || strings.HasPrefix(target, "keep") {
			return
		}
		if len(into) > 2 || into["keep"] != "this" {
			t.Fatalf("%q=%q sets %v", target, value, into)
		}
		text := map[string]any{}
		if err := setAt("a", `"`+value+`"`, text); err != nil || text["a"] != value {
			t.Fatalf("%q in quotes is %q, %v", value, text["a"], err)
		}
	})
}
