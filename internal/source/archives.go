package source

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"weak"
)

// address of a shelf: an archive is known by where it came from, as a commit is by its mirror.
func shelfOf(a address, chart string) string {
	return strings.TrimSuffix(a.String(), "/") + "\n" + chart
}

// shelfLocked finds or opens a shelf. The caller holds mu.
func (s *Store) shelfLocked(name string) (*shelf, error) {
	if open := s.shelves[name].Value(); open != nil {
		return open, nil
	}
	open, err := openShelf(s.cfg.Dir, name, s.cfg.Limits)
	if err != nil {
		return nil, err
	}
	open.grown = s.fetched
	s.shelves[name] = weak.Make(open)
	return open, nil
}

func (s *Store) shelf(name string) (*shelf, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shelfLocked(name)
}

// chooseArchive has a remote read artifacts of a registry, or charts of a Helm repository. The caller holds the store's lock.
func (r *remote) chooseArchive(k kind, spec Spec) error {
	shelf, err := r.store.shelfLocked(shelfOf(r.addr, spec.Chart))
	if err != nil {
		return err
	}
	if k == ociKind {
		o, err := openOCI(r.addr, spec.Chart, r.creds, shelf, r.store.cfg.Limits)
		if err != nil {
			return err
		}
		r.check, r.http = o.read, o.http
		return nil
	}
	index, err := r.store.indexLocked(r.addr, r.creds)
	if err != nil {
		return err
	}
	r.check, r.http = (&helmChart{index: index, chart: spec.Chart, shelf: shelf}).read, index.http
	return nil
}

// archiveAt reads what was fetched before.
func (s *Store) archiveAt(a address, spec Spec, digest string) (Snapshot, error) {
	shelf, err := s.shelf(shelfOf(a, spec.Chart))
	if err != nil {
		return Snapshot{}, classify(s.ctx, a.String(), err)
	}
	found, err := shelf.at(digest)
	if err != nil {
		class := ErrStorage
		if errors.Is(err, fs.ErrNotExist) {
			class = ErrRefNotFound
		}
		return Snapshot{}, &Error{Class: class, Repo: a.String(), Text: "archive " + quote(digest) + " is not kept"}
	}
	return found.snapshot(a.String(), found.about.Name, digest), nil
}

// findArchives lists the digests that begin with prefix, with sha256: in front or without.
func (s *Store) findArchives(a address, spec Spec, prefix string) ([]string, error) {
	shelf, err := s.shelf(shelfOf(a, spec.Chart))
	if err != nil {
		return nil, classify(s.ctx, a.String(), err)
	}
	var out []string
	for _, d := range shelf.digests() {
		if strings.HasPrefix(d, prefix) || strings.HasPrefix(d, digestPrefix+prefix) {
			out = append(out, d)
		}
	}
	return out, nil
}

// Archived says whether a spec names archives, which have digests and neither branches nor commits.
func (spec Spec) Archived() bool {
	_, k, err := spec.parse()
	return err == nil && k != gitKind
}

// busyShelves are the folders of shelves that somebody holds. The caller holds mu.
func (s *Store) busyShelves() map[string]bool {
	busy := map[string]bool{}
	for name, open := range s.shelves {
		if held := open.Value(); held != nil {
			busy[filepath.Base(held.dir)] = true
		} else {
			delete(s.shelves, name)
		}
	}
	return busy
}

// indexLocked is shared by all who read from one repository with the same credentials. The caller holds mu.
func (s *Store) indexLocked(a address, creds Credentials) (*helmIndex, error) {
	key := a.String() + "\n" + creds.fingerprint()
	if h := s.indexes[key].Value(); h != nil {
		return h, nil
	}
	shelf, err := s.shelfLocked("index\n" + key)
	if err != nil {
		return nil, err
	}
	h, err := openHelmIndex(shelf, a, creds, s.cfg.Limits)
	if err != nil {
		return nil, err
	}
	s.indexes[key] = weak.Make(h)
	return h, nil
}
