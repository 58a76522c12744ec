package source

import (
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// versionRange reads a range of versions as Helm and Flux do.
func versionRange(text string) (*semver.Constraints, error) {
	r, err := semver.NewConstraint(text)
	if err != nil || len(text) > 256 {
		return nil, &Error{Class: ErrRefused, Text: "semver " + quote(text) + " is no range of versions", Next: "write one such as 1.x, ~1.2.3 or \">=1.2.0 <2.0.0\" in ref.semver"}
	}
	return r, nil
}

// strictVersion reads the name of a Git tag or of a registry's as Flux does: X.Y.Z with or without v. 20260114 is no version,
// nor is 1.2.
func strictVersion(name string) (*semver.Version, error) {
	if _, err := semver.StrictNewVersion(strings.TrimPrefix(name, "v")); err != nil {
		return nil, err
	}
	return semver.NewVersion(name)
}

// highest returns the name of the highest version in the range, as read takes them: strictVersion, or semver.NewVersion for an
// index of charts, as Helm reads it. Names that are no versions are passed over. Pre-releases count only if the range names one. Of two names of one version the one without v is taken,
// or the one that comes first by its bytes, whatever their order was.
func highest(rangeText string, names []string, read func(string) (*semver.Version, error)) (string, error) {
	within, err := versionRange(rangeText)
	if err != nil {
		return "", err
	}
	var all []*semver.Version
	var best *semver.Version
	for _, name := range names {
		v, err := read(name)
		if err != nil {
			continue
		}
		all = append(all, v)
		if within.Check(v) && (best == nil || byPrecedence(v, best) > 0) {
			best = v
		}
	}
	if best == nil {
		return "", noVersion(rangeText, within, all)
	}
	return best.Original(), nil
}

// byPrecedence compares versions, and the names of those that are equal, so that the order in which they came does not matter.
func byPrecedence(a, b *semver.Version) int {
	if c := a.Compare(b); c != 0 {
		return c
	}
	if c := strings.Compare(a.Metadata(), b.Metadata()); c != 0 {
		return c
	}
	return -strings.Compare(strings.TrimPrefix(a.Original(), "v")+a.Original(), strings.TrimPrefix(b.Original(), "v")+b.Original())
}

// noVersion names the versions that a person may have meant: the highest ones, pre-releases apart.
func noVersion(rangeText string, within *semver.Constraints, all []*semver.Version) error {
	const shown = 3
	slices.SortFunc(all, func(a, b *semver.Version) int { return byPrecedence(b, a) })
	var near, early []string
	for _, v := range all {
		switch {
		case v.Prerelease() == "" && len(near) < shown:
			near = append(near, quote(v.Original()))
		case v.Prerelease() != "" && len(early) < shown && inRangeAsRelease(v, within):
			early = append(early, quote(v.Original()))
		}
	}
	e := &Error{Class: ErrRefNotFound, Text: "no tag is in the range " + quote(rangeText), Next: "push one, or correct ref.semver"}
	switch {
	case len(all) == 0:
		e.Text += ", and none is a version such as 1.2.3 or v1.2.3"
	case len(near) > 0:
		e.Text += "; the highest are " + strings.Join(near, ", ")
	}
	if len(early) > 0 {
		e.Next = "the pre-releases " + strings.Join(early, ", ") + " would be in it if the range named one, as >=1.2.0-0 does"
	}
	return e
}

// inRangeAsRelease says whether a pre-release is kept out of a range by nothing but being one.
func inRangeAsRelease(v *semver.Version, within *semver.Constraints) bool {
	release, err := v.SetPrerelease("")
	return err == nil && within.Check(&release)
}
