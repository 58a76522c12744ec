package ledger

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
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
	if err := l.store.begin(e.Seq, line); err != nil {
		return fmt.Errorf("begin next file of the ledger: %w; nothing was appended, and it can be tried again", err)
	}
	l.segments = append(l.segments, segment{first: e.Seq, size: int64(len(line))})
	l.setHead(e.head())
	l.drop(s.KeptFrom)
	return nil
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
		if err := l.store.remove(l.segments[0].first); err != nil {
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
func readAt(from store, at place) (Entry, error) {
	f, err := from.open(at.segment)
	if err != nil {
		return Entry{}, fmt.Errorf("read ledger: %w", err)
	}
	defer f.Close()
	fault := func(err error) error {
		return fmt.Errorf("read ledger: %s at byte %d: %w", from.segmentName(at.segment), at.offset, err)
	}
	if _, err := io.CopyN(io.Discard, f, at.offset); err != nil {
		return Entry{}, fault(err)
	}
	line, err := readLine(bufio.NewReader(f))
	if err != nil {
		return Entry{}, fault(err)
	}
	e, err := parseLine(line)
	if err != nil {
		return Entry{}, fault(err)
	}
	return e, nil
}
