package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	git "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"
)

// gitFolders finds where a repository keeps its own HEAD, and where what it shares with linked worktrees
// (gitrepository-layout(5): .git may be a file, commondir names the shared folder). Both are the path itself for a
// bare repository.
func gitFolders(path string) (dot, common string) {
	dot = filepath.Join(path, ".git")
	info, err := os.Stat(dot)
	switch {
	case err != nil:
		return path, path
	case info.IsDir():
		return dot, dot
	}
	data, err := os.ReadFile(dot)
	linked, ok := strings.CutPrefix(strings.TrimSpace(string(data)), "gitdir: ")
	if err != nil || !ok {
		return path, path
	}
	dot = absolute(path, linked)
	data, err = os.ReadFile(filepath.Join(dot, "commondir"))
	if err != nil {
		return dot, dot
	}
	return dot, absolute(dot, strings.TrimSpace(string(data)))
}

func absolute(from, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(from, name)
}

// localSession reads a repository of this machine in process. A git program would refuse other users'
// repositories (safe.directory), because it runs their hooks and honours their configuration; nothing here does.
// What counts is what is committed: the working copy and the index are not looked at.
type localSession struct {
	path   string
	common string // the folder of refs, which linked worktrees share
	limits Limits
	repo   *git.Repository
}

func openLocal(path string, limits Limits) (*localSession, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, &Error{Class: ErrNotFound, Text: "there is no such folder", Next: "correct the path, or mount what holds it"}
	case errors.Is(err, os.ErrPermission):
		return nil, &Error{Class: ErrAuth, Text: "the folder may not be read", Next: "give the user that runs gitopsd the right to read it"}
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, &Error{Class: ErrNotFound, Text: "it is a file and not a folder", Next: "name the folder that holds .git, or the bare repository"}
	}
	dot, common := gitFolders(path)
	if _, err := os.Stat(filepath.Join(dot, "HEAD")); err != nil {
		return nil, &Error{Class: ErrNotFound, Text: "the folder holds no Git repository", Next: "run git init there, or correct the path"}
	}
	// Alternates name folders anywhere: git clone --shared makes them.
	store := filesystem.NewStorageWithOptions(dotgit.NewRepositoryFilesystem(osfs.New(dot, osfs.WithBoundOS()), osfs.New(common, osfs.WithBoundOS())),
		cache.NewObjectLRU(8*cache.MiByte), filesystem.Options{AlternatesFS: osfs.New("/", osfs.WithBoundOS())})
	repo, err := git.Open(store, nil)
	switch {
	case errors.Is(err, git.ErrRepositoryNotExists):
		return nil, &Error{Class: ErrNotFound, Text: "the folder holds no Git repository", Next: "run git init there, or correct the path"}
	case errors.Is(err, git.ErrUnknownExtension), errors.Is(err, git.ErrUnsupportedExtensionRepositoryFormatVersion), errors.Is(err, git.ErrUnsupportedRepositoryFormatVersion):
		return nil, &Error{Class: ErrRefused, Text: "the repository has a form that is not supported", Err: err, Next: "use object format sha1 and ref format files"}
	case err != nil:
		return nil, &Error{Class: ErrBroken, Text: "the repository cannot be opened", Err: err, Next: "run git fsck in it"}
	}
	return &localSession{path: path, common: common, limits: limits, repo: repo}, nil
}

func (l *localSession) close() {
	if c, ok := l.repo.Storer.(io.Closer); ok {
		c.Close()
	}
}

// refs reads the list again when it met a ref that git was just writing: a lock file is empty for a moment.
func (l *localSession) refs(ctx context.Context) (*refList, error) {
	const tries, between = 20, 5 * time.Millisecond
	for try := 1; ; try++ {
		list, err := l.readRefs()
		if !errors.Is(err, dotgit.ErrEmptyRefFile) || try == tries {
			return list, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(between):
		}
	}
}

func (l *localSession) readRefs() (*refList, error) {
	list := &refList{hashes: map[string]plumbing.Hash{}, peeled: map[string]plumbing.Hash{}}
	if err := l.looseRefs(list.hashes); err != nil {
		return nil, l.broken("the refs cannot be read", err)
	}
	if err := l.packedRefs(list.hashes); err != nil {
		return nil, l.broken("the refs cannot be read", err)
	}
	head, err := l.repo.Storer.Reference(plumbing.HEAD)
	if err == nil && head.Type() == plumbing.SymbolicReference {
		list.head = head.Target().String()
		if h, ok := list.hashes[list.head]; ok {
			list.hashes["HEAD"] = h
		}
	}
	if len(list.hashes) == 0 {
		return nil, errEmpty()
	}
	for name, h := range list.hashes {
		if t, err := l.repo.TagObject(h); err == nil && t.TargetType == plumbing.CommitObject {
			list.peeled[name] = t.Target
		}
	}
	return list, nil
}

// looseRefs reads the files below refs. go-git's own walk leaves out what follows a file that vanishes under it, as when a
// branch is deleted: for a moment others would be missing.
func (l *localSession) looseRefs(into map[string]plumbing.Hash) error {
	return filepath.WalkDir(filepath.Join(l.common, "refs")+"/", func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() || strings.HasSuffix(name, ".lock") {
			return err
		}
		data, err := readRef(name)
		short, relErr := filepath.Rel(l.common, name)
		switch text := strings.TrimSpace(string(data)); {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil || relErr != nil:
			return errors.Join(err, relErr)
		case data == nil: // a pipe or the like
			return nil
		case text == "":
			return dotgit.ErrEmptyRefFile
		case isHash(text):
			into[filepath.ToSlash(short)] = plumbing.NewHash(text)
		case !strings.HasPrefix(text, "ref: "):
			return fmt.Errorf("%s holds no hash", short)
		}
		return nil
	})
}

// readRef reads the beginning of a ref's file; nil for one that is no file.
func readRef(name string) ([]byte, error) {
	const longest = 4096
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, longest))
}

// packedRefs adds what is in packed-refs alone. It is read after the others, since git writes it before it deletes them.
func (l *localSession) packedRefs(into map[string]plumbing.Hash) error {
	data, err := os.ReadFile(filepath.Join(l.common, "packed-refs"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		hash, name, ok := strings.Cut(strings.TrimRight(line, "\r"), " ")
		if _, loose := into[name]; ok && isHash(hash) && !loose {
			into[name] = plumbing.NewHash(hash)
		}
	}
	return nil
}

func (l *localSession) broken(text string, err error) error {
	return &Error{Class: ErrBroken, Text: text, Err: err, Next: "run git fsck in " + quote(l.path)}
}

// fetch copies what the mirror lacks of the wanted commits.
func (l *localSession) fetch(ctx context.Context, m *mirror, want []plumbing.Hash) error {
	c := &copier{ctx: ctx, from: l.repo.Storer, to: m, seen: map[plumbing.Hash]bool{}, budget: l.limits.Objects}
	for _, h := range want {
		if err := c.commit(h); err != nil {
			return err
		}
	}
	if len(c.list) == 0 {
		return nil
	}
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(writePack(w, l.repo.Storer, c.list))
	}()
	_, err := m.install(r, m.limits)
	r.CloseWithError(io.ErrClosedPipe)
	<-done
	return err
}

// copier lists the objects of trees that the mirror does not have.
type copier struct {
	ctx    context.Context
	from   storer.EncodedObjectStorer
	to     *mirror
	seen   map[plumbing.Hash]bool
	list   []plumbing.Hash
	budget int
}

func (c *copier) commit(h plumbing.Hash) error {
	for range 8 {
		o, err := c.from.EncodedObject(plumbing.AnyObject, h)
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			return &Error{Class: ErrRefNotFound, Text: "the repository has no commit " + h.String(), Next: "correct ref.commit, or fetch the commit into that repository"}
		}
		if err != nil {
			return missing("object "+h.String(), err)
		}
		c.add(h)
		switch o.Type() {
		case plumbing.TagObject:
			t, err := object.DecodeTag(c.from, o)
			if err != nil {
				return missing("tag "+h.String(), err)
			}
			h = t.Target
		case plumbing.CommitObject:
			commit, err := object.DecodeCommit(c.from, o)
			if err != nil {
				return missing("commit "+h.String(), err)
			}
			return c.tree(commit.TreeHash, "")
		default:
			return nil // the mirror says what it thinks of a ref that names no commit
		}
	}
	return nil
}

// add reports whether the object is new.
func (c *copier) add(h plumbing.Hash) bool {
	if c.seen[h] {
		return false
	}
	c.seen[h] = true
	c.list = append(c.list, h)
	return true
}

func (c *copier) tree(h plumbing.Hash, path string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	c.to.mu.Lock()
	known := c.to.whole[h]
	c.to.mu.Unlock()
	if known || !c.add(h) {
		return nil
	}
	t, err := object.GetTree(c.from, h)
	if err != nil {
		return missing("tree "+h.String(), err)
	}
	if c.budget -= len(t.Entries); c.budget < 0 {
		return &Error{Class: ErrTooLarge, Text: fmt.Sprintf("the repository holds more than %d files", c.to.limits.Objects), Next: "split the repository"}
	}
	for _, e := range t.Entries {
		switch e.Mode {
		case filemode.Submodule:
		case filemode.Dir:
			if err := c.tree(e.Hash, join(path, e.Name)); err != nil {
				return err
			}
		default:
			if err := c.blob(e.Hash, join(path, e.Name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// blob looks at the size before anything reads the file into memory.
func (c *copier) blob(h plumbing.Hash, path string) error {
	if c.to.holds(h) || !c.add(h) {
		return nil
	}
	size, err := c.from.EncodedObjectSize(h)
	if errors.Is(err, plumbing.ErrObjectNotFound) { // go-git looks for sizes only in the repository itself
		var o plumbing.EncodedObject
		if o, err = c.from.EncodedObject(plumbing.BlobObject, h); err == nil {
			size = o.Size()
		}
	}
	if err != nil {
		return missing("file "+quote(path), err)
	}
	if size > c.to.limits.Object {
		return &Error{Class: ErrTooLarge, Text: fmt.Sprintf("file %s has more than %d MiB", quote(path), c.to.limits.Object>>20), Next: "take it out of the repository"}
	}
	return nil
}

// holds reports whether the mirror has the object, whoever it belongs to.
func (m *mirror) holds(h plumbing.Hash) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.store.HasEncodedObject(h) == nil
}
