package sops

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"gopkg.in/ini.v1"
)

// parse reads a file into trees, in the order in which SOPS reads it.
func parse(format Format, data []byte) ([]branch, error) {
	switch format {
	case YAML:
		return parseYAML(data)
	case JSON, Binary:
		tree, err := parseJSON(data)
		return []branch{tree}, err
	case Dotenv:
		tree, err := parseDotenv(data)
		return []branch{tree}, err
	}
	tree, err := parseINI(data)
	return []branch{tree}, err
}

// emit writes the trees as SOPS writes plain files.
func (f *file) emit() ([]byte, error) {
	if f.format == YAML {
		return emitYAML(f.docs)
	}
	tree := f.docs[0].tree
	switch f.format {
	case JSON:
		return emitJSON(tree)
	case Dotenv:
		return emitDotenv(tree)
	case INI:
		return emitINI(tree)
	}
	for _, i := range tree {
		if text, ok := i.value.(string); ok && i.key == "data" {
			return []byte(text), nil
		}
	}
	return emitJSON(tree) // JSON under another name
}

// parseJSON keeps the order of keys, which the MAC depends on.
func parseJSON(data []byte) (branch, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := jsonValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one value")
	}
	tree, ok := v.(branch)
	if !ok {
		return nil, errors.New("no object")
	}
	return tree, nil
}

// deepest bounds how far values may nest.
const deepest = 1000

func jsonValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	if depth > deepest {
		return nil, errors.New("nested too deeply")
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '[' {
			return jsonList(d, depth)
		}
		return jsonBranch(d, depth)
	case json.Number:
		if n, err := t.Int64(); err == nil {
			return int(n), nil
		}
		return t.Float64()
	}
	return t, nil
}

func jsonList(d *json.Decoder, depth int) (any, error) {
	list := []any{}
	for d.More() {
		v, err := jsonValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := d.Token()
	return list, err
}

func jsonBranch(d *json.Decoder, depth int) (any, error) {
	tree := branch{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		v, err := jsonValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		tree = append(tree, item{key, v})
	}
	_, err := d.Token()
	return tree, err
}

func emitJSON(tree branch) ([]byte, error) {
	var flat, out bytes.Buffer
	if err := writeJSON(&flat, tree); err != nil {
		return nil, err
	}
	if err := json.Indent(&out, flat.Bytes(), "", "\t"); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

func writeJSON(to *bytes.Buffer, v any) error {
	switch v := v.(type) {
	case branch:
		to.WriteByte('{')
		for n, i := range v {
			if n > 0 {
				to.WriteByte(',')
			}
			if err := errors.Join(writeJSON(to, i.key), to.WriteByte(':'), writeJSON(to, i.value)); err != nil {
				return err
			}
		}
		return to.WriteByte('}')
	case []any:
		to.WriteByte('[')
		for n, below := range v {
			if n > 0 {
				to.WriteByte(',')
			}
			if err := writeJSON(to, below); err != nil {
				return err
			}
		}
		return to.WriteByte(']')
	}
	text, err := json.Marshal(v)
	to.Write(text)
	return err
}

func parseDotenv(data []byte) (branch, error) {
	var tree branch
	for _, line := range strings.Split(string(data), "\n") {
		if line == "" {
			continue
		}
		if text, ok := strings.CutPrefix(line, "#"); ok {
			tree = append(tree, item{key: comment{text: text}})
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, errors.New("a line without =")
		}
		tree = append(tree, item{name, strings.ReplaceAll(value, `\n`, "\n")})
	}
	return tree, nil
}

func emitDotenv(tree branch) ([]byte, error) {
	var out bytes.Buffer
	for _, i := range tree {
		if c, ok := i.key.(comment); ok {
			fmt.Fprintf(&out, "#%s\n", c.text)
			continue
		}
		value := textOf(i.value)
		if text, ok := i.value.(string); ok {
			value = strings.ReplaceAll(text, "\n", `\n`)
		}
		fmt.Fprintf(&out, "%s=%s\n", i.key, value)
	}
	return out.Bytes(), nil
}

// textOf is a value where everything is text.
func textOf(v any) string {
	switch v := v.(type) {
	case float64:
		text := strconv.FormatFloat(v, 'G', -1, 64)
		if !strings.ContainsAny(text, ".E") { // it would be taken for an integer
			text = strconv.FormatFloat(v, 'f', 1, 64)
		}
		return text
	case time.Time:
		return v.Format(time.RFC3339)
	}
	return fmt.Sprint(v)
}

// parseINI and emitINI use the library that SOPS uses, with its options: quoting and alignment are the library's.
func parseINI(data []byte) (branch, error) {
	f, err := ini.LoadSources(ini.LoadOptions{AllowNonUniqueSections: true}, data)
	if err != nil {
		return nil, err
	}
	var tree branch
	for _, section := range f.Sections() {
		below := branch{}
		if section.Comment != "" {
			below = append(below, item{key: comment{text: iniComment(section.Comment)}})
		}
		for _, k := range section.Keys() {
			below = append(below, item{k.Name(), k.Value()})
			if k.Comment != "" {
				below = append(below, item{key: comment{text: iniComment(k.Comment)}})
			}
		}
		tree = append(tree, item{section.Name(), below})
	}
	return tree, nil
}

func iniComment(text string) string {
	switch {
	case strings.HasPrefix(text, ";"):
		return strings.TrimLeft(text, "; ")
	case strings.HasPrefix(text, "#"):
		return strings.TrimLeft(text, "# ")
	}
	return text
}

func emitINI(tree branch) ([]byte, error) {
	f := ini.Empty(ini.LoadOptions{AllowNonUniqueSections: true})
	f.DeleteSection(ini.DefaultSection)
	for _, i := range tree {
		below, _ := i.value.(branch)
		name, _ := i.key.(string)
		section, err := f.NewSection(name)
		if err != nil {
			return nil, errors.New("a section has no name")
		}
		if err := fillSection(section, below); err != nil {
			return nil, err
		}
	}
	var out bytes.Buffer
	if _, err := f.WriteTo(&out); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func fillSection(section *ini.Section, below branch) error {
	var last *ini.Key
	for n, i := range below {
		c, isComment := i.key.(comment)
		switch {
		case isComment && n == 0:
			section.Comment = c.text
		case isComment && last != nil:
			last.Comment = c.text
		case !isComment:
			var err error
			if last, err = section.NewKey(i.key.(string), textOf(i.value)); err != nil {
				return errors.New("a key has no name")
			}
		}
	}
	return nil
}
