package source

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"weak"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"golang.org/x/sys/unix"
)

// A mirror is a bare repository that holds whole trees of single commits. A commit is visible once everything
// below it is there, which its marker says: the ref refs/gitopsd/<commit>. Objects without a marker are what
// an interrupted fetch left behind; they do no harm and the next repack drops them.
//
// One process owns a mirror: it alone fetches, repacks and clears away, and holds a lock on it as long as it lives.
// Another one, such as a command beside the daemon, may read what is visible.
type mirror struct {
	dir    string
	limits Limits
	lock   *os.File // of the owner; nil: read only

	fetching sync.Mutex // held by the one fetch, install or repack under way

	mu    sync.Mutex // guards what follows; go-git's storage is not safe for concurrent use
	store *filesystem.Storage
	whole map[plumbing.Hash]bool // trees that were found complete, with all below
	trees map[plumbing.Hash]weak.Pointer[tree]

	damaged bool // an object of a visible commit is gone
	bulky   bool // the last fetch brought far more than what was wanted; guarded by fetching
	stuck   int  // how many packs there were when a repack failed; 0: none did; guarded by fetching
}

const (
	markers  = "refs/gitopsd"
	lockFile = "gitopsd.lock"
)

// Loose limits of housekeeping, beside Limits.Kept: what a mirror may grow to before it is repacked, and what survives it.
const (
	packsBeforeRepack = 24
	commitsKept       = 16
)

// openMirror opens or creates the mirror and clears away what a killed process left.
func openMirror(dir, about string, limits Limits) (*mirror, error) {
	m := &mirror{dir: dir, limits: limits, whole: map[plumbing.Hash]bool{}, trees: map[plumbing.Hash]weak.Pointer[tree]{}}
	for _, d := range []string{"objects/pack", "objects/info", "refs/heads", markers, tagMarkers} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, storageError(err)
		}
	}
	for name, text := range map[string]string{
		"HEAD":        "ref: refs/heads/main\n",
		"config":      "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n",
		"description": about + "\n",
	} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			continue
		}
		if err := writeFile(filepath.Join(dir, name), []byte(text)); err != nil {
			return nil, storageError(err)
		}
	}
	if err := m.own(); err != nil {
		return nil, storageError(err)
	}
	if m.lock != nil {
		if err := m.sweep(); err != nil {
			return nil, storageError(err)
		}
	}
	m.reopen()
	return m, nil
}

// own takes the lock if nobody has it. The kernel gives it back when the process ends, however it does.
func (m *mirror) own() error {
	f, err := os.OpenFile(filepath.Join(m.dir, lockFile), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		m.lock = f
		return nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	return err
}

var errNotOwner = &Error{Class: ErrStorage, Text: "another process keeps this mirror", Next: "ask the running gitopsd, or use another data directory"}

func storageError(err error) error {
	return &Error{Class: ErrStorage, Text: "the mirror cannot be used", Err: err, Next: "check space and rights of the data directory"}
}

// writeFile writes durably: a file is there whole or not at all.
func writeFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(f.Name())
		return err
	}
	return os.Rename(f.Name(), name)
}

// sweep removes half-written packs, and packs and indexes that miss the other.
func (m *mirror) sweep() error {
	folder := filepath.Join(m.dir, "objects/pack")
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		stale := strings.HasPrefix(name, ".tmp-") || strings.HasPrefix(name, "tmp_")
		for ext, other := range map[string]string{".idx": ".pack", ".pack": ".idx"} {
			if base, ok := strings.CutSuffix(name, ext); ok {
				_, err := os.Stat(filepath.Join(folder, base+other))
				stale = stale || errors.Is(err, os.ErrNotExist)
			}
		}
		if stale {
			if err := os.Remove(filepath.Join(folder, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// reopen makes what is on disk now visible.
func (m *mirror) reopen() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.store != nil {
		m.store.ObjectStorage.Close()
	}
	m.store = filesystem.NewStorageWithOptions(osfs.New(m.dir, osfs.WithBoundOS()), cache.NewObjectLRU(8*cache.MiByte),
		filesystem.Options{KeepDescriptors: true})
}

func (m *mirror) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store.ObjectStorage.Close()
	if m.lock != nil {
		m.lock.Close()
	}
}

// has reports whether the commit is visible.
func (m *mirror) has(commit plumbing.Hash) bool {
	_, err := os.Stat(filepath.Join(m.dir, markers, commit.String()))
	return err == nil
}

// marked lists the visible commits, the ones used last first.
func (m *mirror) marked() []plumbing.Hash {
	entries, err := os.ReadDir(filepath.Join(m.dir, markers))
	if err != nil {
		return nil
	}
	type marker struct {
		hash plumbing.Hash
		at   int64
	}
	var all []marker
	for _, e := range entries {
		if info, err := e.Info(); err == nil && isHash(e.Name()) {
			all = append(all, marker{plumbing.NewHash(e.Name()), info.ModTime().UnixNano()})
		}
	}
	sort.Slice(all, func(i, j int) bool {
		if all[i].at != all[j].at {
			return all[i].at > all[j].at
		}
		return all[i].hash.String() < all[j].hash.String()
	})
	out := make([]plumbing.Hash, len(all))
	for i, a := range all {
		out[i] = a.hash
	}
	return out
}

// haves is what a remote need not send again.
func (m *mirror) haves() []plumbing.Hash {
	all := m.marked()
	return all[:min(len(all), commitsKept)]
}

// reveal makes a fetched commit visible, after everything below it was found. h may be a tag; the commit it
// stands for is returned.
func (m *mirror) reveal(h plumbing.Hash) (plumbing.Hash, error) {
	commit, root, err := m.peel(h)
	if err != nil {
		return commit, err
	}
	if m.has(commit) {
		return commit, nil
	}
	budget := m.limits.Objects
	if err := m.complete(root, "", &budget); err != nil {
		return commit, err
	}
	if err := writeFile(filepath.Join(m.dir, markers, commit.String()), []byte(commit.String()+"\n")); err != nil {
		return commit, storageError(err)
	}
	return commit, nil
}

// peel follows tags to their commit and names its tree.
func (m *mirror) peel(h plumbing.Hash) (commit, root plumbing.Hash, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for range 8 {
		o, err := m.store.EncodedObject(plumbing.AnyObject, h)
		if err != nil {
			return h, root, missing("object "+h.String(), err)
		}
		switch o.Type() {
		case plumbing.CommitObject:
			c, err := object.DecodeCommit(m.store, o)
			if err != nil {
				return h, root, missing("commit "+h.String(), err)
			}
			return h, c.TreeHash, nil
		case plumbing.TagObject:
			t, err := object.DecodeTag(m.store, o)
			if err != nil {
				return h, root, missing("tag "+h.String(), err)
			}
			h = t.Target
		default:
			return h, root, &Error{Class: ErrRefNotFound, Text: "the ref names a " + o.Type().String() + " and not a commit", Next: "choose a ref that names a commit"}
		}
	}
	return h, root, &Error{Class: ErrBroken, Text: "the tag names a tag that names a tag, and so on"}
}

func missing(what string, err error) error {
	return &Error{Class: ErrBroken, Text: what + " is missing or damaged", Err: err, Next: "run git fsck on the server; gitopsd tries again by itself"}
}

// complete proves that a tree and everything below it is in the mirror and harmless.
func (m *mirror) complete(h plumbing.Hash, path string, budget *int) error {
	m.mu.Lock()
	known := m.whole[h]
	m.mu.Unlock()
	if known {
		return nil
	}
	entries, err := m.readTree(h)
	if err != nil {
		return missing("tree "+quote("/"+path), err)
	}
	if *budget -= len(entries); *budget < 0 {
		return &Error{Class: ErrTooLarge, Text: fmt.Sprintf("the repository holds more than %d files", m.limits.Objects), Next: "split the repository"}
	}
	for i, e := range entries {
		below := join(path, e.Name)
		if err := checkEntry(e, below); err != nil {
			return err
		}
		if i > 0 && e.Name == entries[i-1].Name {
			return &Error{Class: ErrBroken, Text: "two entries are named " + quote(below), Next: "run git fsck on the server"}
		}
		switch e.Mode {
		case filemode.Submodule:
			continue
		case filemode.Dir:
			err = m.complete(e.Hash, below, budget)
		default:
			err = m.hasBlob(e.Hash, below)
		}
		if err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.whole[h] = true
	m.mu.Unlock()
	return nil
}

func (m *mirror) hasBlob(h plumbing.Hash, path string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.store.HasEncodedObject(h); err != nil {
		return missing("file "+quote(path), err)
	}
	return nil
}

// checkEntry refuses names that would be something else than a file's name wherever a tree is written to disk
// (CVE-2014-9390 and its kin); here none ever is, but those who read the snapshot may.
func checkEntry(e object.TreeEntry, path string) error {
	bad := e.Name == "" || e.Name == "." || e.Name == ".." || strings.ContainsAny(e.Name, "/\x00") || isDotGit(e.Name)
	if bad {
		return &Error{Class: ErrRefused, Text: "the tree holds an entry named " + quote(path), Next: "remove it from the repository"}
	}
	switch e.Mode {
	case filemode.Dir, filemode.Regular, filemode.Executable, filemode.Deprecated, filemode.Symlink, filemode.Submodule:
		return nil
	}
	return &Error{Class: ErrRefused, Text: "entry " + quote(path) + " has the unknown mode " + e.Mode.String(), Next: "remove it from the repository"}
}

// isDotGit reports whether a file system that folds case, ignores code points (HFS+) or knows short names (NTFS)
// would take the name for .git.
func isDotGit(name string) bool {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 0x200c && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x206a && r <= 0x206f, r == 0xfeff:
			return -1
		}
		return r
	}, name)
	name, _, _ = strings.Cut(name, ":")
	name = strings.TrimRight(name, ". ")
	return strings.EqualFold(name, ".git") || strings.EqualFold(name, "git~1")
}

// readTree returns the entries sorted by name, which is not Git's order: there, folders sort as if they ended
// in a slash.
func (m *mirror) readTree(h plumbing.Hash) ([]object.TreeEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, err := object.GetTree(m.store, h)
	if err != nil {
		return nil, err
	}
	entries := append([]object.TreeEntry(nil), t.Entries...)
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name < entries[j].Name })
	return entries, nil
}

// size tells a blob's size without reading it.
func (m *mirror) size(h plumbing.Hash) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	size, err := m.store.EncodedObjectSize(h)
	if err != nil {
		return 0, m.lost("file "+h.String(), err)
	}
	return size, nil
}

func (m *mirror) blob(h plumbing.Hash) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	size, err := m.store.EncodedObjectSize(h)
	if err != nil {
		return nil, m.lost("file "+h.String(), err)
	}
	if size > m.limits.Object {
		return nil, &Error{Class: ErrTooLarge, Text: fmt.Sprintf("the file has %d bytes, more than %d", size, m.limits.Object)}
	}
	o, err := m.store.EncodedObject(plumbing.BlobObject, h)
	if err != nil {
		return nil, m.lost("file "+h.String(), err)
	}
	r, err := o.Reader()
	if err != nil {
		return nil, m.lost("file "+h.String(), err)
	}
	defer r.Close()
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, m.lost("file "+h.String(), err)
	}
	return data, nil
}

// lost remembers that an object of a visible commit could not be read: a disk lost it, or somebody deleted it.
// The caller holds mu.
func (m *mirror) lost(what string, err error) error {
	m.damaged = true
	return &Error{Class: ErrStorage, Text: what + " is damaged in the mirror", Err: err, Next: "the next check fetches it again"}
}

// heal empties a damaged mirror, so that the next fetch brings everything again. The caller holds fetching.
func (m *mirror) heal() error {
	m.mu.Lock()
	damaged := m.damaged
	m.mu.Unlock()
	if !damaged || m.lock == nil {
		return nil
	}
	for _, d := range []string{markers, tagMarkers, "objects/pack"} { // markers first: see drop
		folder := filepath.Join(m.dir, d)
		if err := errors.Join(os.RemoveAll(folder), os.MkdirAll(folder, 0o700)); err != nil {
			return storageError(err)
		}
	}
	m.mu.Lock()
	m.damaged = false
	m.whole = map[plumbing.Hash]bool{}
	m.mu.Unlock()
	m.reopen()
	return nil
}

// refresh looks again at what is on disk, if this process only reads: the owner may have fetched and repacked.
func (m *mirror) refresh() {
	if m.lock == nil {
		m.reopen()
	}
}
