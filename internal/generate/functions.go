package generate

import (
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/template"
)

// functions are those that names and paths are made with, under the names that Helm and Argo CD give them. What could make much of little (printf with a
// width) is taken away.
var functions = template.FuncMap{
	"lower":      strings.ToLower,
	"upper":      strings.ToUpper,
	"trim":       strings.TrimSpace,
	"replace":    func(old, new, s string) (string, error) { return short(strings.ReplaceAll(s, old, new)) },
	"trimPrefix": func(prefix, s string) string { return strings.TrimPrefix(s, prefix) },
	"trimSuffix": func(suffix, s string) string { return strings.TrimSuffix(s, suffix) },
	"trunc":      func(n int, s string) string { return s[:min(max(n, 0), len(s))] },
	"splitList":  func(by, s string) []string { return strings.Split(s, by) },
	"join":       func(by string, list []string) (string, error) { return short(strings.Join(list, by)) },
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
	"printf":    refused("printf"),
	"print":     refused("print"),
	"println":   refused("println"),
	"call":      refused("call"),
}

func refused(name string) func(...any) (string, error) {
	return func(...any) (string, error) { return "", errors.New("the function " + name + " is not there") }
}

func short(s string) (string, error) {
	if len(s) > most {
		return "", errors.New("the text becomes too long")
	}
	return s, nil
}

var outside = regexp.MustCompile(`[^a-z0-9.-]+`)

// Normalize makes a name for objects of any text: lower case, letters, digits, dots and dashes, at most 63.
func Normalize(s string) string {
	s = outside.ReplaceAllString(strings.ToLower(s), "-")
	s = strings.Trim(s, "-.")
	return strings.Trim(s[:min(len(s), 63)], "-.")
}

func namesOf(p Params) []string { return slices.Sorted(maps.Keys(p)) }
