package source

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
)

// install takes a pack in: to a temporary file, checked, indexed, made durable, and only then under its name.
// go-git's own writer is not used because it trusts the sizes a pack declares, indexes while it reads, and keeps
// a truncated index when it is killed. It returns the pack's path without extension; none when there was nothing in it.
func (m *mirror) install(pack io.Reader, limits Limits) (base string, err error) {
	if m.lock == nil {
		return "", errNotOwner
	}
	folder := filepath.Join(m.dir, "objects/pack")
	tmp, err := os.CreateTemp(folder, ".tmp-pack-*")
	if err != nil {
		return "", storageError(err)
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	n, err := io.Copy(tmp, io.LimitReader(pack, limits.Pack+1))
	switch {
	case n > limits.Pack:
		return "", &Error{Class: ErrTooLarge, Text: fmt.Sprintf("the fetch brings more than %d MiB", limits.Pack>>20), Next: "split the repository, or take large files out of it"}
	case err != nil && errors.As(err, new(*os.PathError)):
		return "", storageError(err)
	case err != nil:
		return "", err
	}
	borrowed, err := checkPack(tmp, n, limits)
	if err == nil && len(borrowed) > 0 {
		err = m.complement(tmp, borrowed)
	}
	if err != nil {
		return "", err
	}
	index, sum, err := indexPack(tmp)
	if err != nil {
		return "", err
	}
	if index == nil {
		return "", nil // no objects: everything was here
	}
	base = filepath.Join(folder, "pack-"+sum.String())
	if err := writeFile(base+".idx", index); err != nil {
		return "", storageError(err)
	}
	if err := errors.Join(tmp.Sync(), tmp.Chmod(0o400), os.Rename(tmp.Name(), base+".pack"), syncFolder(folder)); err != nil {
		return "", storageError(err)
	}
	m.reopen()
	return base, nil
}

func syncFolder(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// checkPack goes once through a pack without keeping anything, so that what comes after it may believe the
// counts and sizes: the parser reserves memory by them. It returns the objects that deltas name by their hash.
func checkPack(f *os.File, length int64, limits Limits) (borrowed []plumbing.Hash, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	s := packfile.NewScanner(bufio.NewReader(f))
	_, count, err := s.Header()
	if err != nil {
		return nil, err
	}
	const least = 10 // bytes of an empty object: header and zlib stream
	switch {
	case int64(count) > int64(limits.Objects):
		return nil, &Error{Class: ErrTooLarge, Text: fmt.Sprintf("the fetch brings %d objects", count), Next: "split the repository"}
	case int64(count)*least > length:
		return nil, fmt.Errorf("%d objects in %d bytes", count, length)
	}
	p := &packCheck{scanner: s, limits: limits, depth: map[int64]int{}, budget: limits.Inflate, seen: map[plumbing.Hash]bool{}}
	for range count {
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	return p.borrowed, nil
}

// packCheck is where checkPack stands.
type packCheck struct {
	scanner  *packfile.Scanner
	limits   Limits
	depth    map[int64]int // of the chain of deltas, by offset
	budget   int64
	seen     map[plumbing.Hash]bool
	borrowed []plumbing.Hash
}

func (p *packCheck) next() error {
	h, err := p.scanner.NextObjectHeader()
	if err != nil {
		return err
	}
	if err := p.limits.checkSize(h.Length); err != nil {
		return err
	}
	head := &deltaHead{max: p.limits.Object}
	if _, _, err := p.scanner.NextObject(head); err != nil {
		return err
	}
	size := h.Length
	switch {
	case h.Type.IsDelta():
		if size, err = head.target(); err != nil {
			return err
		}
		if err := p.limits.checkSize(size); err != nil {
			return err
		}
		if h.Type == plumbing.OFSDeltaObject {
			p.depth[h.Offset] = p.depth[h.OffsetReference] + 1
		} else if !p.seen[h.Reference] {
			p.seen[h.Reference] = true
			p.borrowed = append(p.borrowed, h.Reference)
		}
	case head.n != h.Length:
		return fmt.Errorf("object at %d holds %d bytes and declares %d", h.Offset, head.n, h.Length)
	}
	const deepest = 4095 // git's own limit for --depth
	if p.budget -= size; p.budget < 0 || p.depth[h.Offset] > deepest {
		return &Error{Class: ErrTooLarge, Text: "the fetch unpacks to more than can be handled", Next: "split the repository"}
	}
	return nil
}

// complement turns a thin pack into one that stands by itself, as git index-pack --fix-thin does: the objects that
// its deltas lean on are added to it, the count in front and the checksum behind are made anew.
func (m *mirror) complement(f *os.File, borrowed []plumbing.Hash) error {
	info, err := f.Stat()
	if err != nil {
		return storageError(err)
	}
	if info.Size() < 32 {
		return errors.New("pack without a checksum")
	}
	end := info.Size() - 20
	var said plumbing.Hash
	if _, err := f.ReadAt(said[:], end); err != nil {
		return storageError(err)
	}
	if err := checkTrailer(f, said); err != nil {
		return err
	}
	var count [4]byte
	if _, err := f.ReadAt(count[:], 8); err != nil {
		return storageError(err)
	}
	binary.BigEndian.PutUint32(count[:], binary.BigEndian.Uint32(count[:])+uint32(len(borrowed)))
	if _, err := f.WriteAt(count[:], 8); err != nil {
		return storageError(err)
	}
	if _, err := f.Seek(end, io.SeekStart); err != nil {
		return storageError(err)
	}
	w := bufio.NewWriter(f)
	if err := writeObjects(w, lockedStore{m}, borrowed); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return storageError(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return storageError(err)
	}
	sum := sha1.New() //nolint:gosec // Git's format
	if _, err := io.Copy(sum, f); err != nil {
		return storageError(err)
	}
	if _, err := f.Write(sum.Sum(nil)); err != nil {
		return storageError(err)
	}
	return nil
}

func (l Limits) checkSize(n int64) error {
	if n < 0 || n > l.Object {
		return &Error{Class: ErrTooLarge, Text: fmt.Sprintf("the repository holds a file of more than %d MiB", l.Object>>20), Next: "take it out of the repository"}
	}
	return nil
}

// deltaHead counts what is inflated into it, refuses more than max, and keeps the beginning, where a delta
// says how long its base and its result are (gitformat-pack(5)).
type deltaHead struct {
	n, max int64
	head   []byte
}

func (d *deltaHead) Write(p []byte) (int, error) {
	if room := 20 - len(d.head); room > 0 {
		d.head = append(d.head, p[:min(room, len(p))]...)
	}
	if d.n += int64(len(p)); d.n > d.max {
		return 0, errors.New("object is longer than it declares")
	}
	return len(p), nil
}

func (d *deltaHead) target() (int64, error) {
	r := bytes.NewReader(d.head)
	if _, err := binary.ReadUvarint(r); err != nil {
		return 0, errors.New("delta without a length")
	}
	size, err := binary.ReadUvarint(r)
	if err != nil || size > 1<<40 {
		return 0, errors.New("delta without a sensible length")
	}
	return int64(size), nil
}

// indexPack computes the index and the pack's checksum. It returns no index for a pack without objects.
func indexPack(f *os.File) ([]byte, plumbing.Hash, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, plumbing.ZeroHash, err
	}
	writer := new(idxfile.Writer)
	parser, err := packfile.NewParser(packfile.NewScanner(f), writer)
	if err != nil {
		return nil, plumbing.ZeroHash, err
	}
	sum, err := parser.Parse()
	if err != nil {
		return nil, plumbing.ZeroHash, err
	}
	if err := checkTrailer(f, sum); err != nil {
		return nil, plumbing.ZeroHash, err
	}
	index, err := writer.Index()
	if err != nil {
		return nil, plumbing.ZeroHash, err
	}
	if n, err := index.Count(); err != nil || n == 0 {
		return nil, sum, err
	}
	var out bytes.Buffer
	if _, err := idxfile.NewEncoder(&out).Encode(index); err != nil {
		return nil, plumbing.ZeroHash, err
	}
	return out.Bytes(), sum, nil
}

// checkTrailer compares the pack's last 20 bytes with the hash of the rest. The parser does not.
func checkTrailer(f *os.File, said plumbing.Hash) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h := sha1.New() //nolint:gosec // Git's format
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, info.Size()-20)); err != nil {
		return err
	}
	if !bytes.Equal(h.Sum(nil), said[:]) {
		return errors.New("checksum does not fit")
	}
	return nil
}

type objectReader interface {
	EncodedObject(plumbing.ObjectType, plumbing.Hash) (plumbing.EncodedObject, error)
}

// writePack writes the objects as a pack without deltas (gitformat-pack(5)). It holds one object at a time.
func writePack(to io.Writer, from objectReader, objects []plumbing.Hash) error {
	sum := sha1.New() //nolint:gosec // Git's format
	w := bufio.NewWriter(io.MultiWriter(to, sum))
	header := binary.BigEndian.AppendUint32([]byte("PACK"), 2)
	if _, err := w.Write(binary.BigEndian.AppendUint32(header, uint32(len(objects)))); err != nil {
		return err
	}
	if err := writeObjects(w, from, objects); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := to.Write(sum.Sum(nil))
	return err
}

func writeObjects(w *bufio.Writer, from objectReader, objects []plumbing.Hash) error {
	deflate, err := zlib.NewWriterLevel(nil, zlib.BestSpeed)
	if err != nil {
		return err
	}
	for _, h := range objects {
		o, err := from.EncodedObject(plumbing.AnyObject, h)
		if err != nil {
			return missing("object "+h.String(), err)
		}
		if err := writeObject(w, deflate, o); err != nil {
			return fmt.Errorf("pack object %s: %w", h, err)
		}
	}
	return nil
}

func writeObject(w *bufio.Writer, deflate *zlib.Writer, o plumbing.EncodedObject) error {
	size := uint64(o.Size())
	first := byte(o.Type())<<4 | byte(size&15)
	for size >>= 4; size > 0; size >>= 7 {
		if err := w.WriteByte(first | 0x80); err != nil {
			return err
		}
		first = byte(size & 0x7f)
	}
	if err := w.WriteByte(first); err != nil {
		return err
	}
	r, err := o.Reader()
	if err != nil {
		return err
	}
	defer r.Close()
	deflate.Reset(w)
	if _, err := io.Copy(deflate, r); err != nil {
		return err
	}
	return deflate.Close()
}
