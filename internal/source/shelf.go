package source

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"weak"
)

// shelf is a folder of archives of one address, each in a file named by its digest. Files come by renaming and are never
// changed, so several processes may use one shelf.
type shelf struct {
	dir    string
	limits Limits
	grown  func() // hears of each archive that came; nil: nobody does

	mu   sync.Mutex
	open map[string]weak.Pointer[archive] // by digest; what nobody holds is forgotten
}

const (
	shelfFolder  = ".archives" // ends the name of a shelf
	shelfExt     = ".files"
	leftoverName = ".tmp-"
	leftoverAge  = time.Hour // of a file that a killed process was writing; no fetch takes as long
)

// openShelf opens or makes the shelf of an address. What is on it is known by the address: nobody reaches with one
// address what was fetched with the rights for another.
func openShelf(root, addr string, limits Limits) (*shelf, error) {
	sum := sha256.Sum256([]byte(addr))
	s := &shelf{dir: filepath.Join(root, hex.EncodeToString(sum[:16])+shelfFolder), limits: limits, open: map[string]weak.Pointer[archive]{}}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, storageError(err)
	}
	touch(s.dir, time.Now())
	return s, s.sweep()
}

// sweep removes what killed processes left behind.
func (s *shelf) sweep() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return storageError(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && strings.HasPrefix(e.Name(), leftoverName) && time.Since(info.ModTime()) > leftoverAge {
			_ = os.Remove(filepath.Join(s.dir, e.Name()))
		}
	}
	return nil
}

func (s *shelf) file(digest string) string {
	return filepath.Join(s.dir, strings.TrimPrefix(digest, digestPrefix)+shelfExt)
}

// at returns an archive that was put before; os.ErrNotExist when there is none. A file that is torn counts as none.
func (s *shelf) at(digest string) (*archive, error) {
	if !isDigest(digest) {
		return nil, os.ErrNotExist
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := s.file(digest)
	now := time.Now()
	if err := os.Chtimes(name, now, now); err != nil { // what is used last is kept longest
		return nil, err
	}
	touch(s.dir, now)
	if a := s.open[digest].Value(); a != nil {
		return a, nil
	}
	a, err := openArchive(name)
	if err != nil {
		_ = os.Remove(name)
		return nil, errors.Join(os.ErrNotExist, err)
	}
	s.open[digest] = weak.Make(a)
	return a, nil
}

// put makes an archive of what fill packs, under its digest.
func (s *shelf) put(digest string, fill func(*packer) (about, error)) (*archive, error) {
	f, err := os.CreateTemp(s.dir, leftoverName)
	if err != nil {
		return nil, storageError(err)
	}
	defer os.Remove(f.Name()) // when it did not come to the rename
	defer f.Close()
	p := newPacker(f, s.limits)
	a, err := fill(p)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(p.finish(a), f.Sync(), os.Rename(f.Name(), s.file(digest))); err != nil {
		return nil, storageError(err)
	}
	s.mu.Lock()
	delete(s.open, digest)
	s.mu.Unlock()
	s.trim()
	if s.grown != nil {
		s.grown()
	}
	return s.at(digest)
}

// trim deletes what was not used for longest, beyond what a mirror keeps of commits and what archives may weigh together.
// The newest stays, and what is held: who follows it would have it fetched again at every look.
func (s *shelf) trim() {
	var sum int64
	for i, d := range s.digests() {
		if info, err := os.Stat(s.file(d)); err == nil {
			sum += info.Size()
		}
		if i > 0 && (i >= commitsKept || sum > s.limits.Kept) && !s.held(d) {
			_ = os.Remove(s.file(d))
		}
	}
}

func (s *shelf) held(digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[digest].Value() != nil
}

// digests lists what is there, the one used last first.
func (s *shelf) digests() []string {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil
	}
	used := map[string]time.Time{}
	var out []string
	for _, e := range entries {
		hash, ok := strings.CutSuffix(e.Name(), shelfExt)
		info, err := e.Info()
		if d := digestPrefix + hash; ok && err == nil && isDigest(d) {
			out = append(out, d)
			used[d] = info.ModTime()
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		if c := used[b].Compare(used[a]); c != 0 {
			return c
		}
		return strings.Compare(a, b)
	})
	return out
}

// download keeps a stream in a file without a name for as long as it is needed, and tells its digest.
func (s *shelf) download(r io.Reader, limit int64) (*os.File, string, error) {
	f, err := os.CreateTemp(s.dir, leftoverName)
	if err != nil {
		return nil, "", storageError(err)
	}
	_ = os.Remove(f.Name()) // it lives as long as it is open
	in := &counted{r: io.LimitReader(r, limit+1)}
	digest, err := digestOfReader(io.TeeReader(in, f))
	if err == nil && in.n > limit {
		err = tooLargeOnWire(limit)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, "", err
	}
	return f, digest, nil
}

func digestOfReader(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return digestPrefix + hex.EncodeToString(h.Sum(nil)), nil
}
