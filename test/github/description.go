// Package github is a test server for what speaks to GitHub: it answers as GitHub's own OpenAPI description says, and fails
// the test when a request does not fit it, or an answer of the test's own. The description (openapi.json, MIT licence, see
// LICENSE) is cut down to pull requests, comments, statuses, checks, deployments, refs, hooks and Apps.
package github

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

//go:embed openapi.json
var document []byte

const location = "mem:///openapi.json"

// description is the OpenAPI document, with its schemas ready to be compiled.
type description struct {
	root     map[string]any
	compiler *jsonschema.Compiler
	mu       sync.Mutex
}

func parseDescription() (*description, error) {
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		return nil, fmt.Errorf("read openapi.json: %w", err)
	}
	root := plainSchemas(parsed).(map[string]any)
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft4)
	if err := c.AddResource(location, root); err != nil {
		return nil, err
	}
	return &description{root: root, compiler: c}, nil
}

// plainSchemas makes JSON schemas of OpenAPI 3.0's, which say nullable where JSON schema has a type of its own.
func plainSchemas(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = plainSchemas(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plainSchemas(v[k])
		}
		if v["nullable"] == true {
			delete(v, "nullable")
			return map[string]any{"anyOf": []any{v, map[string]any{"type": "null"}}}
		}
	}
	return v
}

// at follows a JSON pointer and whatever references are on the way; the pointer of what was found is returned too.
func (d *description) at(pointer ...string) (any, []string) {
	var v any = d.root
	for i, token := range pointer {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, nil
		}
		v = m[token]
		if m, ok := v.(map[string]any); ok {
			if ref, ok := m["$ref"].(string); ok {
				return d.at(append(unescape(ref), pointer[i+1:]...)...)
			}
		}
	}
	return v, pointer
}

func unescape(ref string) []string {
	tokens := strings.Split(strings.TrimPrefix(ref, "#/"), "/")
	for i, t := range tokens {
		tokens[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(t)
	}
	return tokens
}

// validate checks a body against the schema at a pointer. A body that nothing is said of has to be empty.
func (d *description) validate(body []byte, pointer ...string) error {
	content, at := d.at(append(pointer, "content", "application/json", "schema")...)
	if content == nil {
		if len(bytes.TrimSpace(body)) > 0 {
			return fmt.Errorf("there should be no body: %.200s", body)
		}
		return nil
	}
	var fragment strings.Builder
	for _, token := range at {
		fragment.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(token))
	}
	d.mu.Lock()
	schema, err := d.compiler.Compile(location + "#" + (&url.URL{Path: fragment.String()}).EscapedPath())
	d.mu.Unlock()
	if err != nil {
		return fmt.Errorf("compile schema %s: %w", fragment.String(), err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("no JSON: %w", err)
	}
	return schema.Validate(value)
}

// request checks what was sent to an operation.
func (d *description) request(path, method string, body []byte) error {
	operation := []string{"paths", path, strings.ToLower(method)}
	required, _ := d.at(append(operation, "requestBody", "required")...)
	if len(body) == 0 && required != true {
		return nil
	}
	return d.validate(body, append(operation, "requestBody")...)
}

// response checks what is answered by an operation.
func (d *description) response(path, method string, status int, body []byte) error {
	at := []string{"paths", path, strings.ToLower(method), "responses", strconv.Itoa(status)}
	if found, _ := d.at(at...); found == nil {
		return fmt.Errorf("status %d is not one that GitHub answers with", status)
	}
	return d.validate(body, at...)
}

// example is a value that the description gives for an answer, of a list its first item, for tests to build upon; nil when there is none.
func (d *description) example(path, method string, status int) map[string]any {
	examples, _ := d.at("paths", path, strings.ToLower(method), "responses", strconv.Itoa(status), "content", "application/json", "examples")
	named, _ := examples.(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(named)) {
		value, _ := d.at("paths", path, strings.ToLower(method), "responses", strconv.Itoa(status), "content", "application/json", "examples", name, "value")
		text, err := json.Marshal(value)
		if err != nil {
			return nil
		}
		var out map[string]any
		var list []map[string]any
		if json.Unmarshal(text, &out) == nil {
			return out
		}
		if json.Unmarshal(text, &list) == nil && len(list) > 0 {
			return list[0]
		}
	}
	return nil
}
