package intent

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gitopsd/gitopsd/internal/durable"
)

// ErrAbsent says that the store does not have a content.
var ErrAbsent = errors.New("the content is not in the store")

// Files is a store of contents in a folder, one below it for each owner: compressed, encrypted (AES-256-GCM under a key beside them, made on
// the first use), each named by the SHA-256 of its plain bytes. The key makes a copy of an owner's folder unreadable; it keeps nothing from
// root of this machine. Owners may be used at the same time, one owner by one goroutine.
type Files struct {
	dir string
	sealer
}

// OpenFiles opens a store and makes the folder and its key where they are missing.
func OpenFiles(dir string) (*Files, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of revisions: %w", err)
	}
	key, err := loadKey(filepath.Join(dir, "key"))
	if err != nil {
		return nil, err
	}
	f := &Files{dir: dir}
	f.sealer, err = newSealer(key)
	return f, err
}

func loadKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, 32)
		_, _ = rand.Read(key) // never fails
		return key, durable.WriteFile(path, key, 0o600)
	}
	if err == nil && len(key) != 32 {
		err = fmt.Errorf("%s holds no key of 32 bytes; restore it from a backup, or remove the folder: what can be rolled back to is lost then", path)
	}
	return key, err
}

// Put keeps a content and returns its name, after it is on the disk. A content that is there is not written again.
func (f *Files) Put(owner string, content []byte) (name string, err error) {
	name = nameOf(content)
	path := filepath.Join(f.dir, owner, name)
	if _, err := os.Stat(path); err == nil {
		return name, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("keep revision: %w", err)
	}
	if err := durable.WriteFile(path, f.close(content, name), 0o600); err != nil {
		return "", fmt.Errorf("keep revision: %w", err)
	}
	return name, nil
}

// Get returns a content, or ErrAbsent.
func (f *Files) Get(owner, name string) ([]byte, error) {
	if name == "" || strings.ContainsAny(name, "/.") {
		return nil, ErrAbsent
	}
	sealed, err := os.ReadFile(filepath.Join(f.dir, owner, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrAbsent
	}
	if err != nil {
		return nil, fmt.Errorf("read revision: %w", err)
	}
	return f.unseal(sealed, name)
}

// Keep removes every content of an owner that is not named, and what a crash left half written.
func (f *Files) Keep(owner string, named map[string]bool) error {
	dir := filepath.Join(f.dir, owner)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list revisions: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !named[e.Name()] {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// Drop removes all contents of an owner.
func (f *Files) Drop(owner string) error { return os.RemoveAll(filepath.Join(f.dir, owner)) }
