package source

import (
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

// kind is how a source is asked and read. What comes after a Snapshot knows no kinds.
type kind int

const (
	gitKind  kind = iota
	ociKind       // an artifact of a registry
	helmKind      // a chart of a Helm repository over HTTP
)

// kindOf tells by the address's scheme, and by whether a chart is named, how a source is read.
func kindOf(a address, chart string) (kind, error) {
	if chart != "" && (strings.ContainsAny(chart, "/\\:@?#% ") || strings.HasPrefix(chart, ".")) {
		return 0, &Error{Class: ErrRefused, Text: "chart name " + quote(chart) + " is no plain name", Next: "write the chart's name alone; the folders before it belong to the URL"}
	}
	switch {
	case a.oci():
		return ociKind, nil
	case chart == "":
		return gitKind, nil
	case a.scheme == "https" || a.scheme == "http":
		return helmKind, nil
	}
	return 0, &Error{Class: ErrRefused, Text: "a chart is named, and the URL is neither a Helm repository's nor a registry's", Next: "write https://… or oci://…, or remove chart and name the chart's folder in path"}
}

// understood are the fields of a Ref that each kind knows.
var understood = map[kind][]string{
	gitKind:  {"branch", "tag", "semver", "commit"},
	ociKind:  {"tag", "semver", "digest"},
	helmKind: {"tag", "semver", "digest"},
}

// refField is a field of a Ref that is set, by its name in an Application.
type refField struct{ name, value string }

func (r Ref) set() []refField {
	var out []refField
	for _, f := range []refField{{"branch", r.Branch}, {"tag", r.Tag}, {"semver", r.Semver}, {"commit", r.Commit}, {"digest", r.Digest}} {
		if f.value != "" {
			out = append(out, f)
		}
	}
	return out
}

// validate refuses a ref that its kind does not know or would not accept, before it reaches a remote or a path.
func (r Ref) validate(k kind) error {
	set := r.set()
	if len(set) > 1 {
		return &Error{Class: ErrRefused, Text: "more than one of branch, tag, semver, commit and digest is set", Next: "keep one of them in ref"}
	}
	for _, f := range set {
		if !slices.Contains(understood[k], f.name) {
			return &Error{Class: ErrRefused, Text: "such a source has no " + f.name, Next: "use one of " + strings.Join(understood[k], ", ") + " in ref"}
		}
	}
	bad := func(kind, name string) error {
		return &Error{Class: ErrRefused, Text: kind + " " + quote(name) + " is no valid name", Next: "correct ref." + kind}
	}
	switch {
	case r.Branch != "" && plumbing.NewBranchReferenceName(r.Branch).Validate() != nil:
		return bad("branch", r.Branch)
	case r.Tag != "" && plumbing.NewTagReferenceName(r.Tag).Validate() != nil:
		return bad("tag", r.Tag)
	case r.Semver != "":
		_, err := versionRange(r.Semver)
		return err
	case r.Commit != "" && !isHash(r.Commit):
		return &Error{Class: ErrRefused, Text: "commit " + quote(r.Commit) + " is not 40 hexadecimal digits", Next: "write the whole commit in ref.commit"}
	case r.Digest != "" && !isDigest(r.Digest):
		return &Error{Class: ErrRefused, Text: "digest " + quote(r.Digest) + " is not sha256: and 64 hexadecimal digits", Next: "write the whole digest in ref.digest"}
	}
	return nil
}

func isDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}
