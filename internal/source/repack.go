package source

import (
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"weak"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// files returns the commit's tree. Everybody who holds one commit shares one; a commit that somebody holds
// is never dropped from the mirror.
func (m *mirror) files(commit, root plumbing.Hash, when time.Time) *tree {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.trees[commit].Value(); t != nil {
		return t
	}
	t := &tree{m: m, root: root, when: when, folders: map[plumbing.Hash][]object.TreeEntry{}}
	m.trees[commit] = weak.Make(t)
	return t
}

// use makes the commit the one used last.
func (m *mirror) use(commit plumbing.Hash) {
	now := time.Now()
	_ = os.Chtimes(filepath.Join(m.dir, markers, commit.String()), now, now) // an order for repack, no more
}

// kept parts the visible commits: those that stay whatever they weigh, which are the last used and those held as snapshots,
// and those that may stay besides, the last used first.
func (m *mirror) kept() (must, may []plumbing.Hash) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, h := range m.marked() {
		switch {
		case i == 0 || m.trees[h].Value() != nil:
			must = append(must, h)
		case i < commitsKept:
			may = append(may, h)
		}
	}
	for h, t := range m.trees {
		if t.Value() == nil {
			delete(m.trees, h)
		}
	}
	return must, may
}

// packs lists the packs' paths without extension.
func (m *mirror) packs() ([]string, error) {
	names, err := filepath.Glob(filepath.Join(m.dir, "objects/pack/pack-*.pack"))
	for i, n := range names {
		names[i] = strings.TrimSuffix(n, ".pack")
	}
	return names, err
}

// grown says whether the packs are too many or too large. A mirror of which what is in use alone weighs too much is packed
// anew only when as much came again: the largest pack is what the last repack left.
func (m *mirror) grown(packs []string) bool {
	var sum, largest int64
	for _, p := range packs {
		if info, err := os.Stat(p + ".pack"); err == nil {
			sum, largest = sum+info.Size(), max(largest, info.Size())
		}
	}
	return len(packs) > packsBeforeRepack || sum > m.limits.Kept && sum >= 2*largest && len(packs) > 1
}

// repack bounds the mirror: when many packs came together, or much, or a whole history because of one commit, the commits
// worth keeping go into one new pack and the rest is deleted. One that failed, of a disk that is full for instance, is tried
// again when the next pack has come. The caller holds fetching.
func (m *mirror) repack() error {
	old, err := m.packs()
	if err != nil || m.lock == nil || len(old) == m.stuck || !m.bulky && !m.grown(old) {
		return err
	}
	m.bulky, m.stuck = false, len(old)
	keep, objects, err := m.worthKeeping()
	if err != nil {
		return err
	}
	objects = append(objects, m.tagsOf(keep)...)
	r, w := io.Pipe()
	go func() { w.CloseWithError(writePack(w, lockedStore{m}, objects)) }()
	fresh, err := m.install(r, m.limits.ofOurs())
	r.CloseWithError(io.ErrClosedPipe)
	if err != nil {
		return err
	}
	m.stuck = 0
	return m.drop(slices.DeleteFunc(old, func(p string) bool { return p == fresh }), keep)
}

// ofOurs are the limits of a pack that is made of what the mirror holds: what came in several fetches may be more than one
// may bring.
func (l Limits) ofOurs() Limits {
	l.Pack, l.Object, l.Inflate, l.Objects = math.MaxInt64-1, math.MaxInt64, math.MaxInt64, math.MaxInt
	return l
}

// worthKeeping lists commits and their objects: what must stay, and of the rest as many commits as half of what a mirror may
// weigh has room for, so that it does not have to be packed anew at once. Objects are counted as long as they are unpacked.
func (m *mirror) worthKeeping() (keep, objects []plumbing.Hash, err error) {
	must, may := m.kept()
	r := &reach{m: m, seen: map[plumbing.Hash]bool{}}
	for _, c := range must {
		if err := r.commit(c); err != nil {
			return nil, nil, err
		}
	}
	keep, objects = must, r.list
	for _, c := range may {
		if err := r.commit(c); err != nil {
			return nil, nil, err
		}
		if r.bytes > m.limits.Kept/2 {
			break
		}
		keep, objects = append(keep, c), r.list
	}
	return keep, objects, nil
}

// drop deletes markers first: a crash in between leaves objects nobody sees, never a commit without objects.
func (m *mirror) drop(packs []string, keep []plumbing.Hash) error {
	kept := map[plumbing.Hash]bool{}
	for _, h := range keep {
		kept[h] = true
	}
	errs := []error{m.dropTags(m.tagsOf(keep))}
	m.mu.Lock()
	for _, h := range m.marked() {
		if !kept[h] {
			errs = append(errs, os.Remove(filepath.Join(m.dir, markers, h.String())))
		}
	}
	for _, p := range packs {
		errs = append(errs, os.Remove(p+".pack"), os.Remove(p+".idx"))
	}
	m.whole = map[plumbing.Hash]bool{}
	m.mu.Unlock()
	m.reopen()
	return errors.Join(errs...)
}

// reach lists commits, trees and blobs, each once, with their bytes.
type reach struct {
	m     *mirror
	seen  map[plumbing.Hash]bool
	list  []plumbing.Hash
	bytes int64
}

// add reports whether the object is new.
func (r *reach) add(h plumbing.Hash) (bool, error) {
	if r.seen[h] {
		return false, nil
	}
	r.seen[h] = true
	size, err := r.m.size(h)
	r.list, r.bytes = append(r.list, h), r.bytes+size
	return true, err
}

func (r *reach) commit(h plumbing.Hash) error {
	_, root, err := r.m.peel(h)
	if err != nil {
		return err
	}
	if _, err := r.add(h); err != nil {
		return err
	}
	return r.tree(root)
}

func (r *reach) tree(h plumbing.Hash) error {
	if fresh, err := r.add(h); !fresh || err != nil {
		return err
	}
	entries, err := r.m.readTree(h)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch e.Mode {
		case filemode.Submodule:
		case filemode.Dir:
			err = r.tree(e.Hash)
		default:
			_, err = r.add(e.Hash)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lockedStore reads the mirror's objects one at a time.
type lockedStore struct{ m *mirror }

func (l lockedStore) EncodedObject(t plumbing.ObjectType, h plumbing.Hash) (plumbing.EncodedObject, error) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	return l.m.store.EncodedObject(t, h)
}
