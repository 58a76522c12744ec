package ledger

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gitopsd/gitopsd/internal/durable"
	"golang.org/x/sys/unix"
)

// folder keeps segments as files of a folder, which it locks.
type folder struct {
	dir     string
	disk    disk
	lock    *os.File
	current file // nil before the first segment and after close
}

func openFolder(dir string, d disk) (*folder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of ledger: %w", err)
	}
	if err := d.SyncDir(filepath.Dir(filepath.Clean(dir))); err != nil {
		return nil, fmt.Errorf("make folder of ledger: %w", err)
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	return &folder{dir: dir, disk: d, lock: lock}, nil
}

// lockFolder keeps a second process out. The kernel gives the lock back when this one ends, however it does.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock ledger: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("another process writes to the ledger in %s; stop that one first", dir)
	}
	return nil, fmt.Errorf("lock ledger: %w", err)
}

// file is what the ledger writes to.
type file interface {
	io.WriterAt
	Sync() error
	Truncate(size int64) error
	Close() error
}

// disk is what the ledger does to its folder. Tests make it fail.
type disk interface {
	Open(path string, flag int) (file, error)
	Remove(path string) error
	SyncDir(path string) error
}

type realDisk struct{}

func (realDisk) Open(path string, flag int) (file, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err // a nil *os.File would be a file that is not nil
	}
	return f, nil
}
func (realDisk) Remove(path string) error  { return os.Remove(path) }
func (realDisk) SyncDir(path string) error { return durable.SyncDir(path) }

func (f *folder) place() string { return f.dir }

func (f *folder) segmentName(first uint64) string { return filepath.Join(f.dir, segmentName(first)) }

func (f *folder) keys(empty bool) (ed25519.PrivateKey, error) { return loadKeys(f.dir, empty) }

func (f *folder) list() ([]uint64, error) {
	names, err := segmentNames(f.dir)
	if err != nil {
		return nil, err
	}
	firsts := make([]uint64, len(names))
	for i, name := range names {
		firsts[i], _ = segmentFirst(name)
	}
	return firsts, nil
}

func (f *folder) open(first uint64) (io.ReadCloser, error) { return os.Open(f.segmentName(first)) }

func (f *folder) resume(first uint64) (closed bool, err error) {
	f.current, err = f.disk.Open(f.segmentName(first), os.O_WRONLY)
	return false, err
}

// begin makes a file with a first line, durably. What has its name already is a rest of an earlier try, and nothing in it counts.
func (f *folder) begin(first uint64, line []byte) error {
	path := f.segmentName(first)
	next, err := f.disk.Open(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = next.WriteAt(line, 0)
	if err == nil {
		err = next.Sync()
	}
	if err == nil {
		err = f.disk.SyncDir(f.dir)
	}
	if err != nil {
		return errors.Join(err, next.Close(), f.disk.Remove(path))
	}
	if f.current != nil {
		_ = f.current.Close() // synced long ago
	}
	f.current = next
	return nil
}

func (f *folder) append(at int64, lines []byte) error {
	_, err := f.current.WriteAt(lines, at)
	if err == nil {
		err = f.current.Sync()
	}
	return err
}

// mend syncs what it takes away, so that no crash brings parts of it back under later lines.
func (f *folder) mend(size int64) error {
	err := f.current.Truncate(size)
	if err == nil {
		err = f.current.Sync()
	}
	return err
}

func (f *folder) remove(first uint64) error {
	err := f.disk.Remove(f.segmentName(first))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (f *folder) close() error {
	var err error
	if f.current != nil {
		err = f.current.Close()
		f.current = nil
	}
	return errors.Join(err, f.lock.Close())
}
