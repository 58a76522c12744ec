package generate

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"sigs.k8s.io/yaml"
)

const (
	// mostSets is how many sets of parameters one generator may give.
	mostSets = 5_000
	// mostFile and mostFiles are how many bytes a file of parameters may have, and all that one generator reads.
	mostFile  = 1 << 20
	mostFiles = 4 << 20
	// mostValues is how many values they may hold together: in memory a small one is forty times as large as in its file.
	mostValues = 100_000
)

// Directories are the parameters of the folders of a tree that the patterns match. Folders whose name begins with a dot are left out.
func Directories(fsys fs.FS, patterns []v1alpha1.PathPattern) ([]Params, error) {
	var out []Params
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || name == "." {
			return err
		}
		if strings.HasPrefix(path.Base(name), ".") {
			return fs.SkipDir
		}
		if ok, err := chosen(name, patterns); err != nil || !ok {
			return err
		}
		out = append(out, Params{"path": pathParams(name)})
		return enough(len(out))
	})
	return out, err
}

// Files are the parameters that the files of a tree hold which the patterns match.
func Files(fsys fs.FS, patterns []v1alpha1.PathPattern) ([]Params, error) {
	var out []Params
	r := &reading{fsys: fsys}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !d.Type().IsRegular() {
			return err
		}
		if ok, err := chosen(name, patterns); err != nil || !ok {
			return err
		}
		p, err := r.params(name)
		if err != nil {
			return err
		}
		out = append(out, p)
		return enough(len(out))
	})
	return out, err
}

// reading are the files of one generator, and what they came to so far. Strangers write them, and they are read in the daemon.
type reading struct {
	fsys          fs.FS
	bytes, values int
}

func (r *reading) params(name string) (Params, error) {
	info, err := fs.Stat(r.fsys, name)
	if err != nil {
		return nil, err
	}
	if info.Size() > mostFile {
		return nil, fmt.Errorf("%s: the file is too long for parameters; at most %d bytes", name, mostFile)
	}
	data, err := fs.ReadFile(r.fsys, name)
	if err != nil {
		return nil, err
	}
	if err := r.count(data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p := Params{}
	if err := yaml.Unmarshal(data, &p); err != nil || p == nil {
		return nil, fmt.Errorf("%s: the file is no YAML or JSON map, so it gives no parameters", name)
	}
	where := pathParams(path.Dir(name))
	where["filename"] = path.Base(name)
	p["path"] = where
	return p, nil
}

// anchor and alias are where YAML could take a value from elsewhere in the file. Nothing that stands in the middle of a word is one.
var (
	anchor = regexp.MustCompile(`(?:^|[^0-9A-Za-z_/.=+])&[0-9A-Za-z_-]`)
	alias  = regexp.MustCompile(`(?:^|[^0-9A-Za-z_/.=+])\*[0-9A-Za-z_-]`)
)

// count refuses a file that would become too much, before it is parsed.
func (r *reading) count(data []byte) error {
	switch {
	case !utf8.Valid(data):
		return errors.New("the file is no UTF-8")
	case bytes.ContainsRune(data, '&') && anchor.Match(data) && alias.Match(data): // a long value that is there a thousand times takes a few bytes each
		return errors.New("a file of parameters may have no anchors and aliases; write the values out")
	}
	r.bytes += len(data)
	r.values += values(data)
	if r.bytes > mostFiles || r.values > mostValues {
		return fmt.Errorf("the files up to this one hold too much: at most %d MiB and %d values for one generator; make its patterns narrower", mostFiles>>20, mostValues)
	}
	return nil
}

// values is how many values YAML holds at most: there is a sign of its syntax before each but the first.
func values(data []byte) int {
	n := 1
	for i, b := range data {
		switch b {
		case '{', '[', ',', ':', '?':
			n++
		case '-':
			if i+1 == len(data) || !word(data[i+1]) {
				n++
			}
		}
	}
	return n
}

func word(b byte) bool { return b > ' ' && b < utf8.RuneSelf }

func pathParams(folder string) map[string]any {
	var segments []any
	for part := range strings.SplitSeq(folder, "/") {
		segments = append(segments, part)
	}
	return map[string]any{"path": folder, "basename": path.Base(folder), "basenameNormalized": Normalize(path.Base(folder)), "segments": segments}
}

func enough(n int) error {
	if n > mostSets {
		return fmt.Errorf("the patterns match more than %d; make them narrower", mostSets)
	}
	return nil
}

// chosen says whether a pattern matches a name, and none that excludes.
func chosen(name string, patterns []v1alpha1.PathPattern) (bool, error) {
	found := false
	for _, p := range patterns {
		ok, err := match(strings.Split(strings.Trim(p.Path, "/"), "/"), strings.Split(name, "/"))
		if err != nil {
			return false, fmt.Errorf("the pattern %q is not valid: %w", p.Path, err)
		}
		if ok && p.Exclude {
			return false, nil
		}
		found = found || ok
	}
	return found, nil
}

// match compares step by step; ** stands for any number of folders. It takes as many steps as the two are long, multiplied.
func match(pattern, name []string) (bool, error) {
	here := make([]bool, len(name)+1) // whether what we have seen of the pattern matches the first n folders
	here[0] = true
	for _, part := range pattern {
		next := make([]bool, len(name)+1)
		for n := range next {
			switch {
			case part == "**":
				next[n] = here[n] || n > 0 && next[n-1]
			case n > 0 && here[n-1]:
				ok, err := path.Match(part, name[n-1])
				if err != nil {
					return false, err
				}
				next[n] = ok
			}
		}
		here = next
	}
	return here[len(name)], nil
}
