package ledger

import (
	"bufio"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
)

// Fault is a place of a ledger that is not as it was written.
type Fault struct {
	File string
	Line int // 1 for the first; 0 for the file, or the ledger, as a whole
	What string
}

func (f *Fault) Error() string {
	if f.Line == 0 {
		return fmt.Sprintf("%s: %s", f.File, f.What)
	}
	return fmt.Sprintf("%s line %d: %s", f.File, f.Line, f.What)
}

// Summary is what a verification has shown.
type Summary struct {
	First   uint64 // the first line that is there
	Head    Head   // the last one: nothing is proven of what may have followed it
	Entries int    // without checkpoints
	Torn    bool   // an unfinished line follows: a write under way, or one that a crash ended
}

// Verify looks at every line of a ledger: a folder, one of its files, or an export. It needs no more than the public key. The error is a
// *Fault for the first line that was changed, taken away, added or moved.
//
// Lines that were cut off the end leave a shorter ledger that is whole; only a head that was kept elsewhere shows them. The zero Head
// asks for none. In a folder the first line has to be there too, as far as retention has not dropped it; a single file may begin anywhere.
func Verify(path string, key ed25519.PublicKey, head Head) (Summary, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Summary{}, fmt.Errorf("verify ledger: %w", err)
	}
	files, err := openFiles(path)
	if err != nil {
		return Summary{}, err
	}
	defer closeAll(files)
	v := newVerifier(key, head)
	for i, f := range files {
		if err := v.read(f.Name(), f, i == len(files)-1); err != nil {
			return v.sum, err
		}
	}
	if info.IsDir() && v.sum.First > v.chain.cut {
		return v.sum, &Fault{path, 0, fmt.Sprintf("it begins with entry %d, and %s missing: no checkpoint says that they were dropped", v.sum.First, span(v.chain.cut, v.sum.First-1))}
	}
	return v.sum, v.checkHead(path)
}

// VerifyStream is Verify for lines from anywhere; name stands in errors.
func VerifyStream(name string, r io.Reader, key ed25519.PublicKey, head Head) (Summary, error) {
	v := newVerifier(key, head)
	if err := v.read(name, r, true); err != nil {
		return v.sum, err
	}
	return v.sum, v.checkHead(name)
}

type verifier struct {
	chain chain
	want  Head
	met   bool // the wanted head was there
	sum   Summary
}

func newVerifier(key ed25519.PublicKey, head Head) *verifier {
	return &verifier{chain: chain{key: key, every: true}, want: head}
}

func (v *verifier) read(name string, r io.Reader, last bool) error {
	lines := bufio.NewReaderSize(r, 1<<16)
	for n := 1; ; n++ {
		line, err := readLine(lines)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, errTorn) && last:
			v.sum.Torn = true
			return nil
		case err != nil:
			return &Fault{name, n, err.Error()}
		}
		e, err := v.chain.follow(line)
		if err != nil {
			return &Fault{name, n, err.Error()}
		}
		if v.sum.First == 0 {
			v.sum.First = e.Seq
		}
		v.sum.Head, v.sum.Entries = v.chain.head, v.chain.found
		if v.want.Seq == e.Seq && v.want.Hash != e.Hash {
			return &Fault{name, n, fmt.Sprintf("entry %d is not the one of the given head: the ledger was written anew", e.Seq)}
		}
		v.met = v.met || v.want.Hash == e.Hash && (v.want.Seq == 0 || v.want.Seq == e.Seq)
	}
}

func (v *verifier) checkHead(name string) error {
	first, last := v.sum.First, v.sum.Head.Seq
	switch {
	case last == 0:
		return &Fault{name, 0, "there is no whole line in it"}
	case v.want == Head{} || v.met:
		return nil
	case v.want.Seq > last:
		return &Fault{name, 0, fmt.Sprintf("it ends with entry %d, and the given head is entry %d: %s missing", last, v.want.Seq, span(last+1, v.want.Seq))}
	case v.want.Seq != 0 && v.want.Seq < first:
		return &Fault{name, 0, fmt.Sprintf("it begins with entry %d, and the given head is entry %d: that part is not here", first, v.want.Seq)}
	}
	return &Fault{name, 0, "no entry has the hash of the given head: it was cut off, or the ledger was written anew"}
}

// openFiles opens the segments of a folder, or a file. Segments that a running ledger drops meanwhile stay readable once they are open.
func openFiles(path string) ([]*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	if !info.IsDir() {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read ledger: %w", err)
		}
		return []*os.File{f}, nil
	}
	const tries = 5
	for try := 1; ; try++ {
		files, err := openSegments(path)
		if err == nil {
			return files, nil
		}
		if try == tries || !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read ledger: %w", err)
		}
	}
}

func openSegments(dir string) ([]*os.File, error) {
	names, err := segmentNames(dir)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, name := range names {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			closeAll(files)
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// Read returns the lines of a ledger, oldest first, checkpoints among them: of a folder, one of its files, or an export. It works beside a
// running gitopsd and leaves an unfinished last line out. It compares hashes, no more; after an error nothing follows.
func Read(path string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		files, err := openFiles(path)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		defer closeAll(files)
		for _, f := range files {
			if !readFile(f, yield) {
				return
			}
		}
	}
}

// readFile says whether to go on.
func readFile(f *os.File, yield func(Entry, error) bool) bool {
	r := bufio.NewReaderSize(f, 1<<16)
	for n := 1; ; n++ {
		line, err := readLine(r)
		if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
			return true
		}
		var e Entry
		if err == nil {
			e, err = parseLine(line)
		}
		if err != nil {
			yield(Entry{}, &Fault{f.Name(), n, err.Error()})
			return false
		}
		if !yield(e, nil) {
			return false
		}
	}
}
