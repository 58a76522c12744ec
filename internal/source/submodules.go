package source

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"weak"

	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// What a superproject may ask for: submodules of submodules of …, and all of them together.
const (
	deepestSubmodule = 4
	mostSubmodules   = 64
	longestModules   = 128 << 10 // bytes of a .gitmodules; the parser takes time by the square of its sections
)

// submodule is an entry of .gitmodules (gitmodules(5)). Its name and everything else that Git would keep in a
// configuration or run as a command is not looked at.
type submodule struct{ path, url string }

// parseModules reads a .gitmodules. The submodules are sorted by path.
func parseModules(data []byte) ([]submodule, error) {
	bad := func(text string) error {
		return &Error{Class: ErrRefused, Text: ".gitmodules " + text, Next: "correct it, or turn spec.source.submodules off"}
	}
	if len(data) > longestModules {
		return nil, &Error{Class: ErrTooLarge, Text: fmt.Sprintf(".gitmodules is longer than %d KiB", longestModules>>10), Next: "turn spec.source.submodules off"}
	}
	modules := config.NewModules()
	if err := modules.Unmarshal(data); err != nil {
		return nil, bad("cannot be parsed: " + oneLine(err.Error()))
	}
	byPath := map[string]submodule{}
	for _, m := range modules.Submodules {
		p := strings.TrimSuffix(m.Path, "/")
		switch {
		case !fs.ValidPath(p) || p == "." || slices.ContainsFunc(strings.Split(p, "/"), isDotGit):
			return nil, bad("names the path " + quote(m.Path))
		case m.URL == "":
			return nil, bad("has no url for " + quote(p))
		case byPath[p] != submodule{}:
			return nil, bad("names " + quote(p) + " twice")
		}
		byPath[p] = submodule{p, m.URL}
	}
	out := make([]submodule, 0, len(byPath))
	for _, p := range slices.Sorted(maps.Keys(byPath)) {
		out = append(out, byPath[p])
	}
	return out, nil
}

// address is where a submodule's repository is: a URL that begins with ./ or ../ is relative to its superproject's, as in
// git-submodule(1). A repository elsewhere cannot name folders of this machine.
func (s submodule) address(super address) (address, error) {
	if strings.HasPrefix(s.url, "./") || strings.HasPrefix(s.url, "../") {
		return super.relative(s.url)
	}
	a, err := parseAddress(s.url, false)
	if err != nil {
		return a, err
	}
	k, err := kindOf(a, "")
	switch {
	case err != nil:
		return a, err
	case k != gitKind:
		return a, &Error{Class: ErrRefused, Text: "URL " + quote(a.String()) + " is no Git repository's", Next: "correct it"}
	case a.scheme == "file" && super.scheme != "file":
		return a, &Error{Class: ErrRefused, Text: "URL " + quote(a.String()) + " names a folder of this machine", Next: "name a repository that can be reached from elsewhere"}
	}
	return a, nil
}

func (a address) relative(to string) (address, error) {
	parts := strings.Split(strings.Trim(a.path, "/"), "/")
	for part := range strings.SplitSeq(to, "/") {
		switch {
		case part == "" || part == ".":
		case part != "..":
			parts = append(parts, part)
		case len(parts) == 0:
			return a, &Error{Class: ErrRefused, Text: "URL " + quote(to) + " leads out of " + quote(a.String()), Next: "correct it"}
		default:
			parts = parts[:len(parts)-1]
		}
	}
	rooted := strings.HasPrefix(a.path, "/")
	a.path = strings.Join(parts, "/")
	if rooted {
		a.path = "/" + a.path
	}
	return parseAddress(a.withUser(), false)
}

// withUser is the address as it can be parsed again, with the credentials of its own.
func (a address) withUser() string {
	if a.scheme == "ssh" || a.user+a.password == "" {
		return a.String()
	}
	return strings.Replace(a.String(), "://", "://"+userinfo(a.user, a.password)+"@", 1)
}

// sameOrigin says whether what may be shown to one address may be shown to the other.
func (a address) sameOrigin(b address) bool {
	return a.scheme == b.scheme && a.host == b.host && (a.scheme != "ssh" || a.user == b.user)
}

// laying lays the files of submodules over a superproject's.
type laying struct {
	modules map[string]*tree
	// bring gives the files of a commit of a submodule's repository.
	bring func(a address, commit string) (*tree, error)
}

// withSubmodules returns the same commit, with the files of all submodules that its .gitmodules names where their gitlinks are.
func withSubmodules(t *tree, a address, bring func(address, string) (*tree, error)) (*tree, error) {
	l := &laying{modules: map[string]*tree{}, bring: bring}
	if err := l.lay(t, "", a, 1); err != nil {
		return nil, err
	}
	return &tree{m: t.m, root: t.root, when: t.when, folders: map[plumbing.Hash][]object.TreeEntry{}, modules: l.modules, plain: t}, nil
}

func (l *laying) lay(t *tree, at string, a address, depth int) error {
	modules, err := t.gitmodules()
	if err != nil {
		return err
	}
	for _, m := range modules {
		link, err := t.gitlink(m.path)
		if err != nil {
			return err
		}
		if link.IsZero() {
			continue // Git ignores it too
		}
		if err := l.one(m, link, at, a, depth); err != nil {
			inner := classed(context.Background(), err)
			return &Error{Class: inner.Class, Text: "submodule " + quote(join(at, m.path)) + ": " + inner.Error()}
		}
	}
	return nil
}

func (l *laying) one(m submodule, link plumbing.Hash, at string, super address, depth int) error {
	switch {
	case depth > deepestSubmodule:
		return &Error{Class: ErrTooLarge, Text: fmt.Sprintf("submodules are nested deeper than %d", deepestSubmodule), Next: "bring it nearer to the top"}
	case len(l.modules) == mostSubmodules:
		return &Error{Class: ErrTooLarge, Text: fmt.Sprintf("there are more than %d submodules", mostSubmodules), Next: "make Applications of some of their repositories"}
	}
	a, err := m.address(super)
	if err != nil {
		return err
	}
	t, err := l.bring(a, link.String())
	if err != nil {
		return err
	}
	path := join(at, m.path)
	l.modules[path] = t
	return l.lay(t, path, a, depth+1)
}

// gitmodules reads the .gitmodules at the root, if there is one. One that is a link could be read as something else than
// people see there, so that Git refuses it too.
func (t *tree) gitmodules() ([]submodule, error) {
	f, err := t.child(t.top(), ".gitmodules")
	switch {
	case err == fs.ErrNotExist:
		return nil, nil
	case err != nil:
		return nil, err
	case f.Mode != filemode.Regular && f.Mode != filemode.Executable && f.Mode != filemode.Deprecated:
		return nil, &Error{Class: ErrRefused, Text: ".gitmodules is no plain file", Next: "make it one, or turn spec.source.submodules off"}
	}
	if size, err := t.m.size(f.Hash); err != nil || size > longestModules {
		if err == nil {
			_, err = parseModules(make([]byte, longestModules+1))
		}
		return nil, err
	}
	data, err := t.m.blob(f.Hash)
	if err != nil {
		return nil, err
	}
	return parseModules(data)
}

// gitlink is the commit that a submodule is pinned to, zero when the path is none. Links on the way are not followed.
func (t *tree) gitlink(path string) (plumbing.Hash, error) {
	at := t.top()
	for part := range strings.SplitSeq(path, "/") {
		if !at.dir() {
			return plumbing.ZeroHash, nil
		}
		next, err := t.child(at, part)
		switch {
		case err == fs.ErrNotExist:
			return plumbing.ZeroHash, nil
		case err != nil:
			return plumbing.ZeroHash, err
		}
		at = next
	}
	if at.Mode != filemode.Submodule {
		return plumbing.ZeroHash, nil
	}
	return at.Hash, nil
}

// readWithSubmodules is the check of a remote whose submodules are read too. Each is asked for as anybody would ask for it:
// with the credentials that its address may have.
func (r *remote) readWithSubmodules(ctx context.Context, refs []Ref) (map[Ref]result, error) {
	out, err := r.read(ctx, refs)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.store.cfg.Limits.Total,
		&Error{Class: ErrTimeout, Text: "the fetch of the submodules took longer than " + r.store.cfg.Limits.Total.String(), Next: "check the Git servers; gitopsd tries again by itself"})
	defer cancel()
	for _, ref := range refs {
		if got := out[ref]; got.err == nil {
			got.snapshot.FS, err = r.laid(ctx, got.snapshot)
			if err != nil {
				got = result{err: classify(ctx, r.addr.String(), err)}
			}
			out[ref] = got
		}
	}
	return out, nil
}

// laid is the snapshot's tree with its submodules. As long as somebody holds it nobody is asked again: a commit and its
// gitlinks never change.
func (r *remote) laid(ctx context.Context, s Snapshot) (*tree, error) {
	if t := r.overlays[s.Commit].Value(); t != nil {
		return t, nil
	}
	t, err := withSubmodules(s.FS.(*tree), r.addr, func(a address, commit string) (*tree, error) {
		sub, err := r.store.Snapshot(ctx, Spec{URL: a.withUser(), Ref: Ref{Commit: commit}, Credentials: r.given.forSubmodule(r.addr, a)})
		if err != nil {
			return nil, err
		}
		return sub.FS.(*tree), nil
	})
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(r.overlays, func(_ string, t weak.Pointer[tree]) bool { return t.Value() == nil })
	r.overlays[s.Commit] = weak.Make(t)
	return t, nil
}

// laidOffline is laid of what the mirrors hold.
func (s *Store) laidOffline(t *tree, super address) (*tree, error) {
	return withSubmodules(t, super, func(a address, commit string) (*tree, error) {
		sub, err := s.commitAt(a, Ref{Commit: commit}, commit)
		if err != nil {
			return nil, err
		}
		return sub.FS.(*tree), nil
	})
}

// forSubmodule is what of a superproject's credentials may be used for a submodule: all of it at the same origin, and
// elsewhere the lines that name their host themselves. What a server is recognised by is no secret.
func (c *Credentials) forSubmodule(super, sub address) *Credentials {
	if c == nil {
		return nil
	}
	if super.sameOrigin(sub) {
		return c
	}
	return &Credentials{lines: c.lines, KnownHosts: c.KnownHosts, CABundle: c.CABundle, Proxy: c.Proxy}
}
