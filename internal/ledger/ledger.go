package ledger

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
)

// Options of a ledger; what is zero has a default.
type Options struct {
	SegmentBytes int64 // a segment that has grown to this is followed by the next; 8 MiB, in a cluster 64 KiB
	KeepBytes    int64 // the oldest go when those before the current one hold more than this; 128 MiB, some 200,000 entries; in a cluster 8 MiB

	disk      disk
	lineBytes int // of an entry; 0: as much as a line may have
}

// Ledger is an open ledger. It is safe for concurrent use.
type Ledger struct {
	Options
	store   store
	key     ed25519.PrivateKey
	hashKey []byte

	mu    sync.Mutex
	queue []*pending          // what the next write takes
	byID  map[string]*pending // the same by ID
	head  Head                // the last line that is on the disk

	writing  sync.Mutex // held by the one who writes; it guards what follows
	segments []segment  // oldest first; the last one is written to
	damaged  bool       // it may hold bytes beyond its size, of a write that failed
	closed   bool
	ids      map[idHash]place
}

// idHash stands for an ID in memory.
type idHash [16]byte

func hashID(id string) idHash {
	sum := sha256.Sum256([]byte(id))
	return idHash(sum[:16])
}

// place is where a line is.
type place struct {
	segment uint64 // its first entry
	offset  int64
}

// pending is an entry on its way. Its result may be read by who holds writing, once done is set.
type pending struct {
	entry Entry
	err   error
	done  bool
	at    place
	fresh bool // it is in the write that is under way
}

// Head is the last line that is on the disk: worth keeping elsewhere.
func (l *Ledger) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// PublicKey is what verifies this ledger.
func (l *Ledger) PublicKey() ed25519.PublicKey { return l.key.Public().(ed25519.PublicKey) }

// Append puts an entry at the end of the chain and returns it when it is on the disk. If an entry of this ID is there, it returns that
// one and writes nothing. After an error the entry is not in the ledger, and appending may be tried again.
//
// Entries that are appended at the same time share one write and one sync.
func (l *Ledger) Append(e Entry) (Entry, error) {
	if err := e.check(); err != nil {
		return Entry{}, err
	}
	e.Seq, e.Checkpoint = 0, nil
	p := l.enqueue(e)
	l.writing.Lock() // whoever gets here first writes for all who wait
	defer l.writing.Unlock()
	if !p.done {
		l.flush()
	}
	if p.err != nil {
		return Entry{}, p.err
	}
	return p.entry, nil
}

func (l *Ledger) enqueue(e Entry) *pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, ok := l.byID[e.ID]; ok {
		return p
	}
	p := &pending{entry: e}
	l.queue, l.byID[e.ID] = append(l.queue, p), p
	return p
}

func (l *Ledger) take() []*pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	batch := l.queue
	l.queue, l.byID = nil, map[string]*pending{}
	return batch
}

// flush writes everything that is queued. The caller holds writing.
func (l *Ledger) flush() {
	batch := l.take()
	err := l.ready()
	head := l.Head()
	if err == nil {
		err = l.write(l.lines(batch, &head))
	}
	for _, p := range batch {
		p.done = true
		switch {
		case !p.fresh && p.err == nil && p.entry.Seq != 0: // was there already
		case err != nil && p.err == nil:
			p.err = err
		case p.fresh:
			l.ids[hashID(p.entry.ID)] = p.at
			l.segments[len(l.segments)-1].entries++
		}
	}
	if err == nil {
		l.setHead(head)
	}
}

func (l *Ledger) setHead(h Head) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head = h
}

// lines seals what is not in the ledger yet behind head, and moves head on.
func (l *Ledger) lines(batch []*pending, head *Head) []byte {
	var out []byte
	s := l.segments[len(l.segments)-1]
	for _, p := range batch {
		if at, ok := l.ids[hashID(p.entry.ID)]; ok {
			p.entry, p.err = readAt(l.store, at)
			continue
		}
		if p.entry, p.err = seal(l.fit(p.entry), *head, l.key); p.err != nil {
			continue
		}
		p.fresh, p.at = true, place{s.first, s.size + int64(len(out))}
		out = append(append(out, p.entry.line...), '\n')
		*head = p.entry.head()
	}
	return out
}

// ready brings the ledger into a state in which it can be written to: nothing left of a write that failed, and a segment with room.
func (l *Ledger) ready() error {
	if l.closed {
		return errors.New("append to ledger: it is closed")
	}
	if err := l.repair(); err != nil {
		return err
	}
	if len(l.segments) > 0 && l.segments[len(l.segments)-1].size < l.SegmentBytes {
		return nil
	}
	return l.rotate()
}

// write puts lines behind the current segment and syncs them; or it leaves the segment as it was.
func (l *Ledger) write(lines []byte) error {
	if len(lines) == 0 {
		return nil
	}
	s := &l.segments[len(l.segments)-1]
	if err := l.store.append(s.size, lines); err != nil {
		l.damaged = true
		return errors.Join(fmt.Errorf("append to ledger: %w; the entry is not in it, and appending can be tried again", err), l.repair())
	}
	s.size += int64(len(lines))
	return nil
}

// repair takes away what a failed write has left.
func (l *Ledger) repair() error {
	if !l.damaged {
		return nil
	}
	if err := l.store.mend(l.segments[len(l.segments)-1].size); err != nil {
		return fmt.Errorf("take back a failed write to the ledger: %w", err)
	}
	l.damaged = false
	return nil
}

// Close ends the ledger after the append that is under way. Everything is on the disk already.
func (l *Ledger) Close() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	return errors.Join(l.repair(), l.store.close())
}
