package bundle

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// unpackPrefix begins the name of a folder that is being written; one that a killed process left is removed by the next.
const unpackPrefix = ".unpack-"

// Window is how far back the archive's compression looks: so far that the libraries the programs share are found again (a quarter of the
// size), and unpacking takes that much memory for a moment.
const Window = 64 << 20

// archive is what a build with the tag `bundle` embeds.
type archive struct {
	manifest string
	tarZstd  string
}

// unpack makes dir/<hash> hold the programs of the archive and returns it. Processes that unpack at the same time wait
// for one another; after a crash at any instant the next call starts over.
func (a archive) unpack(dir string) (Programs, error) {
	m, err := ParseManifest(a.manifest)
	if err != nil {
		return Programs{}, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return Programs{}, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Programs{}, err
	}
	unlock, err := lock(filepath.Join(dir, ".lock"))
	if err != nil {
		return Programs{}, err
	}
	defer unlock()
	p := Programs{Dir: filepath.Join(dir, m.Hash())}
	if !m.complete(p.Dir) {
		if err := a.write(dir, p.Dir, m); err != nil {
			return Programs{}, fmt.Errorf("unpack programs into %s: %w", p.Dir, err)
		}
	}
	return p, removeUnused(dir, p.Dir)
}

func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}

// write unpacks into a folder beside final and renames it to final once all of it is verified and on the disk.
func (a archive) write(dir, final string, m Manifest) error {
	tmp, err := os.MkdirTemp(dir, unpackPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	z, err := zstd.NewReader(strings.NewReader(a.tarZstd), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(Window))
	if err != nil {
		return err
	}
	defer z.Close()
	if err := extract(tar.NewReader(z), tmp, m); err != nil {
		return err
	}
	if err := durable.SyncDir(tmp); err != nil {
		return err
	}
	// A folder that somebody damaged: its programs may run, so it is moved away and left to removeUnused.
	if _, err := os.Lstat(final); err == nil {
		if err := os.Rename(final, tmp+".damaged"); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, final); err != nil {
		return err
	}
	return durable.SyncDir(dir)
}

// extract writes the entries of r into dir and compares them with the manifest: nothing more, nothing less, nothing else.
func extract(r *tar.Reader, dir string, m Manifest) error {
	want := make(map[string]Entry, len(m))
	for _, e := range m {
		want[e.Name] = e
	}
	sums := map[string]string{} // of what was written, for hard links
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		e, ok := want[h.Name]
		if !ok {
			return fmt.Errorf("%q is not in the manifest", h.Name)
		}
		delete(want, h.Name)
		path := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeLink {
			sums[h.Name] = sums[h.Linkname]
			err = os.Link(filepath.Join(dir, filepath.Base(h.Linkname)), path)
		} else {
			sums[h.Name], err = writeProgram(path, r)
		}
		if err != nil {
			return err
		}
		if sums[h.Name] != e.Sum {
			return fmt.Errorf("%s: SHA-256 is %s, not %s", h.Name, sums[h.Name], e.Sum)
		}
	}
	for name := range want {
		return fmt.Errorf("%s is missing", name)
	}
	return nil
}

func writeProgram(path string, r io.Reader) (sum string, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, h), r); err != nil {
		return "", err
	}
	if err := f.Chmod(0o755); err != nil { // whatever the umask
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), f.Sync()
}

// removeUnused removes the folders of dir that no process runs from, but for keep.
func removeUnused(dir, keep string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var old []string
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); e.IsDir() && path != keep {
			old = append(old, path)
		}
	}
	if len(old) == 0 {
		return nil
	}
	used, err := runningFrom(old)
	if err != nil {
		return fmt.Errorf("look for users of old programs: %w", err)
	}
	for _, path := range old {
		if !used[path] {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}
	return err
}

// runningFrom returns those of dirs that some process's program lies in. To somebody who is not root, a process that may not be
// looked at could run from any of them; what may not be looked at by root is none of ours.
func runningFrom(dirs []string) (map[string]bool, error) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, proc := range procs {
		if proc.Name()[0] < '0' || proc.Name()[0] > '9' {
			continue
		}
		exe, err := os.Readlink(filepath.Join("/proc", proc.Name(), "exe"))
		for _, dir := range dirs {
			if strings.HasPrefix(exe, dir+"/") || errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
				used[dir] = true
			}
		}
	}
	return used, nil
}
