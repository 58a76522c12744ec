package engine

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gitopsd/gitopsd/internal/render"
)

// The documents of a stream are its bytes, cut and nothing else.
func FuzzSplitDocuments(f *testing.F) {
	for _, s := range []string{"", "---", "a: b\n---\nc: d\n", "--- {a: b}\n", "a: |\n  ---\n---\n", "\xef\xbb\xbfa: b", "---\r\na: b\r\n---\r\n", "----\n", "--- # c\nx: y"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		rest := bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
		line := 1
		for _, d := range splitDocuments(data) {
			at := bytes.Index(rest, d.text)
			if at < 0 {
				t.Fatalf("%q is not of %q", d.text, data)
			}
			rest = rest[at+len(d.text):]
			if d.line < line {
				t.Fatalf("line %d after %d in %q", d.line, line, data)
			}
			line = d.line
		}
	})
}

// Plain manifests are read or refused with a place; no error quotes a value of a Secret, and nothing panics.
func FuzzPlain(f *testing.F) {
	f.Add("metadata: {name: x}\n")
	f.Add("a: &a [*a]\n")
	f.Add("stringData:\n  a: b\n c: d\n")
	f.Add("? {a: b}\n: c\n")
	f.Fuzz(func(t *testing.T, more string) {
		text := "apiVersion: v1\nkind: Secret\nstringData: {p: canary-4711}\n" + more
		out, err := Render(fstest.MapFS{"a.yaml": {Data: []byte(text)}}, ".", render.Options{}, nil)
		if err == nil {
			_, err = render.Arrange(out.Objects)
		}
		var e *render.Error
		if err != nil && (!errors.As(err, &e) || e.File == "") {
			t.Fatalf("%T %v", err, err)
		}
		if err != nil && strings.Contains(err.Error(), "canary-4711") && !strings.Contains(more, "canary") {
			t.Fatalf("%v", err)
		}
	})
}
