// Package bundle holds the programs that gitopsd brings along: the container runtime, the renderer, kubectl.
//
// In: a directory. Out: Programs, a folder below it that holds them, unpacked once from the archive a build with the tag `bundle`
// embeds (made by hack/build-bundle.sh). Without the tag the folder is the one that GITOPSD_BUNDLE_DIR names.
//
// The folder is named by the hash of its content and never written to again: containers of an older gitopsd go on with
// their own programs. It refuses to remove a folder that a process still runs from.
package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The programs. Shim, Runtime and Bridge are one file under three names.
const (
	Containerd = "gitopsd-containerd"
	Shim       = "containerd-shim-runc-v2"
	Runtime    = "runc"
	Bridge     = "gitopsd-bridge"
	Pause      = "pause"
	Render     = "gitopsd-render"
	Kubectl    = "gitopsd-kubectl"
)

// DirVariable names the folder of the programs for a build without the tag `bundle`.
const DirVariable = "GITOPSD_BUNDLE_DIR"

// ErrNone is the error of a build that carries no programs and was given none.
var ErrNone = errors.New("this build carries no runtime: use make build, or name a folder of its programs in " + DirVariable)

// Programs is a folder with the programs.
type Programs struct {
	// Dir is absolute and does not change while the programs are in use.
	Dir string
}

// Path returns the file of a program.
func (p Programs) Path(name string) string { return filepath.Join(p.Dir, name) }

// Check returns an error that names the first of the programs names that the folder lacks.
func (p Programs) Check(names ...string) error {
	for _, name := range names {
		info, err := os.Stat(p.Path(name))
		if err != nil {
			return fmt.Errorf("find program %s: %w", name, err)
		}
		if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return fmt.Errorf("find program %s: %s is not an executable file", name, p.Path(name))
		}
	}
	return nil
}

// Entry is one program in a manifest.
type Entry struct {
	Name string
	Size int64
	Sum  string // SHA-256 of the content, hex
}

// Manifest lists the programs of an archive, sorted by name. Its text is `sum size name` a line.
type Manifest []Entry

func (m Manifest) String() string {
	var b strings.Builder
	for _, e := range m {
		fmt.Fprintf(&b, "%s %d %s\n", e.Sum, e.Size, e.Name)
	}
	return b.String()
}

// Hash names the content: the first 16 hex digits of the SHA-256 of the manifest's text.
func (m Manifest) Hash() string {
	sum := sha256.Sum256([]byte(m.String()))
	return hex.EncodeToString(sum[:8])
}

// ParseManifest reads the text of a manifest.
func ParseManifest(text string) (Manifest, error) {
	var m Manifest
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[2] != filepath.Base(fields[2]) {
			return nil, fmt.Errorf("parse manifest: bad line %q", strings.TrimSpace(line))
		}
		size, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("parse manifest: bad size in %q", strings.TrimSpace(line))
		}
		m = append(m, Entry{Name: fields[2], Size: size, Sum: fields[0]})
	}
	if len(m) == 0 {
		return nil, errors.New("parse manifest: it is empty")
	}
	return m, nil
}

// complete tells whether dir holds every program at its full size. A folder gets its name only after its content was verified and
// written through to the disk, so the size is enough to notice what happened to it since.
func (m Manifest) complete(dir string) bool {
	for _, e := range m {
		info, err := os.Lstat(filepath.Join(dir, e.Name))
		if err != nil || !info.Mode().IsRegular() || info.Size() != e.Size || info.Mode().Perm() != 0o755 {
			return false
		}
	}
	return true
}

// fromEnvironment returns the folder that DirVariable names.
func fromEnvironment() (Programs, error) {
	dir := os.Getenv(DirVariable)
	if dir == "" {
		return Programs{}, ErrNone
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Programs{}, err
	}
	if info, err := os.Stat(abs); err != nil {
		return Programs{}, fmt.Errorf("open %s: %w", DirVariable, err)
	} else if !info.IsDir() {
		return Programs{}, fmt.Errorf("open %s: %w", DirVariable, &fs.PathError{Op: "open", Path: abs, Err: errors.New("not a directory")})
	}
	return Programs{Dir: abs}, nil
}
