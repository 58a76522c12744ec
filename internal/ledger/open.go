package ledger

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
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
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of ledger: %w", err)
	}
	if err := o.disk.SyncDir(filepath.Dir(filepath.Clean(dir))); err != nil {
		return nil, fmt.Errorf("make folder of ledger: %w", err)
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	l := &Ledger{Options: o, dir: dir, lock: lock, byID: map[string]*pending{}, ids: map[idHash]place{}}
	if err := l.load(); err != nil {
		if l.current != nil {
			_ = l.current.Close()
		}
		_ = lock.Close()
		return nil, err
	}
	return l, nil
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

func (l *Ledger) load() error {
	names, err := segmentNames(l.dir)
	if err != nil {
		return fmt.Errorf("open ledger: %w", err)
	}
	if l.key, err = loadKeys(l.dir, len(names) == 0); err != nil {
		return err
	}
	if l.hashKey, err = deriveHashKey(l.key); err != nil {
		return err
	}
	c := &chain{key: l.PublicKey()}
	torn := false
	var last Entry
	for i, name := range names {
		if torn, err = l.loadSegment(c, name, i == len(names)-1, &last); err != nil {
			return fmt.Errorf("open ledger: %w; gitopsd audit verify tells what is whole. Put the file back from a backup, or move %s aside: a new ledger is begun then", err, l.dir)
		}
	}
	if last.Seq > 0 && !last.signedBy(c.key) {
		return fmt.Errorf("open ledger: entry %d is not signed with %s; restore the key that belongs to the ledger from a backup", last.Seq, filepath.Join(l.dir, keyFile))
	}
	if l.head = c.head; len(l.segments) == 0 {
		return l.rotate()
	}
	s := l.segments[len(l.segments)-1]
	if l.current, err = l.disk.Open(filepath.Join(l.dir, segmentName(s.first)), os.O_WRONLY); err != nil {
		return fmt.Errorf("open ledger: %w", err)
	}
	l.damaged = torn
	return l.repair()
}

// loadSegment takes the lines of a file in. It says whether the last file ends in a torn line; a last file that has no whole line was
// being made when a crash came, and is removed.
func (l *Ledger) loadSegment(c *chain, name string, isLast bool, last *Entry) (torn bool, err error) {
	path := filepath.Join(l.dir, name)
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	s := segment{}
	s.first, _ = segmentFirst(name)
	r := bufio.NewReaderSize(f, 1<<16)
	for n := 1; ; n++ {
		line, err := readLine(r)
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, errTorn) && isLast:
			if s.size == 0 && !isLast {
				return false, &Fault{path, n, "the file is empty"}
			}
			if s.size == 0 {
				return false, l.disk.Remove(path)
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
