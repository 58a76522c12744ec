package source

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// packer writes what strangers packed into a file of ours: the contents one after the other, then an index of names, sizes
// and sums, then the index' length and sum. What it is given is read once, from front to back, under limits; nothing is
// ever written under a name of the archive.
type packer struct {
	limits Limits
	out    *bufio.Writer
	offset int64
	root   *entry
	count  int
}

// Loose limits of archives that are not worth a knob.
const (
	longestName  = 1024
	deepest      = 64
	freeInflate  = 64 << 20 // bytes that may come out before the ratio counts
	worstInflate = 200      // bytes out for one byte in; YAML packs 5 to 30 times, zeros 1000 times
)

func newPacker(w io.Writer, limits Limits) *packer {
	return &packer{limits: limits, out: bufio.NewWriterSize(w, 1<<16), root: &entry{path: ".", mode: fs.ModeDir | 0o755}}
}

func refusedEntry(name, what string) error {
	return &Error{Class: ErrRefused, Text: "the archive's entry " + quote(name) + " " + what, Next: "pack it anew, with plain files below its root"}
}

// entryName makes a path below the root of an entry's name, and refuses what leads elsewhere.
func entryName(raw string) (string, error) {
	name := strings.TrimRight(raw, "/")
	switch {
	case strings.HasPrefix(raw, "/") || strings.HasPrefix(raw, "\\"):
		return "", refusedEntry(raw, "has an absolute path")
	case slices.Contains(strings.Split(name, "/"), ".."):
		return "", refusedEntry(raw, "leads out of the archive")
	case len(raw) > longestName || strings.Count(raw, "/") > deepest:
		return "", refusedEntry(raw, "has a name that is too long")
	case !utf8.ValidString(raw) || strings.ContainsRune(raw, 0):
		return "", refusedEntry(raw, "has a name that is no text")
	}
	return path.Clean(name), nil // of "" it makes "."
}

// put finds the place of a name, making the folders above it, and returns the entry to fill in. What was there under the
// name before is replaced, as tar does, unless one of the two is a folder.
func (p *packer) put(name string, mode fs.FileMode) (*entry, error) {
	at := p.root
	names := parts(name)
	for i, part := range names {
		if isDotGit(part) {
			return nil, refusedEntry(name, "is one of Git's own")
		}
		last := i == len(names)-1
		next := at.child(part)
		switch {
		case next == nil:
			if p.count++; p.count > p.limits.Entries {
				return nil, &Error{Class: ErrTooLarge, Text: fmt.Sprintf("the archive holds more than %d files", p.limits.Entries), Next: "split it"}
			}
			next = &entry{name: part, path: join(at.path, part), mode: fs.ModeDir | 0o755}
			at.insert(next)
			if last {
				next.mode = mode
			}
		case !last && !next.mode.IsDir():
			return nil, refusedEntry(name, "lies below what is no folder")
		case last && next.mode.IsDir() != mode.IsDir():
			return nil, refusedEntry(name, "is both a file and a folder")
		case last:
			next.mode = mode
		}
		at = next
	}
	return at, nil
}

func (e *entry) insert(child *entry) {
	i, _ := slices.BinarySearchFunc(e.below, child.name, func(e *entry, name string) int { return strings.Compare(e.name, name) })
	e.below = slices.Insert(e.below, i, child)
}

// file takes a file in. size is what is announced; more is never read.
func (p *packer) file(name string, mode fs.FileMode, size int64, r io.Reader) error {
	name, err := entryName(name)
	if err != nil {
		return err
	}
	if name == "." {
		return refusedEntry(name, "is a file without a name")
	}
	if size > p.limits.Object || size < 0 {
		return &Error{Class: ErrTooLarge, Text: fmt.Sprintf("file %s of the archive has %d bytes, more than %d", quote(name), size, p.limits.Object), Next: "take it out"}
	}
	if p.offset+size > p.limits.Unpacked {
		return tooMuchUnpacked(p.limits)
	}
	e, err := p.put(name, mode&0o111|0o644)
	if err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(p.out, h), io.LimitReader(r, size))
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return damagedArchive(err)
	}
	e.offset, e.size, e.sum, e.target = p.offset, size, hex.EncodeToString(h.Sum(nil)), ""
	p.offset += n
	return nil
}

func tooMuchUnpacked(l Limits) error {
	return &Error{Class: ErrTooLarge, Text: fmt.Sprintf("the archive's files have more than %d MiB together", l.Unpacked>>20), Next: "split it"}
}

// damagedArchive is for what cannot be read as what it says it is. An error that has a class keeps it.
func damagedArchive(err error) error {
	var e *Error
	var disk *fs.PathError // of what it is written to, or was downloaded to
	switch {
	case errors.As(err, &e):
		return err
	case errors.As(err, &disk):
		return storageError(err)
	}
	return &Error{Class: ErrBroken, Text: "the archive is damaged", Err: err, Next: "push it again"}
}

// tarball takes the files of a tar in, below folder; strip leaves out the first element of every name, as charts want it.
func (p *packer) tarball(r io.Reader, strip bool) error {
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return damagedArchive(err)
		}
		if err := p.header(h, t, strip); err != nil {
			return err
		}
	}
}

func (p *packer) header(h *tar.Header, r io.Reader, strip bool) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // git archive puts its commit there
	}
	name, err := entryName(h.Name)
	if err != nil {
		return err
	}
	if strip {
		if _, name, _ = strings.Cut(name, "/"); name == "" {
			return p.top(h)
		}
	}
	if name == "." && h.Typeflag != tar.TypeDir {
		return refusedEntry(h.Name, "stands for the root and is no folder")
	}
	switch h.Typeflag {
	case tar.TypeReg:
		if sparse(h) {
			return refusedEntry(h.Name, "is a sparse file")
		}
		return p.file(name, fs.FileMode(h.Mode), h.Size, r) //nolint:gosec // only the x bits are kept
	case tar.TypeDir:
		_, err = p.put(name, fs.ModeDir|0o755)
		return err
	case tar.TypeSymlink:
		return p.symlink(name, h.Linkname)
	case tar.TypeLink:
		return p.hardlink(name, h.Linkname, strip)
	}
	return refusedEntry(h.Name, fmt.Sprintf("is neither a file nor a folder nor a link (type %q)", h.Typeflag))
}

// top is what a chart's archive has beside its one folder: the folder itself.
func (p *packer) top(h *tar.Header) error {
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	return refusedEntry(h.Name, "lies beside the chart's folder")
}

func sparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func (p *packer) symlink(name, target string) error {
	if len(target) > longestName || !utf8.ValidString(target) {
		return refusedEntry(name, "is a link that leads to no name")
	}
	e, err := p.put(name, fs.ModeSymlink|0o777)
	if err != nil {
		return err
	}
	e.offset, e.size, e.sum, e.target = 0, int64(len(target)), "", target
	return nil
}

// hardlink is another name of a file that came before.
func (p *packer) hardlink(name, target string, strip bool) error {
	to, err := entryName(target)
	if err != nil {
		return err
	}
	if strip {
		_, to, _ = strings.Cut(to, "/")
	}
	from := p.root
	for _, part := range parts(to) {
		if from = from.child(part); from == nil {
			return refusedEntry(name, "is a link to "+quote(target)+", which did not come before")
		}
	}
	if !from.mode.IsRegular() {
		return refusedEntry(name, "is a hard link to what is no file")
	}
	e, err := p.put(name, from.mode)
	if err != nil {
		return err
	}
	e.offset, e.size, e.sum, e.target = from.offset, from.size, from.sum, ""
	return nil
}

// unzip reads gzip, at most so much that the archive's files fit, and no bomb.
func (p *packer) unzip(r io.Reader) (io.Reader, error) {
	in := &counted{r: r}
	z, err := gzip.NewReader(bufio.NewReader(in))
	if err != nil {
		return nil, damagedArchive(err)
	}
	return &inflated{z: z, in: in, limits: p.limits}, nil
}

// counted knows how many bytes were read.
type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// inflated ends in an error when more comes out than an honest archive has.
type inflated struct {
	z      io.Reader
	in     *counted
	n      int64
	limits Limits
}

func (i *inflated) Read(b []byte) (int, error) {
	n, err := i.z.Read(b)
	i.n += int64(n)
	switch {
	case i.n > i.limits.Unpacked+int64(i.limits.Entries)*1024: // headers besides
		return 0, tooMuchUnpacked(i.limits)
	case i.n > freeInflate && i.n/worstInflate > i.in.n:
		return 0, &Error{Class: ErrTooLarge, Text: fmt.Sprintf("the archive is a bomb: %d bytes became more than %d", i.in.n, i.n), Next: "pack it anew"}
	}
	return n, err
}

// kept is the index of an archive on disk.
type kept struct {
	About   about       `json:"about"`
	Entries []keptEntry `json:"entries"` // folders before what they hold
}

type keptEntry struct {
	Path   string      `json:"path"`
	Mode   fs.FileMode `json:"mode"`
	Offset int64       `json:"offset,omitempty"`
	Size   int64       `json:"size,omitempty"`
	Sum    string      `json:"sum,omitempty"`
	Target string      `json:"target,omitempty"`
}

// finish writes the index.
func (p *packer) finish(a about) error {
	k := kept{About: a}
	var walk func(*entry)
	walk = func(e *entry) {
		for _, b := range e.below {
			k.Entries = append(k.Entries, keptEntry{b.path, b.mode, b.offset, b.size, b.sum, b.target})
			walk(b)
		}
	}
	walk(p.root)
	index, err := json.Marshal(k)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(index)
	trailer := append(binary.BigEndian.AppendUint64(nil, uint64(len(index))), sum[:]...)
	_, err = p.out.Write(append(index, trailer...))
	return errors.Join(err, p.out.Flush())
}

const trailerSize = 8 + sha256.Size

var errTorn = errors.New("the file is torn")

// openArchive reads the index of what a packer wrote.
func openArchive(name string) (*archive, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	a, err := readArchive(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return a, nil
}

func readArchive(f *os.File) (*archive, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	trailer := make([]byte, trailerSize)
	if _, err := f.ReadAt(trailer, info.Size()-trailerSize); err != nil || info.Size() < trailerSize {
		return nil, errTorn
	}
	length := int64(binary.BigEndian.Uint64(trailer)) //nolint:gosec // compared with the file's size next
	start := info.Size() - trailerSize - length
	if length < 0 || start < 0 {
		return nil, errTorn
	}
	index := make([]byte, length)
	if _, err := f.ReadAt(index, start); err != nil {
		return nil, err
	}
	var k kept
	if sum := sha256.Sum256(index); string(sum[:]) != string(trailer[8:]) || json.Unmarshal(index, &k) != nil {
		return nil, errTorn
	}
	p := newPacker(io.Discard, Limits{Entries: len(k.Entries)})
	for _, e := range k.Entries {
		at, err := p.put(e.Path, e.Mode)
		if err != nil {
			return nil, errTorn
		}
		at.offset, at.size, at.sum, at.target = e.Offset, e.Size, e.Sum, e.Target
	}
	return &archive{file: f, about: k.About, root: p.root}, nil
}
