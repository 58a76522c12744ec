package sops

import (
	"bytes"
	"errors"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// parseYAML reads documents as SOPS does: comments are entries, in the places that SOPS gives them, since a rule may go by them and
// since they may be encrypted.
func parseYAML(data []byte) ([]branch, error) {
	// Keys that are there twice, and anchors that contain themselves, are found by decoding only.
	if err := yaml.NewDecoder(bytes.NewReader(data)).Decode(map[string]any{}); err != nil {
		return nil, err
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	var out []branch
	for {
		var doc yaml.Node
		switch err := d.Decode(&doc); {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, err
		}
		tree, err := yamlBranch(&doc, branch{}, false)
		if err != nil {
			return nil, err
		}
		out = append(out, tree)
	}
}

// lines are the lines of a comment.
func lines(text string, inline bool) []comment {
	var out []comment
	for _, line := range strings.Split(text, "\n") {
		if line != "" {
			out = append(out, comment{line[1:], inline})
		}
	}
	return out
}

func noted(tree branch, text string, inline bool) branch {
	for _, c := range lines(text, inline) {
		tree = append(tree, item{key: c})
	}
	return tree
}

func notedList(list []any, text string, inline bool) []any {
	for _, c := range lines(text, inline) {
		list = append(list, c)
	}
	return list
}

// yamlBranch appends a node to a tree. Noted says that its comments have been taken already.
func yamlBranch(node *yaml.Node, tree branch, isNoted bool) (branch, error) {
	var err error
	if !isNoted {
		tree = noted(noted(tree, node.HeadComment, false), node.LineComment, false)
	}
	switch node.Kind {
	case yaml.DocumentNode:
		for _, below := range node.Content {
			if tree, err = yamlBranch(below, tree, false); err != nil {
				return nil, err
			}
		}
	case yaml.MappingNode:
		for n := 0; n+1 < len(node.Content); n += 2 {
			if tree, err = yamlEntry(node.Content[n], node.Content[n+1], tree); err != nil {
				return nil, err
			}
		}
	case yaml.AliasNode:
		if tree, err = yamlBranch(node.Alias, tree, false); err != nil {
			return nil, err
		}
	case yaml.ScalarNode:
		if node.ShortTag() == "!!null" {
			return tree, nil
		}
		return nil, errors.New("a document is no map")
	default:
		return nil, errors.New("a document is no map")
	}
	if !isNoted {
		tree = noted(tree, node.FootComment, false)
	}
	return tree, nil
}

func yamlEntry(key, value *yaml.Node, tree branch) (branch, error) {
	tree = noted(noted(tree, key.HeadComment, false), key.LineComment, false)
	single := value.Kind == yaml.ScalarNode || value.Kind == yaml.AliasNode
	if single {
		tree = noted(noted(tree, value.HeadComment, false), value.LineComment, true)
	}
	var name any
	if err := key.Decode(&name); err != nil {
		return nil, err
	}
	v, err := yamlValue(value, single)
	if err != nil {
		return nil, err
	}
	tree = append(tree, item{name, v})
	if single {
		tree = noted(tree, value.FootComment, false)
	}
	return noted(tree, key.FootComment, false), nil
}

func yamlValue(node *yaml.Node, isNoted bool) (any, error) {
	switch node.Kind {
	case yaml.MappingNode:
		return yamlBranch(node, branch{}, isNoted)
	case yaml.AliasNode:
		return yamlValue(node.Alias, false)
	case yaml.ScalarNode:
		var v any
		return v, node.Decode(&v)
	case yaml.SequenceNode:
		return yamlList(node, isNoted)
	}
	return nil, nil
}

func yamlList(node *yaml.Node, isNoted bool) (any, error) {
	var list []any
	if !isNoted {
		list = notedList(notedList(list, node.HeadComment, false), node.LineComment, false)
	}
	for _, below := range node.Content {
		list = notedList(notedList(list, below.HeadComment, false), below.LineComment, true)
		v, err := yamlValue(below, true)
		if err != nil {
			return nil, err
		}
		list = notedList(append(list, v), below.FootComment, false)
	}
	if !isNoted {
		list = notedList(list, node.FootComment, false)
	}
	return list, nil
}

func emitYAML(docs []*doc) ([]byte, error) {
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(4)
	for _, d := range docs {
		node := &yaml.Node{Kind: yaml.MappingNode}
		if err := fillMap(node, d.tree); err != nil {
			return nil, err
		}
		if err := e.Encode(&yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{node}}); err != nil {
			return nil, errors.New("the plain text cannot be written as YAML")
		}
	}
	if err := e.Close(); err != nil {
		return nil, errors.New("the plain text cannot be written as YAML")
	}
	return out.Bytes(), nil
}

// pending are comments that wait for the node they belong to.
type pending struct{ head, inline []string }

func (p *pending) add(c comment) {
	if c.inline {
		p.inline = append(p.inline, c.text)
	} else {
		p.head = append(p.head, c.text)
	}
}

// joined is a comment of these lines, before one that is there.
func joined(lines []string, there string) string {
	if len(lines) == 0 {
		return there
	}
	text := "#" + strings.Join(lines, "\n#")
	if there != "" {
		text += "\n" + there
	}
	return text
}

// toHead puts the waiting lines over a node.
func (p *pending) toHead(n *yaml.Node) { n.HeadComment, p.head = joined(p.head, n.HeadComment), nil }

// toLine puts the waiting inline comments beside a node.
func (p *pending) toLine(n *yaml.Node) {
	n.LineComment, p.inline = joined(p.inline, n.LineComment), nil
}

// left puts what still waits below the last node, or over the whole where there is none.
func (p *pending) left(whole, last *yaml.Node) {
	p.head = append(p.head, p.inline...)
	if last == nil {
		p.toHead(whole)
		return
	}
	last.FootComment = joined(p.head, last.FootComment)
}

func fillMap(node *yaml.Node, tree branch) error {
	var p pending
	var last *yaml.Node
	for _, i := range tree {
		if c, ok := i.key.(comment); ok {
			p.add(c)
			continue
		}
		if last == nil {
			p.toHead(node)
		}
		key, err := yamlNode(i.key)
		if err != nil {
			return err
		}
		p.toHead(key)
		value, err := yamlNode(i.value)
		if err != nil {
			return err
		}
		p.toLine(value)
		node.Content, last = append(node.Content, key, value), key
	}
	p.left(node, last)
	return nil
}

func fillList(node *yaml.Node, list []any) error {
	var p pending
	var last *yaml.Node
	for _, v := range list {
		if c, ok := v.(comment); ok {
			p.add(c)
			continue
		}
		if last == nil {
			p.toHead(node)
		}
		below, err := yamlNode(v)
		if err != nil {
			return err
		}
		p.toHead(below)
		p.toLine(below)
		node.Content, last = append(node.Content, below), below
	}
	p.left(node, last)
	return nil
}

func yamlNode(v any) (*yaml.Node, error) {
	switch v := v.(type) {
	case branch:
		node := &yaml.Node{Kind: yaml.MappingNode}
		return node, fillMap(node, v)
	case []any:
		node := &yaml.Node{Kind: yaml.SequenceNode}
		return node, fillList(node, v)
	}
	node := &yaml.Node{}
	if err := node.Encode(v); err != nil {
		return nil, errors.New("a value cannot be written as YAML")
	}
	return node, nil
}
