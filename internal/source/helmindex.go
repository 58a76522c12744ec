package source

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// chartVersion is what is needed of one version of one chart in an index.yaml (helm.sh/helm/v3/pkg/repo, ChartVersion).
type chartVersion struct {
	Name    string   `json:"name" yaml:"name"`
	Version string   `json:"version" yaml:"version"`
	URLs    []string `json:"urls" yaml:"urls"`
	Digest  string   `json:"digest" yaml:"digest"` // SHA-256 of the archive, as hex digits; old indexes have none
	Created string   `json:"created" yaml:"created"`
}

// Loose limits of an index.
const (
	mostChart   = 16 << 20 // bytes that one chart's versions may take; also of a whole index of unusual form
	mostVersion = 20_000
)

// indexed reads the versions of one chart out of an index. Indexes of tens of megabytes are common, and as YAML they take a
// hundred times that in memory; so the file is read line by line and only the one chart's lines are understood, as Helm and
// all who imitate it write them: one key a chart below entries. JSON is read key by key. Anything else is read as a whole,
// up to a limit.
func indexed(r io.ReadSeeker, chart string) ([]chartVersion, error) {
	in := bufio.NewReaderSize(r, 1<<16)
	first, err := in.Peek(1)
	if err != nil {
		return nil, badIndex("it is empty")
	}
	if first[0] == '{' {
		if all, err := indexedJSON(in, chart); err == nil {
			return all, nil
		}
	} else if text, found, err := chartLines(in, chart); err != nil || found == plainIndex {
		if err != nil {
			return nil, err
		}
		return versionsOf(text, chart)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, storageError(err)
	}
	whole, err := io.ReadAll(io.LimitReader(r, mostChart+1))
	if err != nil {
		return nil, storageError(err)
	}
	if len(whole) > mostChart {
		return nil, &Error{Class: ErrTooLarge, Text: fmt.Sprintf("the index has more than %d MiB and is not as helm repo index writes it", mostChart>>20), Next: "make it with helm repo index"}
	}
	return versionsOf(whole, chart)
}

func badIndex(why string) error {
	return &Error{Class: ErrBroken, Text: "the repository's index.yaml cannot be read: " + why, Next: "make it with helm repo index; the URL must be the folder that holds it"}
}

type indexForm int

const (
	otherIndex indexForm = iota
	plainIndex           // one key a chart, each on a line of its own
)

// chartLines cuts out "entries:" with the one chart.
func chartLines(in *bufio.Reader, chart string) (text []byte, form indexForm, err error) {
	text = []byte("entries:\n")
	inside, mine, indent := false, false, -1
	var line []byte
	for {
		if line, err = boundedLine(in, line[:0]); errors.Is(err, io.EOF) {
			return text, form, nil
		}
		if err != nil {
			return nil, form, err
		}
		body := bytes.TrimLeft(line, " ")
		depth := len(line) - len(body)
		body = bytes.TrimRight(body, " \r\n")
		switch {
		case len(body) == 0 || body[0] == '#':
			if !mine {
				continue
			}
		case depth == 0 && body[0] != '-':
			mine = false
			if inside = string(body) == "entries:" || string(body) == "entries: {}"; inside {
				form = plainIndex
			}
			continue
		case !inside:
			continue
		case indent < 0 || depth == indent && body[0] != '-':
			indent = depth
			key, ok := bytes.CutSuffix(body, []byte(":"))
			if !ok {
				return nil, otherIndex, nil
			}
			mine = string(bytes.Trim(key, `"'`)) == chart
		}
		if mine {
			if text = append(text, line...); len(text) > mostChart {
				return nil, form, &Error{Class: ErrTooLarge, Text: fmt.Sprintf("the index has more than %d MiB about chart %s", mostChart>>20, quote(chart)), Next: "drop old versions from it"}
			}
		}
	}
}

// boundedLine reads a line into whole; a file may be one line alone.
func boundedLine(in *bufio.Reader, whole []byte) ([]byte, error) {
	for {
		part, err := in.ReadSlice('\n')
		whole = append(whole, part...)
		switch {
		case len(whole) > mostChart:
			return nil, &Error{Class: ErrTooLarge, Text: "the index holds a line without end", Next: "make it with helm repo index"}
		case err == nil:
			return whole, nil
		case errors.Is(err, io.EOF) && len(whole) > 0:
			return append(whole, '\n'), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

// versionsOf understands YAML. Only the fields that are needed are decoded, so that aliases elsewhere expand to nothing.
func versionsOf(text []byte, chart string) ([]chartVersion, error) {
	var index struct {
		Entries map[string]yaml.Node `yaml:"entries"`
	}
	if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&index); err != nil {
		return nil, badIndex("the YAML does not parse")
	}
	node, ok := index.Entries[chart]
	if !ok {
		return nil, nil
	}
	var out []chartVersion
	if err := node.Decode(&out); err != nil {
		return nil, badIndex("what it says of chart " + quote(chart) + " is no list of versions")
	}
	return boundedVersions(out, chart)
}

func boundedVersions(all []chartVersion, chart string) ([]chartVersion, error) {
	if len(all) > mostVersion {
		return nil, &Error{Class: ErrTooLarge, Text: fmt.Sprintf("the index has more than %d versions of chart %s", mostVersion, quote(chart)), Next: "drop old versions from it"}
	}
	return all, nil
}

// indexedJSON goes through an index key by key.
func indexedJSON(in io.Reader, chart string) ([]chartVersion, error) {
	d := json.NewDecoder(in)
	var out []chartVersion
	err := members(d, func(key string) error {
		if key != "entries" {
			return skip(d)
		}
		return members(d, func(key string) error {
			if key != chart {
				return skip(d)
			}
			return d.Decode(&out)
		})
	})
	if err != nil {
		return nil, badIndex("the JSON does not parse")
	}
	return boundedVersions(out, chart)
}

// members calls visit after each key of an object; visit consumes the value.
func members(d *json.Decoder, visit func(key string) error) error {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.Join(err, errors.New("no object"))
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		name, _ := key.(string)
		if err := visit(name); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

// skip consumes a value without keeping it.
func skip(d *json.Decoder) error {
	for depth := 0; ; {
		t, err := d.Token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}
