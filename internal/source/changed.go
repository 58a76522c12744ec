package source

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/filemode"
)

// mostChanged is up to how many paths Changed tells them one by one.
const mostChanged = 50_000

// Changed returns the paths at which two commits of one repository differ: files that were changed, added or removed, folders
// that came or went with all that is below them, and folders of which the listing differs. Folders that are equal are not
// read. False when it cannot be told, or when it is too much to tell; then anything may have changed. A symbolic link that
// came, went or leads elsewhere cannot be told: files are seen through it under paths that no tree names.
func Changed(from, to Snapshot) (paths []string, ok bool) {
	if a, ok := from.FS.(*archive); ok {
		b, ok := to.FS.(*archive)
		if !ok || from.Repo != to.Repo {
			return nil, false
		}
		links := a.root.changed(b.root, &paths)
		return paths, !links && len(paths) <= mostChanged
	}
	a, okA := from.FS.(*tree)
	b, okB := to.FS.(*tree)
	if !okA || !okB || a.m != b.m {
		return nil, false
	}
	if !slices.Equal(slices.Sorted(maps.Keys(a.modules)), slices.Sorted(maps.Keys(b.modules))) || (a.modules == nil) != (b.modules == nil) {
		return nil, false // submodules came or went, which folders of one hash do not show
	}
	c := changes{a: a, b: b}
	if err := c.folder(a.top(), b.top()); err != nil || c.links || len(c.paths) > mostChanged {
		return nil, false
	}
	return c.paths, true
}

// changes is a walk through two trees at once.
type changes struct {
	a, b  *tree
	paths []string
	links bool // a symbolic link differs
}

// folder tells what differs in a folder, which both know by one path; the zero value stands for absent.
func (c *changes) folder(a, b found) error {
	if a.Hash == b.Hash || c.links || len(c.paths) > mostChanged {
		return nil
	}
	before, err := listed(c.a, a)
	if err != nil {
		return err
	}
	after, err := listed(c.b, b)
	if err != nil {
		return err
	}
	listing := false // whether names or types differ
	for i, j := 0, 0; i < len(before) || j < len(after); {
		var old, new found
		switch {
		case j == len(after) || (i < len(before) && before[i].Name < after[j].Name):
			old, i = before[i], i+1
		case i == len(before) || after[j].Name < before[i].Name:
			new, j = after[j], j+1
		default:
			old, new, i, j = before[i], after[j], i+1, j+1
		}
		if old.Hash == new.Hash && old.Mode == new.Mode {
			continue
		}
		listing = listing || old.Mode != new.Mode
		if err := c.entry(old, new); err != nil {
			return err
		}
	}
	if listing {
		c.paths = append(c.paths, cmp.Or(b.path, a.path))
	}
	return nil
}

// entry tells of one name that differs. The zero value stands for absent.
func (c *changes) entry(old, new found) error {
	c.links = c.links || old.Mode == filemode.Symlink || new.Mode == filemode.Symlink
	if !old.dir() || !new.dir() {
		c.paths = append(c.paths, cmp.Or(new.path, old.path))
	}
	if !old.dir() && !new.dir() {
		return nil
	}
	var a, b found
	if old.dir() {
		a = old
	}
	if new.dir() {
		b = new
	}
	return c.folder(a, b)
}

// listed are the entries of a folder; none of one that is not there.
func listed(t *tree, folder found) ([]found, error) {
	if folder.in == nil {
		return nil, nil
	}
	entries, err := folder.in.entries(folder.Hash)
	if err != nil {
		return nil, err
	}
	out := make([]found, len(entries))
	for i, e := range entries {
		out[i] = t.seen(folder, e)
	}
	return out, nil
}

// Direct says that no symbolic link lies on the way to name, so that what is seen there changes only when Changed names it or
// cannot tell.
func (s Snapshot) Direct(name string) bool {
	if a, ok := s.FS.(*archive); ok {
		return a.direct(name)
	}
	t, ok := s.FS.(*tree)
	if !ok {
		return false
	}
	at := t.top()
	for part := range strings.SplitSeq(path.Clean(name), "/") {
		if part == "." {
			break
		}
		next, err := t.child(at, part)
		switch {
		case err != nil:
			return true // absent: what would be added is named, and a link on the way to it is not certain
		case next.Mode == filemode.Symlink:
			return false
		case !next.dir():
			return true
		}
		at = next
	}
	return true
}
