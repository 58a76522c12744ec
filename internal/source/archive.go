package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// archive is the files of an artifact as an fs.FS: an index in memory over one file of a shelf, of which the contents are
// read where they lie. No entry is ever a file of its own. The handle stays open, so that a snapshot is readable for as
// long as it is held, whatever becomes of the shelf.
type archive struct {
	file  *os.File
	about about
	root  *entry
}

// about is what an artifact says of itself.
type about struct {
	Name    string    `json:"name"`    // the tag or version under which it was found
	Subject string    `json:"subject"` // one line for people
	Author  string    `json:"author,omitempty"`
	Time    time.Time `json:"time,omitzero"`
}

// entry is a file, a folder or a symbolic link of an archive.
type entry struct {
	name   string
	path   string // from the root; "." of the root itself
	mode   fs.FileMode
	offset int64
	size   int64
	sum    string // SHA-256 of a file's content
	target string // of a link, as written
	below  []*entry
}

var (
	_ fs.ReadDirFS  = (*archive)(nil)
	_ fs.ReadFileFS = (*archive)(nil)
	_ fs.StatFS     = (*archive)(nil)
	_ fs.ReadLinkFS = (*archive)(nil)
)

func (e *entry) link() bool { return e.mode&fs.ModeSymlink != 0 }

// child finds an entry of a folder, of which the entries are sorted by name.
func (e *entry) child(name string) *entry {
	i, ok := slices.BinarySearchFunc(e.below, name, func(e *entry, name string) int { return strings.Compare(e.name, name) })
	if !ok {
		return nil
	}
	return e.below[i]
}

// lookup walks name from the root. Links in the middle are always followed, the last one if follow says so; one that
// leaves the archive is an error that names it.
func (a *archive) lookup(name string, follow bool) (*entry, error) {
	at, todo, links := a.root, parts(name), 0
	for len(todo) > 0 {
		next := at.child(todo[0])
		if next == nil {
			return nil, fs.ErrNotExist
		}
		todo = todo[1:]
		if !next.link() || (!follow && len(todo) == 0) {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return nil, &Error{Class: ErrRefused, Text: "symbolic link " + quote(next.path) + " leads through too many links", Next: "remove the circle"}
		}
		target, err := within(next)
		if err != nil {
			return nil, err
		}
		at, todo = a.root, append(parts(target), todo...)
	}
	return at, nil
}

func parts(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(p string) bool { return p == "" || p == "." })
}

// within is where a link leads, as a path from the root.
func within(link *entry) (string, error) {
	to := path.Join(path.Dir(link.path), link.target)
	if strings.HasPrefix(link.target, "/") || link.target == "" || strings.ContainsRune(link.target, 0) || to == ".." || strings.HasPrefix(to, "../") {
		return "", &Error{Class: ErrRefused, Text: "symbolic link " + quote(link.path) + " leads to " + quote(link.target) + ", out of the archive",
			Next: "let it lead to a file of the archive"}
	}
	return to, nil
}

func (a *archive) find(op, name string, follow bool) (*entry, error) {
	if !fs.ValidPath(name) {
		return nil, pathError(op, name, fs.ErrInvalid)
	}
	e, err := a.lookup(name, follow)
	if err != nil {
		return nil, pathError(op, name, err)
	}
	return e, nil
}

func (a *archive) info(e *entry, name string) fs.FileInfo {
	return &info{name: path.Base(name), size: e.size, mode: e.mode, when: a.about.Time}
}

func (a *archive) Stat(name string) (fs.FileInfo, error) {
	e, err := a.find("stat", name, true)
	if err != nil {
		return nil, err
	}
	return a.info(e, name), nil
}

func (a *archive) Lstat(name string) (fs.FileInfo, error) {
	e, err := a.find("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return a.info(e, name), nil
}

func (a *archive) ReadLink(name string) (string, error) {
	e, err := a.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	if !e.link() {
		return "", pathError("readlink", name, fs.ErrInvalid)
	}
	return e.target, nil
}

func (a *archive) ReadFile(name string) ([]byte, error) {
	e, err := a.find("open", name, true)
	if err != nil {
		return nil, err
	}
	if e.mode.IsDir() {
		return nil, pathError("read", name, errors.New("is a directory"))
	}
	return a.content(e, name)
}

// content reads a file and checks it against the index: a disk that lost bytes is no answer.
func (a *archive) content(e *entry, name string) ([]byte, error) {
	data := make([]byte, e.size)
	_, err := a.file.ReadAt(data, e.offset)
	if sum := sha256.Sum256(data); err == nil && hex.EncodeToString(sum[:]) != e.sum {
		err = errors.New("its content is not what was written")
	}
	if err != nil {
		_ = os.Remove(a.file.Name()) // the next check fetches it again
		return nil, pathError("read", name, &Error{Class: ErrStorage, Text: "a kept archive is damaged", Err: err, Next: "it is fetched again by itself"})
	}
	return data, nil
}

func (a *archive) ReadDir(name string) ([]fs.DirEntry, error) {
	e, err := a.find("open", name, true)
	if err != nil {
		return nil, err
	}
	if !e.mode.IsDir() {
		return nil, pathError("readdir", name, errors.New("not a directory"))
	}
	return a.list(e), nil
}

func (a *archive) list(e *entry) []fs.DirEntry {
	out := make([]fs.DirEntry, len(e.below))
	for i, b := range e.below {
		out[i] = fs.FileInfoToDirEntry(a.info(b, b.name))
	}
	return out
}

func (a *archive) Open(name string) (fs.File, error) {
	e, err := a.find("open", name, true)
	if err != nil {
		return nil, err
	}
	if e.mode.IsDir() {
		return &folder{info: a.info(e, name), name: name, list: a.list(e)}, nil
	}
	data, err := a.content(e, name)
	if err != nil {
		return nil, err
	}
	return &file{Reader: bytes.NewReader(data), info: a.info(e, name)}, nil
}

// changed adds the paths at which two archives differ, as changes.folder does for Git's trees, and says whether a link differs.
func (e *entry) changed(o *entry, paths *[]string) (links bool) {
	listing := false
	for i, j := 0, 0; i < len(e.below) || j < len(o.below); {
		var old, new *entry
		if j == len(o.below) || (i < len(e.below) && e.below[i].name <= o.below[j].name) {
			old, i = e.below[i], i+1
		}
		if j < len(o.below) && (old == nil || old.name == o.below[j].name) {
			new, j = o.below[j], j+1
		}
		listing = listing || old == nil || new == nil || old.mode.Type() != new.mode.Type()
		links = changedEntry(old, new, paths) || links
	}
	if listing {
		*paths = append(*paths, e.path)
	}
	return links
}

// changedEntry tells of one name, and whether it or what is below it is a link that differs. nil stands for absent.
func changedEntry(old, new *entry, paths *[]string) (links bool) {
	before, after := orNothing(old, new), orNothing(new, old)
	if before.mode.IsDir() && after.mode.IsDir() {
		return before.changed(after, paths)
	}
	if before.mode == after.mode && before.sum == after.sum && before.target == after.target {
		return false
	}
	*paths = append(*paths, before.path)
	if before.mode.IsDir() || after.mode.IsDir() {
		links = (&entry{path: before.path, below: before.below}).changed(&entry{path: before.path, below: after.below}, paths)
	}
	return links || before.link() || after.link()
}

// orNothing is e, or an empty entry in the place of other.
func orNothing(e, other *entry) *entry {
	if e != nil {
		return e
	}
	return &entry{name: other.name, path: other.path}
}

// direct says that no link lies on the way to name.
func (a *archive) direct(name string) bool {
	at := a.root
	for _, part := range parts(path.Clean(name)) {
		if at = at.child(part); at == nil {
			return true
		}
		if at.link() {
			return false
		}
	}
	return true
}

// snapshot is the value that leaves the package.
func (a *archive) snapshot(repo, name, digest string) Snapshot {
	return Snapshot{Repo: repo, Ref: name, Commit: digest, Subject: a.about.Subject, Author: a.about.Author, Time: a.about.Time, FS: a}
}

const digestPrefix = "sha256:"

func digestOf(data []byte) string { return fmt.Sprintf("%s%x", digestPrefix, sha256.Sum256(data)) }
