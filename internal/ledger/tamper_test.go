package ledger

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// tampered is a ledger as lines, each with its newline, for each file.
type tampered struct {
	names []string
	files [][]byte
}

func readTampered(t *testing.T, dir string) tampered {
	t.Helper()
	var out tampered
	var err error
	if out.names, err = segmentNames(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range out.names {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		out.files = append(out.files, text)
	}
	return out
}

func (x tampered) lines(file int) [][]byte { return bytes.SplitAfter(x.files[file], []byte("\n")) }

// with puts other bytes in place of a file for as long as check runs.
func (x tampered) with(t *testing.T, dir string, file int, text []byte, check func()) {
	t.Helper()
	path := filepath.Join(dir, x.names[file])
	for _, content := range [][]byte{text, x.files[file]} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		check()
		check = func() {}
	}
}

// found fails unless the damage is found; the zero head asks for a finding without one.
func found(t *testing.T, dir string, head Head, what string, args ...any) {
	t.Helper()
	_, err := verify(t, dir, head)
	var f *Fault
	if !errors.As(err, &f) {
		t.Errorf(what+": not found: %v", append(args, err)...)
	}
}

func TestTampering(t *testing.T) {
	dir, head := made(t, 12, Options{SegmentBytes: 2500})
	x := readTampered(t, dir)
	if len(x.names) < 3 {
		t.Fatal("too few files")
	}
	last := len(x.files) - 1
	t.Run("change any byte", func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		for range 600 {
			i := random.IntN(len(x.files))
			at := random.IntN(len(x.files[i]))
			if i == last && at == len(x.files[i])-1 {
				continue // the last newline: the end is cut, see below
			}
			text := bytes.Clone(x.files[i])
			text[at] ^= byte(1 + random.IntN(255))
			x.with(t, dir, i, text, func() { found(t, dir, Head{}, "byte %d of file %d", at, i) })
		}
	})
	t.Run("drop, repeat or swap any line", func(t *testing.T) {
		for i := range x.files {
			lines := x.lines(i)
			lines = lines[:len(lines)-1] // what follows the last newline
			for a := range lines {
				if i != last || a != len(lines)-1 {
					x.with(t, dir, i, bytes.Join(slices.Delete(slices.Clone(lines), a, a+1), nil), func() { found(t, dir, Head{}, "line %d of file %d dropped", a, i) })
				}
				x.with(t, dir, i, bytes.Join(slices.Insert(slices.Clone(lines), a, lines[a]), nil), func() { found(t, dir, Head{}, "line %d of file %d repeated", a, i) })
				for b := range a {
					swapped := slices.Clone(lines)
					swapped[a], swapped[b] = swapped[b], swapped[a]
					x.with(t, dir, i, bytes.Join(swapped, nil), func() { found(t, dir, Head{}, "lines %d and %d of file %d swapped", a, b, i) })
				}
			}
		}
	})
	t.Run("remove or swap files", func(t *testing.T) {
		for i := range x.files {
			path := filepath.Join(dir, x.names[i])
			if err := os.Rename(path, path+".away"); err != nil {
				t.Fatal(err)
			}
			want := Head{}
			if i == last {
				want = head
			}
			found(t, dir, want, "file %d removed", i)
			if err := os.Rename(path+".away", path); err != nil {
				t.Fatal(err)
			}
		}
		x.with(t, dir, 0, x.files[1], func() { x.with(t, dir, 1, x.files[0], func() { found(t, dir, Head{}, "files swapped") }) })
	})
	t.Run("cut the end", func(t *testing.T) { cutEnd(t, dir, head, x) })
	mustVerify(t, dir, head, 12)
}

// cutEnd: without a head, a ledger that was cut is a shorter one that is whole.
func cutEnd(t *testing.T, dir string, head Head, x tampered) {
	last := len(x.files) - 1
	size := len(x.files[last])
	for n := size - 1; n >= 0; n -= 1 + n%29 {
		x.with(t, dir, last, x.files[last][:n], func() {
			found(t, dir, head, "cut to %d bytes", n)
			if sum, err := verify(t, dir, Head{}); err != nil || sum.Head.Seq >= head.Seq {
				t.Errorf("cut to %d bytes, no head: %+v, %v", n, sum, err)
			}
		})
	}
}

// TestWrittenAnew is what root of the machine can do: sign another history with the ledger's own key. Only a head from elsewhere tells.
func TestWrittenAnew(t *testing.T) {
	dir, head := made(t, 5, Options{})
	if err := os.Remove(filepath.Join(dir, segmentName(1))); err != nil {
		t.Fatal(err)
	}
	l := open(t, dir, Options{})
	appendN(t, l, 2, 6)
	mustVerify(t, dir, Head{}, 5)
	found(t, dir, head, "history written anew")
	found(t, dir, Head{Hash: head.Hash}, "history written anew, by its hash alone")
	found(t, dir, Head{Seq: 99, Hash: l.Head().Hash}, "the hash of another entry")
}

func TestForeignKey(t *testing.T) {
	dir, _ := made(t, 2, Options{})
	other, _ := made(t, 2, Options{})
	key, err := ReadPublicKey(filepath.Join(other, PublicKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(dir, key, Head{}); err == nil {
		t.Fatal("verified with another key")
	}
}

// TestOpenAfterDamage: a torn end is cut off at many lengths, and loses nothing that was whole; anything else is refused and left alone.
func TestOpenAfterDamage(t *testing.T) {
	o := Options{SegmentBytes: 2500}
	dir, head := made(t, 8, o)
	x := readTampered(t, dir)
	last := len(x.files) - 1
	for n := len(x.files[last]) - 1; n >= 0; n -= 1 + n%29 {
		x.with(t, dir, last, x.files[last][:n], func() {
			l, err := Open(dir, o)
			if err != nil {
				t.Fatalf("cut to %d bytes: %v", n, err)
			}
			appendN(t, l, 8, 9) // 8 may be there still
			if got := ids(t, l, Filter{}); got[len(got)-1] != act(9).ID {
				t.Fatalf("cut to %d bytes: %v", n, got)
			}
			if _, err := verify(t, dir, l.Head()); err != nil {
				t.Fatalf("cut to %d bytes: %v", n, err)
			}
			_ = l.Close()
			if extra, _ := segmentNames(dir); len(extra) > len(x.names) {
				for _, name := range extra[len(x.names):] {
					_ = os.Remove(filepath.Join(dir, name))
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		i := random.IntN(len(x.files))
		line := random.IntN(len(x.lines(i)) - 1)
		text := bytes.Clone(x.files[i])
		at := len(bytes.Join(x.lines(i)[:line], nil)) + len(beforeEntry) + 5
		text[at]++
		x.with(t, dir, i, text, func() {
			if l, err := Open(dir, o); err == nil {
				_ = l.Close()
				t.Fatalf("byte %d of file %d changed: opened", at, i)
			} else if f := new(Fault); !errors.As(err, &f) || f.Line != line+1 || f.File != filepath.Join(dir, x.names[i]) {
				t.Fatalf("want line %d of %s: %v", line+1, x.names[i], err)
			}
			if now, _ := os.ReadFile(filepath.Join(dir, x.names[i])); !bytes.Equal(now, text) {
				t.Fatal("a damaged file was changed")
			}
		})
	}
	mustVerify(t, dir, head, 8)
}

func FuzzVerify(f *testing.F) {
	dir, _ := made(f, 3, Options{})
	text, err := os.ReadFile(filepath.Join(dir, segmentName(1)))
	if err != nil {
		f.Fatal(err)
	}
	key, err := ReadPublicKey(filepath.Join(dir, PublicKeyFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("{}\n"))
	f.Add(joinLine([]byte(`{"seq":1}`), noHash, noHash+noHash))
	f.Fuzz(func(t *testing.T, in []byte) {
		sum, err := VerifyStream("fuzz", bytes.NewReader(in), key, Head{})
		if err == nil && !bytes.HasPrefix(text, in[:bytes.LastIndexByte(in, '\n')+1]) && !bytes.HasPrefix(in, text) {
			t.Fatalf("verified what was never signed: %+v", sum)
		}
		for line := range bytes.SplitSeq(in, []byte("\n")) {
			if e, err := parseLine(line); err == nil && !bytes.Equal(joinLine(bodyOf(line), e.Hash, e.Signature), line) {
				t.Fatalf("a line that is not what it is made of: %q", line)
			}
		}
	})
}
