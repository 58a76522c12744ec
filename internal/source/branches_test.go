package source

import (
	"errors"
	"maps"
	"testing"
)

func TestBranches(t *testing.T) {
	r := newRepo(t)
	first := r.write("a.yaml", "one").commit("first")
	r.git("branch", "feature/One")
	second := r.write("a.yaml", "two").commit("second")
	r.git("tag", "v1")
	s, err := Open(t.Context(), Config{Dir: t.TempDir(), KnownHosts: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Branches(t.Context(), Spec{URL: r.dir})
	if want := map[string]string{"main": second, "feature/One": first}; err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := s.Branches(t.Context(), Spec{URL: r.dir + "-none"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("error: %v", err)
	}
}

// A forge names a repository by other ways than an Application does.
func TestNamesOfARepository(t *testing.T) {
	for _, same := range [][]string{
		{"https://git.example.com/acme/infra", "https://git.example.com/acme/infra.git", "https://user:pw@Git.example.com:8443/acme/infra/", "git@git.example.com:acme/infra.git", "ssh://git@git.example.com:2222/acme/infra"},
		{"/srv/git/infra", "file:///srv/git/infra.git"},
		{"https://git.example.com/acme/other"},
		{"https://elsewhere.example.com/acme/infra"},
		{"https://[::1]:3000/acme/infra", "ssh://git@[::1]:22/acme/infra.git"},
	} {
		for _, url := range same {
			a, err := parseAddress(url, false)
			if err != nil {
				t.Fatal(err)
			}
			first, _ := parseAddress(same[0], false)
			if a.name() != first.name() {
				t.Errorf("%s is %s, and %s is %s", same[0], first.name(), url, a.name())
			}
		}
	}
	seen := map[string]bool{}
	for _, url := range []string{"https://a.example.com/x", "https://b.example.com/x", "https://a.example.com/y", "/x"} {
		a, _ := parseAddress(url, false)
		if seen[a.name()] {
			t.Errorf("%s shares a name", url)
		}
		seen[a.name()] = true
	}
}
