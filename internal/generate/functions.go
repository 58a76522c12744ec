package generate

import (
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/template"
)

// functions are those that names and paths are made with, under the names that Helm and Argo CD give them. One that can make much of little reckons how much
// before it makes anything: memory that is not there ends the daemon, and nothing recovers from it.
var functions = template.FuncMap{
	"lower":      strings.ToLower,
	"upper":      strings.ToUpper,
	"trim":       strings.TrimSpace,
	"replace":    replace,
	"trimPrefix": func(prefix, s string) string { return strings.TrimPrefix(s, prefix) },
	"trimSuffix": func(suffix, s string) string { return strings.TrimSuffix(s, suffix) },
	"trunc":      func(n int, s string) string { return s[:min(max(n, 0), len(s))] },
	"splitList":  func(by, s string) []string { return strings.Split(s, by) },
	"join":       join,
	"hasPrefix":  func(prefix, s string) bool { return strings.HasPrefix(s, prefix) },
	"hasSuffix":  func(suffix, s string) bool { return strings.HasSuffix(s, suffix) },
	"contains":   func(part, s string) bool { return strings.Contains(s, part) },
	"default": func(otherwise, v any) any {
		if v == nil || v == "" {
			return otherwise
		}
		return v
	},
	"normalize": Normalize,
}

// ofGo are the functions of Go's own that a template may use besides. The others print (printf with a width, js that doubles what it is given) or call.
var ofGo = []string{"and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "index", "slice", "len"}

func isFunction(name string) bool { return functions[name] != nil || slices.Contains(ofGo, name) }

func replace(old, new, s string) (string, error) {
	if err := short(len(s) + strings.Count(s, old)*(len(new)-len(old))); err != nil {
		return "", err
	}
	return strings.ReplaceAll(s, old, new), nil
}

func join(by string, list []string) (string, error) {
	size := len(by) * len(list)
	for _, s := range list {
		size += len(s)
	}
	if err := short(size); err != nil {
		return "", err
	}
	return strings.Join(list, by), nil
}

// short refuses to make a text of so many bytes.
func short(bytes int) error {
	if bytes > most {
		return errors.New("the text becomes too long")
	}
	return nil
}

var outside = regexp.MustCompile(`[^a-z0-9.-]+`)

// Normalize makes a name for objects of any text: lower case, letters, digits, dots and dashes, at most 63.
func Normalize(s string) string {
	s = outside.ReplaceAllString(strings.ToLower(s), "-")
	s = strings.Trim(s, "-.")
	return strings.Trim(s[:min(len(s), 63)], "-.")
}

func namesOf(p Params) []string { return slices.Sorted(maps.Keys(p)) }
