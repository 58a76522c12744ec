package source

import (
	"errors"
	"io"
	"os"
	"path/filepath"
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

// kept lists the commits that stay: those held as snapshots, and the last used.
func (m *mirror) kept() []plumbing.Hash {
	all := m.marked()
	keep := all[:min(len(all), commitsKept)]
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range all[len(keep):] {
		if m.trees[h].Value() != nil {
			keep = append(keep, h)
		}
	}
	for h, t := range m.trees {
		if t.Value() == nil {
			delete(m.trees, h)
		}
	}
	return keep
}

// packs lists the packs' paths without extension.
func (m *mirror) packs() ([]string, error) {
	names, err := filepath.Glob(filepath.Join(m.dir, "objects/pack/pack-*.pack"))
	for i, n := range names {
		names[i] = strings.TrimSuffix(n, ".pack")
	}
	return names, err
}

// repack bounds the mirror: when many packs came together, or a whole history because of one commit, the commits worth
// keeping go into one new pack and the rest is deleted. The caller holds fetching.
func (m *mirror) repack() error {
	old, err := m.packs()
	if err != nil || len(old) <= packsBeforeRepack && !m.bulky || m.lock == nil {
		return err
	}
	m.bulky = false
	keep := m.kept()
	objects, err := m.reachable(keep)
	if err != nil {
		return err
	}
	objects = append(objects, m.tagsOf(keep)...)
	r, w := io.Pipe()
	go func() { w.CloseWithError(writePack(w, lockedStore{m}, objects)) }()
	err = m.install(r)
	r.CloseWithError(io.ErrClosedPipe)
	if err != nil {
		return err
	}
	return m.drop(old, keep)
}

// drop deletes markers first: a crash in between leaves objects nobody sees, never a commit without objects.
func (m *mirror) drop(packs []string, keep []plumbing.Hash) error {
	kept := map[plumbing.Hash]bool{}
	for _, h := range keep {
		kept[h] = true
	}
	fresh, err := m.packs()
	if err != nil {
		return err
	}
	if len(fresh) <= len(packs) {
		return nil // the new pack is one of the old ones, so there was nothing to gain
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

// reachable lists commits, trees and blobs, each once.
func (m *mirror) reachable(commits []plumbing.Hash) ([]plumbing.Hash, error) {
	seen := map[plumbing.Hash]bool{}
	var out []plumbing.Hash
	add := func(h plumbing.Hash) bool {
		if seen[h] {
			return false
		}
		seen[h] = true
		out = append(out, h)
		return true
	}
	var walk func(h plumbing.Hash) error
	walk = func(h plumbing.Hash) error {
		if !add(h) {
			return nil
		}
		entries, err := m.readTree(h)
		if err != nil {
			return err
		}
		for _, e := range entries {
			switch e.Mode {
			case filemode.Submodule:
			case filemode.Dir:
				if err := walk(e.Hash); err != nil {
					return err
				}
			default:
				add(e.Hash)
			}
		}
		return nil
	}
	for _, c := range commits {
		_, root, err := m.peel(c)
		if err != nil {
			return nil, err
		}
		add(c)
		if err := walk(root); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// lockedStore reads the mirror's objects one at a time.
type lockedStore struct{ m *mirror }

func (l lockedStore) EncodedObject(t plumbing.ObjectType, h plumbing.Hash) (plumbing.EncodedObject, error) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	return l.m.store.EncodedObject(t, h)
}
