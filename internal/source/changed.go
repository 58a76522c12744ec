package source

import (
	"path"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// mostChanged is up to how many paths Changed tells them one by one.
const mostChanged = 50_000

// Changed returns the paths at which two commits of one repository differ: files that were changed, added or removed, folders
// that came or went with all that is below them, and folders of which the listing differs. Folders that are equal are not
// read. False when it cannot be told, or when it is too much to tell; then anything may have changed.
func Changed(from, to Snapshot) (paths []string, ok bool) {
	a, okA := from.FS.(*tree)
	b, okB := to.FS.(*tree)
	if !okA || !okB || a.m != b.m {
		return nil, false
	}
	c := changes{a: a, b: b}
	if err := c.folder(".", a.root, b.root); err != nil || len(c.paths) > mostChanged {
		return nil, false
	}
	return c.paths, true
}

// changes is a walk through two trees at once.
type changes struct {
	a, b  *tree
	paths []string
}

func (c *changes) folder(folder string, a, b plumbing.Hash) error {
	if a == b || len(c.paths) > mostChanged {
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
		var old, new object.TreeEntry
		var name string
		switch {
		case j == len(after) || (i < len(before) && before[i].Name < after[j].Name):
			old, name, i = before[i], before[i].Name, i+1
		case i == len(before) || after[j].Name < before[i].Name:
			new, name, j = after[j], after[j].Name, j+1
		default:
			old, new, name, i, j = before[i], after[j], before[i].Name, i+1, j+1
		}
		if old.Hash == new.Hash && old.Mode == new.Mode {
			continue
		}
		listing = listing || old.Mode != new.Mode
		if err := c.entry(join(folder, name), old, new); err != nil {
			return err
		}
	}
	if listing {
		c.paths = append(c.paths, folder)
	}
	return nil
}

// entry tells of one name that differs. The zero entry stands for absent.
func (c *changes) entry(name string, old, new object.TreeEntry) error {
	wasFolder, isFolder := old.Mode == filemode.Dir, new.Mode == filemode.Dir
	if !wasFolder || !isFolder {
		c.paths = append(c.paths, name)
	}
	if !wasFolder && !isFolder {
		return nil
	}
	var a, b plumbing.Hash
	if wasFolder {
		a = old.Hash
	}
	if isFolder {
		b = new.Hash
	}
	return c.folder(name, a, b)
}

// listed are the entries of a folder; none of one that is not there.
func listed(t *tree, h plumbing.Hash) ([]object.TreeEntry, error) {
	if h.IsZero() {
		return nil, nil
	}
	return t.entries(h)
}

// Direct says that no symbolic link lies on the way to name, so that what is seen there changes only when Changed names it.
func (s Snapshot) Direct(name string) bool {
	t, ok := s.FS.(*tree)
	if !ok {
		return false
	}
	at := t.root
	for part := range strings.SplitSeq(path.Clean(name), "/") {
		if part == "." {
			break
		}
		next, err := t.child(found{TreeEntry: object.TreeEntry{Mode: filemode.Dir, Hash: at}}, part)
		switch {
		case err != nil:
			return true // absent: what would be added is named
		case next.Mode == filemode.Symlink:
			return false
		case !next.dir():
			return true
		}
		at = next.Hash
	}
	return true
}
