package render

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"strings"
)

// Inputs is everything of the files that a render looked at, by path: what it read, which folders it listed, and
// what it looked for and did not find. With the same Options the same inputs give the same result, as far as the
// files do not call a random function or a clock.
type Inputs map[string]Input

// Input is what was seen of one path. A field that is empty was not looked at. Instead of what it says, each
// may be "absent", and "error" where the files refused to answer.
type Input struct {
	Type    string `json:"type,omitempty"`    // "file", "dir" or "link", without following a link
	Leads   string `json:"leads,omitempty"`   // "file" or "dir", after following links
	Content string `json:"content,omitempty"` // SHA-256 of the file's bytes
	Names   string `json:"names,omitempty"`   // SHA-256 of the folder's listing
	Target  string `json:"target,omitempty"`  // of the link
	// Answer is the SHA-256 of what the cluster said. Its name is no path: see LookupName.
	Answer   string         `json:"answer,omitempty"`
	Question LookupQuestion `json:"question,omitzero"`
}

// LookupName is the name of a question to the cluster among Inputs. It begins with a slash, as no path of a file does.
func LookupName(q LookupQuestion) string { return "/lookup " + q.String() }

// IsPath says whether a name among Inputs is that of a file.
func IsPath(name string) bool { return !strings.HasPrefix(name, "/") }

// Asks reports whether the cluster was asked anything.
func (in Inputs) Asks() bool {
	for name := range in {
		if !IsPath(name) {
			return true
		}
	}
	return false
}

// MatchAnswers reports whether a cluster answers all questions as it did then.
func (in Inputs) MatchAnswers(ctx context.Context, ask Lookup) bool {
	for name, want := range in {
		if IsPath(name) {
			continue
		}
		if ask == nil {
			return false
		}
		answer, err := ask(ctx, want.Question)
		if answered(answer, err) != want.Answer {
			return false
		}
	}
	return true
}

// answered is what is kept of an answer.
func answered(answer []byte, err error) string {
	switch {
	case err != nil:
		return "error"
	case answer == nil:
		return "absent"
	}
	return sum(answer)
}

// Hash is one name for all of it.
func (in Inputs) Hash() string {
	paths := make([]string, 0, len(in))
	for p := range in {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	h := sha256.New()
	for _, p := range paths {
		fmt.Fprintf(h, "%q %+v\n", p, in[p])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Match reports whether fsys looks the same in every place the render looked at, so that its result still
// holds. It reads no more than the render did.
func (in Inputs) Match(fsys fs.FS) bool {
	for p, want := range in {
		if IsPath(p) && observe(fsys, p, want) != want {
			return false
		}
	}
	return true
}

// observe looks at what want looked at.
func observe(fsys fs.FS, p string, want Input) Input {
	got := Input{}
	if want.Type != "" {
		info, err := fs.Lstat(fsys, p)
		got.Type = typeOf(info, err)
	}
	if want.Leads != "" {
		info, err := fs.Stat(fsys, p)
		got.Leads = typeOf(info, err)
	}
	if want.Content != "" {
		data, err := fs.ReadFile(fsys, p)
		got.Content = seen(sum(data), err)
	}
	if want.Names != "" {
		entries, err := fs.ReadDir(fsys, p)
		got.Names = seen(listing(entries), err)
	}
	if want.Target != "" {
		target, err := fs.ReadLink(fsys, p)
		got.Target = seen(target, err)
	}
	return got
}

func seen(what string, err error) string {
	switch {
	case err == nil:
		return what
	case errors.Is(err, fs.ErrNotExist):
		return "absent"
	}
	return "error"
}

func typeOf(info fs.FileInfo, err error) string {
	switch {
	case err != nil:
		return seen("", err)
	case info.Mode()&fs.ModeSymlink != 0:
		return "link"
	case info.IsDir():
		return "dir"
	}
	return "file"
}

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

// listing is the hash of names and types, which is what a listing tells.
func listing(entries []fs.DirEntry) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%q %s\n", e.Name(), e.Type())
	}
	return sum([]byte(b.String()))
}
