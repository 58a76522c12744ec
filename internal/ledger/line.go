package ledger

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// A line is
//
//	{"entry":ENTRY,"hash":"64 digits","signature":"128 digits"}
//
// Hash and signature are of ENTRY's bytes as they stand there, so nobody has to agree on how JSON is written: everything around them has
// a fixed length and a fixed spelling.
const (
	beforeEntry     = `{"entry":`
	beforeHash      = `,"hash":"`
	beforeSignature = `","signature":"`
	afterSignature  = `"}`

	hashDigits      = 2 * sha256.Size
	signatureDigits = 2 * ed25519.SignatureSize
	afterEntry      = len(beforeHash) + hashDigits + len(beforeSignature) + signatureDigits + len(afterSignature)

	maxLine = 8 << 20 // bytes; an entry of some 80,000 objects
)

var noHash = strings.Repeat("0", hashDigits)

// seal puts an entry behind a head: it returns the entry with everything that is the ledger's filled in.
func seal(e Entry, after Head, key ed25519.PrivateKey) (Entry, error) {
	e.Seq, e.Prev, e.Time = after.Seq+1, after.Hash, e.Time.UTC().Round(0)
	body, err := json.Marshal(e)
	if err != nil {
		return Entry{}, fmt.Errorf("encode entry %s: %w", e.ID, err)
	}
	if len(body) > maxLine-len(beforeEntry)-afterEntry {
		return Entry{}, fmt.Errorf("append %s to ledger: the entry has %d bytes and %d are allowed; name fewer objects", e.ID, len(body), maxLine)
	}
	sum := sha256.Sum256(body)
	e.Hash = hex.EncodeToString(sum[:])
	e.Signature = hex.EncodeToString(ed25519.Sign(key, body))
	e.line = joinLine(body, e.Hash, e.Signature)
	return e, nil
}

func joinLine(body []byte, hash, signature string) []byte {
	line := make([]byte, 0, len(beforeEntry)+len(body)+afterEntry)
	line = append(append(line, beforeEntry...), body...)
	line = append(append(line, beforeHash...), hash...)
	line = append(append(line, beforeSignature...), signature...)
	return append(line, afterSignature...)
}

// parseLine takes a line apart, without its newline, and compares its hash. It does not look at the signature.
func parseLine(line []byte) (Entry, error) {
	body := bodyOf(line)
	if body == nil {
		return Entry{}, errors.New("it is no line of a ledger")
	}
	tail := line[len(beforeEntry)+len(body)+len(beforeHash):]
	e := Entry{
		Hash:      string(tail[:hashDigits]),
		Signature: string(tail[hashDigits+len(beforeSignature):][:signatureDigits]),
		line:      line,
	}
	if !isHex(e.Hash, hashDigits) || !isHex(e.Signature, signatureDigits) || !bytes.Equal(joinLine(body, e.Hash, e.Signature), line) {
		return Entry{}, errors.New("it is no line of a ledger")
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != e.Hash {
		return Entry{}, errors.New("its content does not match its hash; it was changed")
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return Entry{}, fmt.Errorf("its content cannot be read: %w", err)
	}
	return e, nil
}

// bodyOf returns the bytes that hash and signature are of, nil if the line is too short.
func bodyOf(line []byte) []byte {
	if len(line) < len(beforeEntry)+afterEntry {
		return nil
	}
	return line[len(beforeEntry) : len(line)-afterEntry]
}

func (e Entry) signedBy(key ed25519.PublicKey) bool {
	signature, err := hex.DecodeString(e.Signature)
	return err == nil && ed25519.Verify(key, bodyOf(e.line), signature)
}

func isHex(s string, digits int) bool {
	return len(s) == digits && strings.Trim(s, "0123456789abcdef") == ""
}

// errTorn says that what is left has no newline: a write that is not finished, or was not.
var errTorn = errors.New("the last line is not finished")

// readLine returns the next line without its newline, io.EOF at the end, or errTorn.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case len(line) > maxLine:
			return nil, fmt.Errorf("the line is longer than %d bytes", maxLine)
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) > 0:
			return line, errTorn
		default:
			return nil, err
		}
	}
}

// chain follows lines and says whether each continues those before it.
type chain struct {
	key   ed25519.PublicKey
	every bool // look at every signature; at those of checkpoints otherwise
	head  Head // the last line; Seq 0 before the first
	cut   uint64
	found int // entries, without checkpoints
}

// follow takes the next line in.
func (c *chain) follow(line []byte) (Entry, error) {
	e, err := parseLine(line)
	if err != nil {
		return e, err
	}
	if (c.every || e.Kind == Checkpoint) && !e.signedBy(c.key) {
		return e, fmt.Errorf("entry %d is not signed with this key; it was changed, or the public key is another ledger's", e.Seq)
	}
	if err := c.inOrder(e); err != nil {
		return e, err
	}
	if e.Kind == Checkpoint {
		if e.Checkpoint == nil || e.Checkpoint.Format != format {
			return e, fmt.Errorf("entry %d is of a format that this gitopsd does not know; use a newer one", e.Seq)
		}
		c.cut = e.Checkpoint.KeptFrom
	} else {
		c.found++
	}
	c.head = e.head()
	return e, nil
}

func (c *chain) inOrder(e Entry) error {
	switch {
	case c.head.Seq == 0 && e.Kind != Checkpoint:
		return fmt.Errorf("entry %d comes first, and only a checkpoint can: lines before it are missing, or this is a selection", e.Seq)
	case c.head.Seq == 0 && e.Seq == 1 && e.Prev != noHash:
		return errors.New("entry 1 names an entry before it")
	case c.head.Seq == 0:
		return nil
	case e.Seq > c.head.Seq+1:
		return fmt.Errorf("entry %d follows entry %d: %s missing, or in another place", e.Seq, c.head.Seq, span(c.head.Seq+1, e.Seq-1))
	case e.Seq != c.head.Seq+1:
		return fmt.Errorf("entry %d follows entry %d: it stands in the wrong place", e.Seq, c.head.Seq)
	case e.Prev != c.head.Hash:
		return fmt.Errorf("entry %d does not continue entry %d: one of them was written anew", e.Seq, c.head.Seq)
	}
	return nil
}

func span(first, last uint64) string {
	if first == last {
		return fmt.Sprintf("entry %d is", first)
	}
	return fmt.Sprintf("entries %d to %d are", first, last)
}

// format is the number of the format that checkpoints name.
const format = 1

// newCheckpoint is the first entry of a segment.
func newCheckpoint(s Segment, now time.Time) Entry {
	s.Format = format
	return Entry{Time: now, Kind: Checkpoint, Checkpoint: &s}
}
