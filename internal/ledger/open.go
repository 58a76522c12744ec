package ledger

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// Open opens the ledger of a folder for appending; it makes the folder, the keys and the first checkpoint where there are none.
//
// It takes over after a crash: a last line without a newline was never acknowledged and is cut off. Any other damage is an error that
// names the place, and nothing is changed. All hashes are compared, and the signatures of checkpoints; Verify looks at every signature.
func Open(dir string, o Options) (*Ledger, error) {
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = 8 << 20
	}
	if o.KeepBytes <= 0 {
		o.KeepBytes = 128 << 20
	}
	if o.disk == nil {
		o.disk = realDisk{}
	}
	f, err := openFolder(dir, o.disk)
	if err != nil {
		return nil, err
	}
	return openStore(f, o)
}

// openStore opens the ledger of a store, and closes the store when it cannot.
func openStore(s store, o Options) (*Ledger, error) {
	const tries = 5
	for try := 1; ; try++ {
		l := &Ledger{Options: o, store: s, byID: map[string]*pending{}, ids: map[idHash]place{}}
		err := l.load()
		switch {
		case err == nil:
			return l, nil
		case try < tries && errors.Is(err, errMoved):
			continue
		}
		return nil, errors.Join(err, s.close())
	}
}

// errMoved says that another process wrote to the ledger while this one took it over: it has to be read again.
var errMoved = errors.New("another process wrote to it at the same time")

func (l *Ledger) load() error {
	firsts, err := l.store.list()
	if err != nil {
		return fmt.Errorf("open ledger: %w", err)
	}
	if l.key, err = l.store.keys(len(firsts) == 0); err != nil {
		return err
	}
	if l.hashKey, err = deriveHashKey(l.key); err != nil {
		return err
	}
	c := &chain{key: l.PublicKey()}
	torn := false
	var last Entry
	for i, first := range firsts {
		if torn, err = l.loadSegment(c, first, i == len(firsts)-1, &last); err != nil {
			return fmt.Errorf("open ledger: %w; gitopsd audit verify tells what is whole. Put the file back from a backup, or move %s aside: a new ledger is begun then", err, l.store.place())
		}
	}
	if last.Seq > 0 && !last.signedBy(c.key) {
		return fmt.Errorf("open ledger: entry %d is not signed with the key in %s; restore the key that belongs to the ledger from a backup", last.Seq, l.store.place())
	}
	if l.head = c.head; len(l.segments) == 0 {
		return l.rotate()
	}
	closed, err := l.store.resume(l.segments[len(l.segments)-1].first)
	if err != nil {
		return fmt.Errorf("open ledger: %w", err)
	}
	if closed {
		return l.rotate()
	}
	l.damaged = torn
	return l.repair()
}

// loadSegment takes the lines of a file in. It says whether the last file ends in a torn line; a last file that has no whole line was
// being made when a crash came, and is removed.
func (l *Ledger) loadSegment(c *chain, first uint64, isLast bool, last *Entry) (torn bool, err error) {
	path := l.store.segmentName(first)
	f, err := l.store.open(first)
	if err != nil {
		return false, err
	}
	defer f.Close()
	s := segment{first: first}
	r := bufio.NewReaderSize(f, 1<<16)
	for n := 1; ; n++ {
		line, err := readLine(r)
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, errTorn) && isLast:
			if s.size == 0 && !isLast {
				return false, &Fault{path, n, "the file is empty"}
			}
			if s.size == 0 {
				return false, l.store.remove(first)
			}
			l.segments = append(l.segments, s)
			return errors.Is(err, errTorn), nil
		case err != nil:
			return false, &Fault{path, n, err.Error()}
		}
		e, err := c.follow(line)
		if err != nil {
			return false, &Fault{path, n, err.Error()}
		}
		if n == 1 && (e.Kind != Checkpoint || e.Seq != s.first) {
			return false, &Fault{path, n, "the file does not begin with the checkpoint that its name tells"}
		}
		if e.Kind != Checkpoint {
			l.ids[hashID(e.ID)] = place{s.first, s.size}
			s.entries++
		}
		s.size += int64(len(line)) + 1
		*last = e
	}
}
