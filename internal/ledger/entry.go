// Package ledger is the record of what the engine did: who, what, from which commit to which, and how it ended.
//
// In go entries; out comes a chain of signed lines on the disk. Append returns when an entry is on the disk, and appending the same ID
// twice appends it once, so a caller that crashed just does it again. Verify needs the public key alone, no Ledger and no running
// gitopsd. The package knows nothing of clusters, decides nothing, and takes no secret out of what it is given: texts come redacted, and
// hashes of contents that may hold Secrets come from Keyed. docs/spec/ledger.md is the format, docs/design/ledger.md says why.
//
// A caller writes
//
//	l, err := ledger.Open(filepath.Join(dataDir, "ledger"), ledger.Options{})
//	…
//	_, err = l.Append(ledger.Entry{Time: now, ID: intent + "/" + outcome, Kind: ledger.Sync, App: "prod/web", …})
//
// after the write that decides (the intent's root), and again after a restart for every intent whose entry may be missing.
package ledger

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind is what an entry tells of.
type Kind string

const (
	Sync       Kind = "Sync"       // a revision was applied, or it was tried
	Rollback   Kind = "Rollback"   // an older revision was brought back, by the engine or by a person
	Drift      Kind = "Drift"      // others changed what is declared; healed or not
	Prune      Kind = "Prune"      // objects that left the repository were deleted
	Refusal    Kind = "Refusal"    // the engine declined to do something
	Manual     Kind = "Manual"     // a person asked for something: suspend, resume, retry, allow a prune
	Checkpoint Kind = "Checkpoint" // the ledger's own: begins a segment and sums up the one before
)

var kinds = []Kind{Sync, Rollback, Drift, Prune, Refusal, Manual}

// Entry is one line of the ledger. The caller fills Time to Message; the rest is the ledger's.
type Entry struct {
	Seq  uint64 `json:"seq"`  // 1 for the first line; rises by one each line, checkpoints counted
	Prev string `json:"prev"` // Hash of the line before, zeros for the first

	Time    time.Time      `json:"time"`
	Kind    Kind           `json:"kind"`
	ID      string         `json:"id,omitempty"`      // an ID is in the ledger once: intent and outcome, say
	App     string         `json:"app,omitempty"`     // namespace/name
	Actor   string         `json:"actor,omitempty"`   // the engine, or the person who asked
	From    string         `json:"from,omitempty"`    // commit
	To      string         `json:"to,omitempty"`      // commit
	Digest  string         `json:"digest,omitempty"`  // of the rendered revision; see Ledger.Keyed
	Objects []ObjectChange `json:"objects,omitempty"` // in the order in which it happened
	Outcome string         `json:"outcome,omitempty"`
	Reason  string         `json:"reason,omitempty"` // one word
	Message string         `json:"message,omitempty"`

	Checkpoint *Segment `json:"checkpoint,omitempty"` // for Kind Checkpoint alone

	Hash      string `json:"-"` // SHA-256 of the entry's bytes, in hex
	Signature string `json:"-"` // Ed25519 of the entry's bytes, in hex

	line []byte
}

// ObjectChange is one object and what was done to it.
type ObjectChange struct {
	Object string `json:"object"` // "apps/Deployment web/web"
	Action string `json:"action"` // "created", "changed", "deleted"…
}

// Segment is what a checkpoint says of the segment before it (zeros in the very first) and of the ledger. Prev of the checkpoint is the
// hash of that segment's last line.
type Segment struct {
	Format   int    `json:"format"`
	First    uint64 `json:"first"`
	Last     uint64 `json:"last"`
	Entries  int    `json:"entries"`  // without checkpoints
	KeptFrom uint64 `json:"keptFrom"` // what lies before this line may have been dropped, nothing after
}

// Line is the entry as it stands in the ledger, without the newline.
func (e Entry) Line() []byte { return e.line }

func (e Entry) head() Head { return Head{e.Seq, e.Hash} }

func (e Entry) check() error {
	switch {
	case e.ID == "":
		return errors.New("append to ledger: the entry has no ID")
	case e.Time.IsZero():
		return fmt.Errorf("append %s to ledger: the entry has no time", e.ID)
	case !slices.Contains(kinds, e.Kind):
		return fmt.Errorf("append %s to ledger: there is no kind %q", e.ID, e.Kind)
	}
	return nil
}

// Filter chooses entries; a zero field chooses all. Checkpoints are never chosen.
type Filter struct {
	App   string // namespace/name, or the name alone
	Since time.Time
}

// Match says whether an entry is chosen.
func (f Filter) Match(e Entry) bool {
	return e.Kind != Checkpoint && (f.App == "" || e.App == f.App || strings.HasSuffix(e.App, "/"+f.App)) && !e.Time.Before(f.Since)
}

// Head is the end of a chain. Kept elsewhere, it shows later that nothing up to it was taken away or written anew.
type Head struct {
	Seq  uint64 // 0: unknown
	Hash string
}

// String is "12:9f86d0…", the form that ParseHead reads.
func (h Head) String() string {
	if h.Seq == 0 {
		return h.Hash
	}
	return fmt.Sprintf("%d:%s", h.Seq, h.Hash)
}

// ParseHead reads a head: number and hash, or the hash alone.
func ParseHead(s string) (Head, error) {
	h := Head{Hash: s}
	if seq, hash, ok := strings.Cut(s, ":"); ok {
		n, err := strconv.ParseUint(seq, 10, 64)
		if err != nil || n == 0 {
			return Head{}, fmt.Errorf("head %q: %q is no number of an entry", s, seq)
		}
		h = Head{n, hash}
	}
	if !isHex(h.Hash, hashDigits) {
		return Head{}, fmt.Errorf("head %q: it is NUMBER:HASH or HASH, and a hash has %d digits of 0-9 and a-f", s, hashDigits)
	}
	return h, nil
}
