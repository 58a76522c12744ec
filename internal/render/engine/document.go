package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/gitopsd/gitopsd/internal/render"
)

// document is one YAML document of a file.
type document struct {
	text []byte // what stands between the separators
	line int    // of the file, at which text begins
}

// splitDocuments cuts a stream at its separators: lines that are --- alone or are --- followed by a space
// (YAML 1.2, 9.1.2). What follows on the line of a separator belongs to the document after it.
func splitDocuments(data []byte) []document {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var docs []document
	start, startLine, line := 0, 1, 1
	for at := 0; at < len(data); line++ {
		end := bytes.IndexByte(data[at:], '\n')
		next := len(data)
		if end >= 0 {
			next = at + end + 1
		}
		if l := data[at:next]; bytes.HasPrefix(l, []byte("---")) && (len(bytes.TrimRight(l, "\r\n")) == 3 || l[3] == ' ' || l[3] == '\t') {
			docs = append(docs, document{data[start:at], startLine})
			rest := bytes.TrimSpace(l[3:])
			start, startLine = next, line+1
			if len(rest) > 0 && rest[0] != '#' {
				start, startLine = at+len(l)-len(bytes.TrimLeft(l[3:], " \t")), line
			}
		}
		at = next
	}
	docs = append(docs, document{data[start:], startLine})
	return docs
}

// blank reports whether a document holds comments and white space only.
func (d document) blank() bool {
	for rest := d.text; len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		rest = after
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("...")) {
			return false
		}
	}
	return true
}

// toJSON converts a document, refusing keys that are given twice if strict. Its errors name lines of the file
// and quote nothing of it: it may hold a Secret.
func (d document) toJSON(file string, strict bool) ([]byte, error) {
	var out []byte
	var err error
	if strict {
		out, err = sigsyaml.YAMLToJSONStrict(d.text)
	} else {
		out, err = sigsyaml.YAMLToJSON(d.text)
	}
	if err == nil {
		return out, nil
	}
	return nil, yamlError(file, d.line-1, err)
}

var (
	yamlLine = regexp.MustCompile(`line (\d+): ?`)
	keyTwice = regexp.MustCompile(`key "?([^"]*)"? already (?:set in map|defined)`)
)

// The parser's own sentences that are safe to repeat: they hold no text of the file. All others are replaced.
var safeSentences = regexp.MustCompile(`^(?:did not find expected .{1,60}|could not find expected .{1,60}|found (?:a tab character|character that cannot start any token|unexpected|unknown escape character|duplicate %|incompatible YAML document|undefined tag handle)[\w %]{0,60}|mapping values are not allowed in this context|block (?:sequence|mapping|collection) entries are not allowed in this context|while (?:parsing|scanning) [\w ]{1,60}|document contains excessive aliasing|exceeded max depth of \d+|control characters are not allowed|unknown anchor|invalid (?:leading|trailing|Unicode|length)[\w -]{0,60})`)

func yamlError(file string, before int, err error) error {
	out := &render.Error{Class: render.ErrInvalid, File: file, Next: "correct the YAML"}
	msg := strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")
	msg = strings.TrimPrefix(msg, "yaml: ")
	msg = strings.TrimPrefix(msg, "unmarshal errors:\n")
	if m := yamlLine.FindStringSubmatchIndex(msg); m != nil {
		n, _ := strconv.Atoi(msg[m[2]:m[3]])
		out.Line = before + n
		msg = msg[m[1]:]
	}
	msg = strings.TrimSpace(msg)
	switch {
	case keyTwice.MatchString(msg):
		out.Text = "key " + strconv.Quote(keyTwice.FindStringSubmatch(msg)[1]) + " is given twice"
	case safeSentences.MatchString(msg):
		out.Text = "the YAML does not parse: " + safeSentences.FindString(msg)
	default:
		out.Text = "the YAML does not parse"
	}
	return out
}

// raws turns a document into objects: one, or those of a List.
func (d document) raws(file string, strict bool) ([]render.Raw, error) {
	if d.blank() {
		return nil, nil
	}
	content, err := d.toJSON(file, strict)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(bytes.TrimSpace(content), []byte("null")) {
		return nil, nil
	}
	origin := fmt.Sprintf("%s:%d", file, d.line+leading(d.text))
	return expand(render.Raw{YAML: d.text, JSON: content, Origin: origin})
}

// leading counts the lines before the first that is neither blank nor a comment.
func leading(text []byte) int {
	n := 0
	for len(text) > 0 {
		line, after, _ := bytes.Cut(text, []byte("\n"))
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			break
		}
		text = after
		n++
	}
	return n
}

// head is what tells a List.
type head struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Items      []json.RawMessage `json:"items"`
}

// expand replaces a List (kind List, or XyzList with items) by its items. Their YAML is made anew, as it stands
// nowhere by itself.
func expand(r render.Raw) ([]render.Raw, error) {
	var h head
	if err := json.Unmarshal(r.JSON, &h); err != nil || h.Items == nil || !strings.HasSuffix(h.Kind, "List") {
		return []render.Raw{r}, nil //nolint:nilerr // whatever it is, Arrange says what is wrong with it
	}
	var out []render.Raw
	for _, item := range h.Items {
		text, err := sigsyaml.JSONToYAML(item)
		if err != nil {
			return nil, yamlError(r.Origin, 0, err)
		}
		more, err := expand(render.Raw{YAML: text, JSON: item, Origin: r.Origin, Hooks: r.Hooks})
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// lineOf finds the line of a sequence entry or value below the given key of a YAML file; 0 if it cannot be told.
func lineOf(data []byte, key, value string) int {
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil || len(root.Content) == 0 {
		return 0
	}
	top := root.Content[0]
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value == key {
			return findValue(top.Content[i+1], value)
		}
	}
	return 0
}

func findValue(n *yaml.Node, value string) int {
	if n.Kind == yaml.ScalarNode && strings.Contains(n.Value, value) {
		return n.Line
	}
	for _, c := range n.Content {
		if line := findValue(c, value); line > 0 {
			return line
		}
	}
	return 0
}

var errTooManyFiles = errors.New("too many files")
