package source

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Keep says what a store keeps of repositories that nobody reads any more. Zero fields take the defaults.
type Keep struct {
	Unused   time.Duration // what nobody used for so long is deleted; 24 h
	MaxBytes int64         // on disk altogether: beyond it goes what is not in use, the one used longest ago first; 10 GiB
	// Measured hears after each look how much is there. nil: nobody does.
	Measured func(bytes int64, entries int)
}

const (
	sweepEvery  = 10 * time.Minute
	sweepAtMost = 30 * time.Second // after a fetch, which may have brought much
)

// cached is something in the store's folder that can be had again: a mirror, or an archive.
type cached struct {
	name  string // in the store's folder
	bytes int64
	used  time.Time
	busy  bool // somebody follows it, or holds a snapshot of it
	drop  func() error
}

// excess decides what is deleted: what nobody used for long, and then what is too much. Nothing that is in use.
func excess(all []cached, keep Keep, now time.Time) []cached {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b cached) int { return cmp.Or(a.used.Compare(b.used), strings.Compare(a.name, b.name)) })
	var sum int64
	for _, c := range all {
		sum += c.bytes
	}
	var out []cached
	for _, c := range all {
		if !c.busy && (now.Sub(c.used) >= keep.Unused || sum > keep.MaxBytes) {
			out = append(out, c)
			sum -= c.bytes
		}
	}
	return out
}

// goneFolder begins the name of what is being deleted.
const goneFolder = ".gone-"

// clearLeftovers removes what a crash left of deletions and of writing.
func (s *Store) clearLeftovers() error {
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), goneFolder) || strings.HasPrefix(e.Name(), ".tmp-") {
			errs = append(errs, os.RemoveAll(filepath.Join(s.cfg.Dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// fetched has the store measured soon.
func (s *Store) fetched() {
	select {
	case s.grown <- struct{}{}:
	default:
	}
}

// housekeep sweeps at the beginning, from time to time, and some time after a fetch.
func (s *Store) housekeep(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var due time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.grown:
			if time.Until(due) > sweepAtMost {
				due = time.Now().Add(sweepAtMost)
				timer.Reset(sweepAtMost)
			}
		case <-timer.C:
			s.sweep(time.Now())
			due = time.Now().Add(sweepEvery)
			timer.Reset(sweepEvery)
		}
	}
}

// sweep deletes what is too old or too much.
func (s *Store) sweep(now time.Time) {
	all, err := s.contents(now)
	if err != nil {
		s.cfg.Logger.Warn("measure repositories", "err", err)
		return
	}
	var bytes int64
	for _, c := range all {
		bytes += c.bytes
	}
	entries := len(all)
	for _, c := range excess(all, *s.cfg.Keep, now) {
		switch err := c.drop(); {
		case errors.Is(err, errInUse):
			continue
		case err != nil:
			s.cfg.Logger.Warn("delete unused repository", "name", c.name, "err", err)
			continue
		}
		bytes -= c.bytes
		entries--
		s.cfg.Logger.Info("deleted unused repository", "name", c.name, "bytes", c.bytes, "lastUsed", c.used)
	}
	if s.cfg.Keep.Measured != nil {
		s.cfg.Keep.Measured(bytes, entries)
	}
}

// contents lists what the store's folder holds. What is in use is used now.
func (s *Store) contents(now time.Time) ([]cached, error) {
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return nil, err
	}
	busy := s.busy()
	var out []cached
	for _, e := range entries {
		name := e.Name()
		drop := s.dropMirror
		if strings.HasSuffix(name, shelfFolder) {
			drop = s.dropShelf
		} else if !strings.HasSuffix(name, ".git") {
			continue
		}
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(s.cfg.Dir, name)
		c := cached{name: name, busy: busy[name], drop: func() error { return drop(name) }}
		if c.busy {
			touch(dir, now)
		}
		c.bytes, c.used = diskUse(dir), lastUse(dir)
		out = append(out, c)
	}
	return out, nil
}

func (s *Store) busy() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	busy := s.busyShelves()
	for name := range s.mirrors {
		busy[name] = s.inUse(name)
	}
	return busy
}

// inUse says whether somebody follows a mirror's repository or holds a snapshot of it. The caller holds the store's lock.
func (s *Store) inUse(name string) bool {
	m := s.mirrors[name]
	if m == nil {
		return false
	}
	for _, r := range s.remotes {
		if r.mirror == m {
			return true
		}
	}
	return m.held()
}

// held reports whether anybody holds a snapshot.
func (m *mirror) held() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.trees {
		if t.Value() != nil {
			return true
		}
	}
	return false
}

var errInUse = errors.New("it is in use")

// dropMirror deletes a mirror unless somebody began to use it meanwhile, be it another process. It goes under another name
// first, so that a crash leaves none that has lost half of its objects.
func (s *Store) dropMirror(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inUse(name) {
		return errInUse
	}
	dir := filepath.Join(s.cfg.Dir, name)
	if m := s.mirrors[name]; m != nil {
		if m.lock == nil || !m.fetching.TryLock() { // a remote that was let go of may still be about to end
			return errInUse
		}
		defer m.fetching.Unlock()
		m.close()
		delete(s.mirrors, name)
	} else if free, err := unlocked(dir); err != nil {
		return err
	} else if !free {
		return errInUse
	}
	return s.discard(name)
}

// dropShelf deletes a shelf of archives unless somebody began to use it meanwhile.
func (s *Store) dropShelf(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busyShelves()[name] {
		return errInUse
	}
	return s.discard(name)
}

func (s *Store) discard(name string) error {
	gone := filepath.Join(s.cfg.Dir, goneFolder+name)
	if err := os.Rename(filepath.Join(s.cfg.Dir, name), gone); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// unlocked says whether no process owns the mirror.
func unlocked(dir string) (bool, error) {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// useFile is the file of a mirror whose time says when it was used last.
const useFile = "gitopsd.used"

func touch(dir string, now time.Time) {
	name := filepath.Join(dir, useFile)
	if err := os.Chtimes(name, now, now); errors.Is(err, fs.ErrNotExist) {
		if f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			f.Close()
			_ = os.Chtimes(name, now, now) // an order for the sweep, no more
		}
	}
}

func lastUse(dir string) time.Time {
	for _, name := range []string{filepath.Join(dir, useFile), dir} {
		if info, err := os.Stat(name); err == nil {
			return info.ModTime()
		}
	}
	return time.Time{}
}

// diskUse sums up the files below a folder, as far as they can be seen.
func diskUse(dir string) int64 {
	var sum int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil
	})
	return sum
}
