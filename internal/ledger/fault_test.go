package ledger

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/gitopsd/gitopsd/internal/durable"
	"golang.org/x/sys/unix"
)

type countingDisk struct {
	disk
	syncs atomic.Int64
}

func (d *countingDisk) Open(path string, flag int) (file, error) {
	f, err := d.disk.Open(path, flag)
	return countingFile{f, d}, err
}

type countingFile struct {
	file
	d *countingDisk
}

func (f countingFile) Sync() error { f.d.syncs.Add(1); return f.file.Sync() }

var errBroken = errors.New("the disk is broken")

// failingDisk fails the operations from number first on, count of them. A write that fails leaves a part of its bytes.
type failingDisk struct{ first, count, n int }

func (d *failingDisk) fails() bool {
	d.n++
	return d.n >= d.first && d.n < d.first+d.count
}

func (d *failingDisk) Open(path string, flag int) (file, error) {
	if d.fails() {
		return nil, errBroken
	}
	f, err := realDisk{}.Open(path, flag)
	return &failingFile{f, d}, err
}

func (d *failingDisk) Remove(path string) error {
	if d.fails() {
		return errBroken
	}
	return os.Remove(path)
}

func (d *failingDisk) SyncDir(path string) error {
	if d.fails() {
		return errBroken
	}
	return durable.SyncDir(path)
}

type failingFile struct {
	file
	d *failingDisk
}

func (f *failingFile) WriteAt(p []byte, at int64) (int, error) {
	if f.d.fails() {
		n, _ := f.file.WriteAt(p[:len(p)*f.d.n%len(p)], at)
		return n, errBroken
	}
	return f.file.WriteAt(p, at)
}

func (f *failingFile) Sync() error {
	if f.d.fails() {
		return errBroken
	}
	return f.file.Sync()
}

func (f *failingFile) Truncate(size int64) error {
	if f.d.fails() {
		return errBroken
	}
	return f.file.Truncate(size)
}

// TestEveryOperationFails lets operation 1, 2, 3… fail, and as many after it as count says, until a run sees no failure. An append that
// failed must not be in the ledger, one that did not must be, and the ledger must go on, in the same process and after a restart.
func TestEveryOperationFails(t *testing.T) {
	for _, count := range []int{1, 3} {
		for first := 1; ; first++ {
			d := &failingDisk{first: first, count: count}
			failAndGoOn(t, d)
			if t.Failed() {
				t.Fatalf("operation %d and %d after it", first, count-1)
			}
			if d.n < first {
				break
			}
		}
	}
}

func failAndGoOn(t *testing.T, d *failingDisk) {
	o := Options{SegmentBytes: 1500, KeepBytes: 5000, disk: d}
	dir := filepath.Join(t.TempDir(), "ledger")
	var l *Ledger
	for try := 0; l == nil; try++ {
		var err error
		if l, err = Open(dir, o); err != nil && (!errors.Is(err, errBroken) || try > d.count) {
			t.Fatal(err)
		}
	}
	for n := 1; n <= 14; n++ {
		before := l.Head().Seq
		_, err := l.Append(act(n))
		for try := 0; err != nil; try++ {
			if !errors.Is(err, errBroken) || try > d.count {
				t.Fatal(err)
			}
			if h := l.Head().Seq; h > before+1 { // a checkpoint at most
				t.Fatalf("a failed append moved the head from %d to %d", before, h)
			}
			if n%2 == 0 { // a restart in the middle of it
				_ = l.Close()
				if l, err = Open(dir, Options{SegmentBytes: 1500, KeepBytes: 5000}); err != nil {
					t.Fatal(err)
				}
			}
			_, err = l.Append(act(n))
		}
	}
	got := ids(t, l, Filter{})
	for i, id := range got {
		if want := act(14 - len(got) + 1 + i).ID; id != want {
			t.Fatalf("entry %d is %s, want %s", i, id, want)
		}
	}
	if _, err := verify(t, dir, l.Head()); err != nil {
		t.Fatal(err)
	}
	head := l.Head()
	_ = l.Close()
	if l = open(t, dir, Options{}); l.Head() != head {
		t.Fatalf("head is %v after a restart, want %v", l.Head(), head)
	}
	_ = l.Close()
}

const fullDiskDir = "LEDGER_TEST_FULL_DISK"

// TestFullDisk fills a real file up to a limit of the kernel, in a process of its own.
func TestFullDisk(t *testing.T) {
	if dir := os.Getenv(fullDiskDir); dir != "" {
		fillDisk(t, dir)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestFullDisk$")
	cmd.Env = append(os.Environ(), fullDiskDir+"="+filepath.Join(t.TempDir(), "ledger"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func fillDisk(t *testing.T, dir string) {
	signal.Ignore(syscall.SIGXFSZ)
	l := open(t, dir, Options{})
	appendN(t, l, 1, 3)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	size := l.segments[0].size
	for room := uint64(0); room < 700; room += 37 {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: uint64(size) + room, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(act(4)); err == nil || !strings.Contains(err.Error(), "can be tried again") {
			t.Fatalf("room of %d bytes: %v", room, err)
		}
		if info, err := os.Stat(filepath.Join(dir, segmentName(1))); err != nil || info.Size() != size {
			t.Fatalf("room of %d bytes: the file has %d bytes, want %d", room, info.Size(), size)
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	appendN(t, l, 4, 5)
	mustVerify(t, dir, l.Head(), 5)
}
