// Package redact is the one layer between what the process knows and what it says. Text, errors and log
// records go in; the same come out without credentials: passwords in URLs, Authorization headers, bearer
// and basic tokens, PEM private keys, and every secret value that was registered before.
//
// It does not decide what is a secret in a Kubernetes object and it does not encrypt: whoever reads a
// credential registers its value with Register (or keeps a Set of its own), and whoever writes for people
// passes the text through String, Error or Handler.
package redact

import (
	"encoding/base64"
	"net/url"
	"regexp"
	"sort"
	"strings"
	"sync"
)

// Mask stands in the place of everything that was taken out.
const Mask = "[redacted]"

// minimum is the length below which a registered value is ignored: replacing "a" everywhere would make
// text unreadable and tell the value by what is missing.
const minimum = 4

// Set is a set of secret values. The zero value is ready, and safe for concurrent use.
type Set struct {
	mu     sync.RWMutex
	counts map[string]int
	sorted []string // longest first, so that a value that contains another goes as a whole
}

var known Set

// Register makes the values unspeakable for the whole process until the function it returns is called.
func Register(values ...string) (forget func()) { return known.Register(values...) }

// String takes every credential it recognises, and every registered value, out of s.
func String(s string) string { return known.String(s) }

// Error returns an error whose text is redacted; errors.Is and errors.As still see the original.
// The original's own text stays reachable through errors.As, so print the outermost error only.
func Error(err error) error { return known.Error(err) }

// Register adds values, and the forms in which they appear in URLs and in headers, to the set.
func (s *Set) Register(values ...string) (forget func()) {
	var added []string
	for _, v := range values {
		added = append(added, forms(v)...)
	}
	s.count(added, 1)
	var once sync.Once
	return func() { once.Do(func() { s.count(added, -1) }) }
}

func (s *Set) count(values []string, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts == nil {
		s.counts = make(map[string]int)
	}
	for _, v := range values {
		if s.counts[v] += by; s.counts[v] <= 0 {
			delete(s.counts, v)
		}
	}
	s.sorted = make([]string, 0, len(s.counts))
	for v := range s.counts {
		s.sorted = append(s.sorted, v)
	}
	sort.Slice(s.sorted, func(i, j int) bool {
		if len(s.sorted[i]) != len(s.sorted[j]) {
			return len(s.sorted[i]) > len(s.sorted[j])
		}
		return s.sorted[i] < s.sorted[j]
	})
}

// forms lists how a value may be spelled: as it is, trimmed, in a URL, in base64, and line by line when it
// has lines (a private key is quoted in parts).
func forms(value string) []string {
	trimmed := strings.TrimSpace(value)
	candidates := []string{
		value, trimmed,
		url.PathEscape(trimmed), url.QueryEscape(trimmed), url.UserPassword("", trimmed).String()[1:],
		base64.StdEncoding.EncodeToString([]byte(value)), base64.StdEncoding.EncodeToString([]byte(trimmed)),
	}
	if strings.Contains(trimmed, "\n") {
		for _, line := range strings.Split(trimmed, "\n") {
			if line = strings.TrimSpace(line); len(line) > 16 && !strings.HasPrefix(line, "-----") {
				candidates = append(candidates, line)
			}
		}
	}
	seen := make(map[string]bool)
	var out []string
	for _, c := range candidates {
		if len(c) >= minimum && !seen[c] {
			seen[c] = true
			out = append(out, c)
		}
	}
	return out
}

// The patterns know credentials by their surroundings, so that one that nobody registered is caught too.
var patterns = []struct {
	re   *regexp.Regexp
	with string
}{
	// user:password@ and token@ in a URL (RFC 3986, userinfo). The user name of ssh://git@host says nothing.
	{regexp.MustCompile(`(?i)\b([a-z][a-z0-9+.-]*://)[^\s/?#@:]*:[^\s/?#]*@`), "${1}" + Mask + "@"},
	{regexp.MustCompile(`(?i)\b(https?://)[^\s/?#@]+@`), "${1}" + Mask + "@"},
	// Authorization headers and bare schemes (RFC 7617, RFC 6750).
	{regexp.MustCompile(`(?i)\b((?:proxy-)?authorization["']?\s*[:=]\s*\[?["']?)(?:(?:bearer|basic|token|digest)\s+)?[^\s"',\]]+`), "${1}" + Mask},
	{regexp.MustCompile(`(?i)\b(bearer|basic)(\s+)[a-z0-9+/_.~-]{12,}=*`), "${1}${2}" + Mask},
	// Credentials in query parameters.
	{regexp.MustCompile(`(?i)([?&](?:access_token|private_token|token|password|api_key|secret|sig|signature)=)[^&\s"']+`), "${1}" + Mask},
	// A JSON web token stands for itself (RFC 7519): three base64url parts of which the first is an object.
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`), Mask},
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|$)`), Mask},
}

// String takes the set's values and every recognisable credential out of text.
func (s *Set) String(text string) string {
	if text == "" {
		return text
	}
	s.mu.RLock()
	for _, v := range s.sorted {
		text = strings.ReplaceAll(text, v, Mask)
	}
	s.mu.RUnlock()
	for _, p := range patterns {
		text = p.re.ReplaceAllString(text, p.with)
	}
	return text
}

// Error is the package's Error with this set's values.
func (s *Set) Error(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	clean := s.String(text)
	if clean == text {
		return err
	}
	return &redacted{text: clean, err: err}
}

type redacted struct {
	text string
	err  error
}

func (r *redacted) Error() string { return r.text }
func (r *redacted) Unwrap() error { return r.err }
