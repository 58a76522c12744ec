package ledger

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/internal/durable"
)

// segment is one file of a ledger. Its first line is a checkpoint.
type segment struct {
	first   uint64
	size    int64 // of what is on the disk for certain
	entries int
}

const segmentSuffix = ".jsonl"

func segmentName(first uint64) string { return fmt.Sprintf("%020d%s", first, segmentSuffix) }

// segmentFirst is the number in a segment's name; ok is false for any other file.
func segmentFirst(name string) (first uint64, ok bool) {
	first, err := strconv.ParseUint(strings.TrimSuffix(name, segmentSuffix), 10, 64)
	return first, err == nil && segmentName(first) == name
}

// segmentNames are the segments of a folder, oldest first.
func segmentNames(dir string) ([]string, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files { // by name, and names have one length
		if _, ok := segmentFirst(f.Name()); ok {
			names = append(names, f.Name())
		}
	}
	return names, nil
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

// rotate begins the next segment with a checkpoint of the current one, and then drops the segments that are too old. Nothing is appended
// to the old segment once this was tried: a new file that a failure left behind would stand in the way of its lines.
func (l *Ledger) rotate() error {
	s := Segment{KeptFrom: 1}
	head := Head{Hash: noHash}
	if n := len(l.segments); n > 0 {
		head = l.Head()
		s = Segment{First: l.segments[n-1].first, Last: head.Seq, Entries: l.segments[n-1].entries, KeptFrom: l.keptFrom()}
	}
	e, err := seal(newCheckpoint(s, time.Now()), head, l.key)
	if err != nil {
		return err
	}
	line := append(e.line, '\n')
	f, err := l.create(segmentName(e.Seq), line)
	if err != nil {
		return fmt.Errorf("begin next file of the ledger: %w; nothing was appended, and it can be tried again", err)
	}
	if l.current != nil {
		_ = l.current.Close() // synced long ago
	}
	l.current = f
	l.segments = append(l.segments, segment{first: e.Seq, size: int64(len(line))})
	l.setHead(e.head())
	l.drop(s.KeptFrom)
	return nil
}

// create makes a file with a first line, durably. What has its name already is a rest of an earlier try, and nothing in it counts.
func (l *Ledger) create(name string, line []byte) (file, error) {
	path := filepath.Join(l.dir, name)
	f, err := l.disk.Open(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteAt(line, 0)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = l.disk.SyncDir(l.dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), l.disk.Remove(path))
	}
	return f, nil
}

// keptFrom is the first entry of the oldest segment that retention keeps. The newest full one is kept whatever its size.
func (l *Ledger) keptFrom() uint64 {
	n := len(l.segments) - 1
	total := l.segments[n].size
	for ; n > 0 && total+l.segments[n-1].size <= l.KeepBytes; n-- {
		total += l.segments[n-1].size
	}
	return l.segments[n].first
}

// drop removes the segments before an entry, oldest first, after a checkpoint on the disk has said so. What cannot be removed now is
// tried again with the next checkpoint.
func (l *Ledger) drop(before uint64) {
	dropped := map[uint64]bool{}
	for len(l.segments) > 1 && l.segments[0].first < before {
		err := l.disk.Remove(filepath.Join(l.dir, segmentName(l.segments[0].first)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			break
		}
		dropped[l.segments[0].first] = true
		l.segments = l.segments[1:]
	}
	for id, at := range l.ids {
		if dropped[at.segment] {
			delete(l.ids, id)
		}
	}
}

// readAt reads the line at a place.
func readAt(dir string, at place) (Entry, error) {
	path := filepath.Join(dir, segmentName(at.segment))
	f, err := os.Open(path)
	if err != nil {
		return Entry{}, fmt.Errorf("read ledger: %w", err)
	}
	defer f.Close()
	line, err := readLine(bufio.NewReader(io.NewSectionReader(f, at.offset, maxLine)))
	if err != nil {
		return Entry{}, fmt.Errorf("read ledger: %s at byte %d: %w", path, at.offset, err)
	}
	e, err := parseLine(line)
	if err != nil {
		return Entry{}, fmt.Errorf("read ledger: %s at byte %d: %w", path, at.offset, err)
	}
	return e, nil
}
