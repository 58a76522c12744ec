package source

import (
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// tagMarkers is where the mirror says which annotated tags it holds: the tag may carry the signature of its commit.
const tagMarkers = "refs/gitopsd-tags"

// hasTag reports whether the annotated tag is held.
func (m *mirror) hasTag(h plumbing.Hash) bool {
	_, err := os.Stat(filepath.Join(m.dir, tagMarkers, h.String()))
	return err == nil
}

// holdTag notes that a fetched object is an annotated tag; the object h of anything else is left alone.
func (m *mirror) holdTag(h plumbing.Hash) error {
	if m.hasTag(h) {
		return nil
	}
	if _, err := m.tag(h); err != nil {
		return nil
	}
	if err := writeFile(filepath.Join(m.dir, tagMarkers, h.String()), []byte(h.String()+"\n")); err != nil {
		return storageError(err)
	}
	return nil
}

func (m *mirror) tag(h plumbing.Hash) (*object.Tag, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return object.GetTag(m.store, h)
}

// tagsOf lists the held tags that stand for one of the commits.
func (m *mirror) tagsOf(commits []plumbing.Hash) []plumbing.Hash {
	entries, err := os.ReadDir(filepath.Join(m.dir, tagMarkers))
	if err != nil {
		return nil
	}
	var out []plumbing.Hash
	for _, e := range entries {
		if h := plumbing.NewHash(e.Name()); isHash(e.Name()) {
			if commit, _, err := m.peel(h); err == nil && slices.Contains(commits, commit) {
				out = append(out, h)
			}
		}
	}
	return out
}

// dropTags forgets all tags but those to keep.
func (m *mirror) dropTags(keep []plumbing.Hash) error {
	entries, err := os.ReadDir(filepath.Join(m.dir, tagMarkers))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !slices.Contains(keep, plumbing.NewHash(e.Name())) {
			errs = append(errs, os.Remove(filepath.Join(m.dir, tagMarkers, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// targetOf is what the ref means if it means the commit: with the held tag that it could have named.
func (m *mirror) targetOf(ref Ref, commit plumbing.Hash) target {
	t := target{name: ref.String(), hash: commit, commit: commit}
	if ref.Tag == "" && ref.Semver == "" {
		return t
	}
	for _, h := range m.tagsOf([]plumbing.Hash{commit}) {
		tag, err := m.tag(h)
		if err != nil {
			continue
		}
		named := ref.Tag == tag.Name
		if ref.Semver != "" {
			_, err := highest(ref.Semver, []string{tag.Name}, strictVersion)
			named = err == nil
		}
		if named {
			return target{name: tag.Name, hash: h, commit: commit}
		}
	}
	return t
}
