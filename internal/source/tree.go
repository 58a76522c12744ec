package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// tree is a commit's files. It reads from the mirror's objects when asked and keeps the folders it has seen.
type tree struct {
	m    *mirror
	root plumbing.Hash
	when time.Time

	modules map[string]*tree // the files of submodules, by the path of their gitlinks; nil: they are not read
	plain   *tree            // the same commit without submodules, held so that it stays in the mirror

	mu      sync.Mutex
	folders map[plumbing.Hash][]object.TreeEntry
}

var (
	_ fs.ReadDirFS  = (*tree)(nil)
	_ fs.ReadFileFS = (*tree)(nil)
	_ fs.StatFS     = (*tree)(nil)
	_ fs.ReadLinkFS = (*tree)(nil)
)

// maxLinks is how many symbolic links a path may go through, as in Linux' path_resolution(7).
const maxLinks = 40

// found is an entry with the path at which it really lies, after links.
type found struct {
	object.TreeEntry
	path string
	in   *tree // whose objects the hash names: those of the commit, or of a submodule's
}

func (f found) dir() bool { return f.Mode == filemode.Dir }

// top is the root of the tree.
func (t *tree) top() found {
	return found{TreeEntry: object.TreeEntry{Mode: filemode.Dir, Hash: t.root}, path: ".", in: t}
}

// seen is an entry of a folder as it looks from outside: the gitlink of a submodule that is read is a folder.
func (t *tree) seen(folder found, e object.TreeEntry) found {
	f := found{e, join(folder.path, e.Name), folder.in}
	if e.Mode == filemode.Submodule {
		if sub := t.modules[f.path]; sub != nil {
			f.Mode, f.Hash, f.in = filemode.Dir, sub.root, sub
		}
	}
	return f
}

func (t *tree) entries(h plumbing.Hash) ([]object.TreeEntry, error) {
	t.mu.Lock()
	entries, ok := t.folders[h]
	t.mu.Unlock()
	if ok {
		return entries, nil
	}
	entries, err := t.m.readTree(h)
	if err != nil {
		t.m.mu.Lock()
		defer t.m.mu.Unlock()
		return nil, t.m.lost("folder "+h.String(), err)
	}
	t.mu.Lock()
	t.folders[h] = entries
	t.mu.Unlock()
	return entries, nil
}

// lookup walks name from the root. Links in the middle are always followed, the last one if follow says so.
// A link that leaves the tree is an error that names it.
func (t *tree) lookup(name string, follow bool) (found, error) {
	at := t.top()
	todo := strings.Split(name, "/")
	if name == "." {
		todo = nil
	}
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		if !at.dir() {
			return at, fs.ErrNotExist
		}
		next, err := t.child(at, part)
		if err != nil {
			return at, err
		}
		switch {
		case next.Mode == filemode.Submodule:
			if t.modules != nil {
				return at, &Error{Class: ErrRefused, Text: quote(next.path) + " is a Git submodule, and .gitmodules does not say where from", Next: "add it there, with path and url"}
			}
			return at, &Error{Class: ErrRefused, Text: quote(next.path) + " is a Git submodule, and submodules are not read",
				Next: "set spec.source.submodules: true, or make an Application of that repository"}
		case next.Mode == filemode.Symlink && (follow || len(todo) > 0):
			if links++; links > maxLinks {
				return at, &Error{Class: ErrRefused, Text: "symbolic link " + quote(next.path) + " leads through too many links", Next: "remove the circle"}
			}
			target, err := t.target(next)
			if err != nil {
				return at, err
			}
			rest := strings.Join(todo, "/")
			at = t.top()
			todo = strings.FieldsFunc(path.Join(target, rest), func(r rune) bool { return r == '/' })
			if len(todo) == 1 && todo[0] == "." {
				todo = nil
			}
		default:
			at = next
		}
	}
	return at, nil
}

func (t *tree) child(at found, name string) (found, error) {
	entries, err := at.in.entries(at.Hash)
	if err != nil {
		return at, err
	}
	i := sort.Search(len(entries), func(i int) bool { return entries[i].Name >= name })
	if i == len(entries) || entries[i].Name != name {
		return at, fs.ErrNotExist
	}
	return t.seen(at, entries[i]), nil
}

// target returns where a link leads, as a path from the root of the tree.
func (t *tree) target(link found) (string, error) {
	data, err := link.in.m.blob(link.Hash)
	if err != nil {
		return "", err
	}
	to := string(data)
	outside := func() error {
		return &Error{Class: ErrRefused, Text: "symbolic link " + quote(link.path) + " leads to " + quote(to) + ", out of the repository",
			Next: "let it lead to a file of the repository"}
	}
	if strings.HasPrefix(to, "/") || strings.ContainsRune(to, 0) || to == "" {
		return "", outside()
	}
	clean := path.Join(path.Dir(link.path), to)
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", outside()
	}
	return clean, nil
}

func join(folder, name string) string {
	if folder == "." || folder == "" {
		return name
	}
	return folder + "/" + name
}

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func (t *tree) find(op, name string, follow bool) (found, error) {
	if !fs.ValidPath(name) {
		return found{}, pathError(op, name, fs.ErrInvalid)
	}
	f, err := t.lookup(name, follow)
	if err != nil {
		return f, pathError(op, name, err)
	}
	return f, nil
}

func (t *tree) info(f found, name string) (fs.FileInfo, error) {
	i := &info{name: path.Base(name), when: t.when}
	switch f.Mode {
	case filemode.Dir:
		i.mode = fs.ModeDir | 0o755
		return i, nil
	case filemode.Submodule:
		i.mode = fs.ModeDir | fs.ModeIrregular | 0o755
		return i, nil
	case filemode.Symlink:
		i.mode = fs.ModeSymlink | 0o777
	case filemode.Executable:
		i.mode = 0o755
	default:
		i.mode = 0o644
	}
	size, err := f.in.m.size(f.Hash)
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	i.size = size
	return i, nil
}

func (t *tree) Stat(name string) (fs.FileInfo, error) {
	f, err := t.find("stat", name, true)
	if err != nil {
		return nil, err
	}
	return t.info(f, name)
}

func (t *tree) Lstat(name string) (fs.FileInfo, error) {
	f, err := t.find("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return t.info(f, name)
}

func (t *tree) ReadLink(name string) (string, error) {
	f, err := t.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	if f.Mode != filemode.Symlink {
		return "", pathError("readlink", name, fs.ErrInvalid)
	}
	data, err := f.in.m.blob(f.Hash)
	if err != nil {
		return "", pathError("readlink", name, err)
	}
	return string(data), nil
}

func (t *tree) ReadFile(name string) ([]byte, error) {
	f, err := t.find("open", name, true)
	if err != nil {
		return nil, err
	}
	if f.dir() {
		return nil, pathError("read", name, errors.New("is a directory"))
	}
	data, err := f.in.m.blob(f.Hash)
	if err != nil {
		return nil, pathError("read", name, err)
	}
	return data, nil
}

func (t *tree) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := t.find("open", name, true)
	if err != nil {
		return nil, err
	}
	if !f.dir() {
		return nil, pathError("readdir", name, errors.New("not a directory"))
	}
	entries, err := f.in.entries(f.Hash)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	out := make([]fs.DirEntry, len(entries))
	for i, e := range entries {
		out[i] = dirEntry{t: t, f: t.seen(f, e)}
	}
	return out, nil
}

func (t *tree) Open(name string) (fs.File, error) {
	f, err := t.find("open", name, true)
	if err != nil {
		return nil, err
	}
	i, err := t.info(f, name)
	if err != nil {
		return nil, err
	}
	if f.dir() {
		list, err := t.ReadDir(name)
		return &folder{info: i, name: name, list: list}, err
	}
	data, err := f.in.m.blob(f.Hash)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return &file{Reader: bytes.NewReader(data), info: i}, nil
}

type info struct {
	name string
	size int64
	mode fs.FileMode
	when time.Time
}

func (i *info) Name() string       { return i.name }
func (i *info) Size() int64        { return i.size }
func (i *info) Mode() fs.FileMode  { return i.mode }
func (i *info) ModTime() time.Time { return i.when }
func (i *info) IsDir() bool        { return i.mode.IsDir() }
func (i *info) Sys() any           { return nil }
func (i *info) String() string     { return fs.FormatFileInfo(i) }

type dirEntry struct {
	t *tree
	f found
}

func (d dirEntry) Name() string { return d.f.Name }
func (d dirEntry) IsDir() bool  { return d.f.dir() || d.f.Mode == filemode.Submodule }
func (d dirEntry) Type() fs.FileMode {
	switch d.f.Mode {
	case filemode.Dir:
		return fs.ModeDir
	case filemode.Submodule:
		return fs.ModeDir | fs.ModeIrregular
	case filemode.Symlink:
		return fs.ModeSymlink
	}
	return 0
}
func (d dirEntry) Info() (fs.FileInfo, error) { return d.t.info(d.f, d.f.path) }
func (d dirEntry) String() string             { return fs.FormatDirEntry(d) }

type file struct {
	*bytes.Reader
	info fs.FileInfo
}

func (f *file) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *file) Close() error               { return nil }

type folder struct {
	info fs.FileInfo
	name string
	list []fs.DirEntry
}

func (f *folder) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *folder) Close() error               { return nil }
func (f *folder) Read([]byte) (int, error) {
	return 0, pathError("read", f.name, errors.New("is a directory"))
}

func (f *folder) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		out := f.list
		f.list = nil
		return out, nil
	}
	if len(f.list) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(f.list))
	out := f.list[:n]
	f.list = f.list[n:]
	return out, nil
}

// snapshot makes the value that leaves the package of a visible commit, which a ref was found to mean.
func (m *mirror) snapshot(repo string, t target, commit plumbing.Hash) (Snapshot, error) {
	c, err := m.commit(commit)
	if err != nil {
		return Snapshot{}, err
	}
	var tag plumbing.Hash
	ref := t.name
	if m.hasTag(t.hash) {
		tag = t.hash
	}
	subject, _, _ := strings.Cut(strings.TrimSpace(c.Message), "\n")
	return Snapshot{
		Repo: repo, Ref: ref, Commit: commit.String(),
		Subject: oneLine(subject), Author: oneLine(fmt.Sprintf("%s <%s>", c.Author.Name, c.Author.Email)), Time: c.Committer.When.UTC(),
		FS: m.files(commit, c.TreeHash, c.Committer.When.UTC()), tag: tag,
	}, nil
}

func (m *mirror) commit(h plumbing.Hash) (*object.Commit, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, err := object.GetCommit(m.store, h)
	if err != nil {
		return nil, m.lost("commit "+h.String(), err)
	}
	return c, nil
}
