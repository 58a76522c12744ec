package source

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"
)

func TestHighest(t *testing.T) {
	tags := []string{"v1.0.0", "1.2.0", "v1.10.1", "v1.10.1-rc.1", "2.0.0-beta.2", "v2.0.0-beta.10", "nightly", "1.2", "20260114", "v3", "1.3.1.1", "01.9.9", "release-9.9.9", "0.3.0"}
	for _, c := range []struct{ within, want string }{
		{"1.x", "v1.10.1"},
		{"^1.0.0", "v1.10.1"},
		{"~1.2", "1.2.0"},
		{"<1.0.0", "0.3.0"},
		{">=1.0.0 <1.10.1", "1.2.0"},
		{">=1.0.0-0 <1.10.1", "v1.10.1-rc.1"},
		{">=2.0.0-0", "v2.0.0-beta.10"},
		{">=1.0.0", "v1.10.1"}, // a date is no version
		{"1.0.0 || 0.3.0", "v1.0.0"},
		{"v1.10.x", "v1.10.1"},
	} {
		for range 2 { // the order in which tags come does not matter
			if got, err := highest(c.within, tags, strictVersion); err != nil || got != c.want {
				t.Errorf("%s: %q %v, want %q", c.within, got, err, c.want)
			}
			slices.Reverse(tags)
		}
	}
}

// An index of charts is read as Helm reads it: 1.2 is 1.2.0 under a name that sorts behind.
func TestHighestOfAnIndex(t *testing.T) {
	names := []string{"1.2", "1.2.0", "v1.1", "1.0.0"}
	for within, want := range map[string]string{"~1.2": "1.2.0", "1.1.x": "v1.1", "<=1.2.0": "1.2.0"} {
		for range 2 {
			if got, err := highest(within, names, semver.NewVersion); err != nil || got != want {
				t.Errorf("%s: %q %v, want %q", within, got, err, want)
			}
			slices.Reverse(names)
		}
	}
}

func TestNoVersionInRange(t *testing.T) {
	for _, c := range []struct {
		within string
		tags   []string
		says   []string
	}{
		{"3.x", []string{"1.0.0", "v2.1.0", "2.0.0", "v0.1.0", "x"}, []string{`no tag is in the range "3.x"`, `the highest are "v2.1.0", "2.0.0", "1.0.0"`}},
		{"2.x", []string{"1.0.0", "2.0.0-rc.1"}, []string{`pre-releases "2.0.0-rc.1" would be in it`}},
		{"2.x", []string{"main", "latest"}, []string{"none is a version"}},
		{"2.x", nil, []string{"none is a version"}},
	} {
		_, err := highest(c.within, c.tags, strictVersion)
		if !errors.Is(err, ErrRefNotFound) {
			t.Errorf("%s: %v", c.within, err)
			continue
		}
		for _, says := range c.says {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v\nsays not %s", c.within, err, says)
			}
		}
	}
	if _, err := highest("one point two", []string{"1.2.0"}, strictVersion); !errors.Is(err, ErrRefused) {
		t.Errorf("no range: %v", err)
	}
}

// A range follows the tags: over the wire and on a local repository, with tags that are annotated and such that are not.
func TestSemverRef(t *testing.T) {
	r := newRepo(t)
	first := r.write("a", "1").commit("first")
	r.git("tag", "v1.0.0")
	second := r.write("a", "2").commit("second")
	r.git("tag", "-a", "-m", "x", "1.1.0")
	r.write("a", "3").commit("third")
	r.git("tag", "2.0.0-rc.1")
	srv := gitHTTP(t, filepath.Dir(r.dir), nil)
	defer srv.Close()
	s := openStore(t, Limits{})
	for _, url := range []string{r.dir, srv.URL + "/repo"} {
		spec := Spec{URL: url, Ref: Ref{Semver: "1.x"}}
		snap, err := s.Snapshot(t.Context(), spec)
		if err != nil || snap.Commit != second || snap.Ref != "1.1.0" || read(t, snap.FS, "a") != "2" {
			t.Fatalf("%s: %s %s %v", url, snap.Commit, snap.Ref, err)
		}
		spec.Ref.Semver = "<1.1.0"
		if snap, err = s.Snapshot(t.Context(), spec); err != nil || snap.Commit != first || snap.Ref != "v1.0.0" {
			t.Fatalf("%s: %s %s %v", url, snap.Commit, snap.Ref, err)
		}
		spec.Ref.Semver = "9.x"
		if _, err = s.Snapshot(t.Context(), spec); !errors.Is(err, ErrRefNotFound) || !strings.Contains(err.Error(), `"1.1.0"`) {
			t.Fatalf("%s: %v", url, err)
		}
		spec.Ref.Branch = "main"
		if _, err = s.Snapshot(t.Context(), spec); !errors.Is(err, ErrRefused) {
			t.Fatalf("two refs: %v", err)
		}
	}
	if _, err := s.Snapshot(t.Context(), Spec{URL: r.dir, Ref: Ref{Digest: "sha256:" + strings.Repeat("0", 64)}}); !errors.Is(err, ErrRefused) {
		t.Errorf("a digest of Git: %v", err)
	}
	events := follow(t, s, Spec{URL: r.dir, Ref: Ref{Semver: "1.x"}}, 1<<40)
	if e := next(t, events); e.Snapshot.Commit != second {
		t.Fatalf("%+v", e)
	}
	fourth := r.write("a", "4").commit("fourth")
	r.git("tag", "v1.2.0")
	if e := next(t, events); e.Snapshot.Commit != fourth || e.Snapshot.Ref != "v1.2.0" {
		t.Fatalf("after a new tag: %+v", e)
	}
}
