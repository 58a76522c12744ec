package generate

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"sigs.k8s.io/yaml"
)

const (
	// mostSets is how many sets of parameters one generator may give.
	mostSets = 5_000
	// mostFile is how long a file of parameters may be, in bytes.
	mostFile = 1 << 20
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
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !d.Type().IsRegular() {
			return err
		}
		if ok, err := chosen(name, patterns); err != nil || !ok {
			return err
		}
		p, err := readParams(fsys, name)
		if err != nil {
			return err
		}
		out = append(out, p)
		return enough(len(out))
	})
	return out, err
}

func readParams(fsys fs.FS, name string) (Params, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if info.Size() > mostFile {
		return nil, fmt.Errorf("%s: the file is too long for parameters; at most %d bytes", name, mostFile)
	}
	data, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, err
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

// match compares step by step; ** stands for any number of folders.
func match(pattern, name []string) (bool, error) {
	for len(pattern) > 0 {
		if pattern[0] == "**" {
			for n := range len(name) + 1 {
				if ok, err := match(pattern[1:], name[n:]); ok || err != nil {
					return ok, err
				}
			}
			return false, nil
		}
		if len(name) == 0 {
			return false, nil
		}
		if ok, err := path.Match(pattern[0], name[0]); !ok || err != nil {
			return false, err
		}
		pattern, name = pattern[1:], name[1:]
	}
	return len(name) == 0, nil
}
