// Package generate makes Applications of an ApplicationSet: from parameters and a template to the Applications that are wanted, and from those and
// the ones that are there to what would be made, changed and deleted.
//
// It is pure: who reads repositories, forges and clusters gives it what they hold (package appset). Templates are written by those who may write
// ApplicationSets; they cannot loop, read nothing but their parameters, and what they print is bounded.
package generate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Params are one set of parameters.
type Params map[string]any

const (
	// most is how many bytes one text may have, and become.
	most = 64 << 10
	// mostOfAll is how many bytes the Applications of a set may have together.
	mostOfAll = 32 << 20
)

// application makes an Application of the template and one set of parameters, and says how many bytes it has.
func application(set *v1alpha1.ApplicationSet, p Params) (app *v1alpha1.Application, size int, err error) {
	t := set.Spec.Template
	app = &v1alpha1.Application{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Application"}}
	app.Namespace = set.Namespace
	if app.Name, err = fill("metadata.name", t.Metadata.Name, p); err != nil {
		return nil, 0, err
	}
	if wrong := validation.IsDNS1123Subdomain(app.Name); len(wrong) > 0 {
		return nil, 0, fmt.Errorf("spec.template.metadata.name becomes %q, which is no name: %s; the function normalize makes one", app.Name, strings.Join(wrong, "; "))
	}
	if app.Labels, err = fillMap("metadata.labels", t.Metadata.Labels, p); err != nil {
		return nil, 0, err
	}
	if app.Annotations, err = fillMap("metadata.annotations", t.Metadata.Annotations, p); err != nil {
		return nil, 0, err
	}
	var spec any
	if err := json.Unmarshal(t.Spec.Raw, &spec); err != nil {
		return nil, 0, fmt.Errorf("spec.template.spec is no object: %w", err)
	}
	if spec, err = fillTree("spec", spec, p); err != nil {
		return nil, 0, err
	}
	filled, err := json.Marshal(spec)
	if err != nil {
		return nil, 0, err
	}
	d := json.NewDecoder(bytes.NewReader(filled))
	d.DisallowUnknownFields()
	if err := d.Decode(&app.Spec); err != nil {
		return nil, 0, fmt.Errorf("spec.template.spec of Application %s is not that of an Application: %s", app.Name, strings.TrimPrefix(err.Error(), "json: "))
	}
	return app, len(filled) + sizeOf(app.Labels) + sizeOf(app.Annotations), nil
}

func sizeOf(m map[string]string) (bytes int) {
	for k, v := range m {
		bytes += len(k) + len(v)
	}
	return bytes
}

func fillMap(where string, m map[string]string, p Params) (map[string]string, error) {
	if len(m) == 0 {
		return nil, nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		key, err := fill(where, k, p)
		if err != nil {
			return nil, err
		}
		if out[key], err = fill(where+"."+k, v, p); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// fillTree fills every text of a tree.
func fillTree(where string, v any, p Params) (any, error) {
	switch v := v.(type) {
	case string:
		return fill(where, v, p)
	case []any:
		out := make([]any, len(v))
		for n, item := range v {
			filled, err := fillTree(fmt.Sprintf("%s[%d]", where, n), item, p)
			if err != nil {
				return nil, err
			}
			out[n] = filled
		}
		return out, nil
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, item := range v {
			filled, err := fillTree(where+"."+k, item, p)
			if err != nil {
				return nil, err
			}
			out[k] = filled
		}
		return out, nil
	}
	return v, nil
}

// fill does one text.
func fill(where, text string, p Params) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	if len(text) > most {
		return "", fmt.Errorf("spec.template.%s: a text with actions may have %d bytes", where, most)
	}
	t, err := template.New("spec.template." + where).Option("missingkey=error").Funcs(functions).Parse(text)
	if err != nil {
		return "", errors.New(strings.TrimPrefix(err.Error(), "template: "))
	}
	if err := allowed(t.Root); err != nil {
		return "", fmt.Errorf("spec.template.%s: %w", where, err)
	}
	if len(t.Templates()) > 1 {
		return "", fmt.Errorf("spec.template.%s: %w", where, errLoops)
	}
	out := &bounded{}
	if err := t.Execute(out, map[string]any(p)); err != nil {
		return "", explain(where, err, p)
	}
	return out.String(), nil
}

var errLoops = errors.New("a template may use actions, if and with, and no range, define or template")

// allowed refuses what could go on for ever, and every function that is not one of ours.
func allowed(n parse.Node) error {
	switch n := n.(type) {
	case *parse.ListNode:
		if n != nil { // there is no else
			return each(n.Nodes)
		}
	case *parse.ActionNode:
		return allowed(n.Pipe)
	case *parse.IfNode:
		return errors.Join(allowed(n.Pipe), allowed(n.List), allowed(n.ElseList))
	case *parse.WithNode:
		return errors.Join(allowed(n.Pipe), allowed(n.List), allowed(n.ElseList))
	case *parse.PipeNode:
		return each(n.Cmds)
	case *parse.CommandNode:
		return each(n.Args)
	case *parse.ChainNode:
		return allowed(n.Node)
	case *parse.IdentifierNode:
		if !isFunction(n.Ident) {
			return fmt.Errorf("the function %s is not there", n.Ident)
		}
	case *parse.RangeNode, *parse.TemplateNode, *parse.BreakNode, *parse.ContinueNode:
		return fmt.Errorf("%s is not allowed: %w", n, errLoops)
	}
	return nil
}

func each[N parse.Node](nodes []N) error {
	for _, n := range nodes {
		if err := allowed(n); err != nil {
			return err
		}
	}
	return nil
}

var missing = regexp.MustCompile(`map has no entry for key "([^"]*)"`)

// explain says which parameter is missing, and which there are.
func explain(where string, err error, p Params) error {
	if m := missing.FindStringSubmatch(err.Error()); m != nil {
		return fmt.Errorf("spec.template.%s uses the parameter %q, which is not among those of this set: %s", where, m[1], strings.Join(namesOf(p), ", "))
	}
	text := err.Error()
	if _, after, found := strings.Cut(text, ": executing "); found {
		text = after
	}
	return fmt.Errorf("spec.template.%s: %s", where, text)
}

type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > most {
		return 0, fmt.Errorf("it becomes longer than %d bytes", most)
	}
	return b.Buffer.Write(p)
}
