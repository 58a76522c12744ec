package ledger

import (
	"crypto/ed25519"
	"io"
)

// store is where segments are kept: a folder, or Secrets of a cluster. One segment at a time is written to: the one that was begun or
// resumed last. After an error of append it is in doubt what the segment holds, until mend has said what counts.
type store interface {
	keys(empty bool) (ed25519.PrivateKey, error)  // makes them where there is neither key nor ledger yet
	list() ([]uint64, error)                      // the first entries of the segments, oldest first
	open(first uint64) (io.ReadCloser, error)     // for reading
	begin(first uint64, line []byte) error        // makes a segment of one line, behind the one that is written to
	resume(first uint64) (closed bool, err error) // takes a segment over; a closed one is complete, and another has to be begun
	append(at int64, lines []byte) error          // puts lines at a place of the segment; durable when it returns
	mend(size int64) error                        // takes away what a write that failed has left behind size
	remove(first uint64) error                    // no error when there is none
	segmentName(first uint64) string              // for people
	place() string                                // of all of it, for people
	close() error
}
