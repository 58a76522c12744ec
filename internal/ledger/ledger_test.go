package ledger

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func act(n int) Entry {
	return Entry{
		Time: noon.Add(time.Duration(n) * time.Minute), ID: fmt.Sprintf("intent-%d/Applied", n), Kind: Sync, App: "prod/web", Actor: "gitopsd",
		From: strings.Repeat("a", 40), To: strings.Repeat("b", 40), Digest: "sha256:" + strings.Repeat("c", 64), Outcome: "Applied",
		Objects: []ObjectChange{{"apps/Deployment web/web", "changed"}, {"ConfigMap web/settings <&>", "created"}},
	}
}

func open(t testing.TB, dir string, o Options) *Ledger {
	t.Helper()
	l, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func appendN(t testing.TB, l *Ledger, from, to int) {
	t.Helper()
	for n := from; n <= to; n++ {
		if _, err := l.Append(act(n)); err != nil {
			t.Fatal(err)
		}
	}
}

// made is a closed ledger of n entries in small segments, and its last head.
func made(t testing.TB, n int, o Options) (dir string, head Head) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "ledger")
	l := open(t, dir, o)
	appendN(t, l, 1, n)
	head = l.Head()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, head
}

func verify(t testing.TB, dir string, head Head) (Summary, error) {
	t.Helper()
	key, err := ReadPublicKey(filepath.Join(dir, PublicKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	return Verify(dir, key, head)
}

func mustVerify(t testing.TB, dir string, head Head, entries int) Summary {
	t.Helper()
	sum, err := verify(t, dir, head)
	if err != nil {
		t.Fatal(err)
	}
	if sum.Entries != entries {
		t.Fatalf("%d entries verified, want %d", sum.Entries, entries)
	}
	return sum
}

func ids(t testing.TB, l *Ledger, f Filter) (out []string) {
	t.Helper()
	for e, err := range Read(l.store.place()) {
		if err != nil {
			t.Fatal(err)
		}
		if f.Match(e) {
			out = append(out, e.ID)
		}
	}
	return out
}

func TestEntriesSurviveAndGoOn(t *testing.T) {
	o := Options{SegmentBytes: 4000}
	dir, head := made(t, 20, o)
	l := open(t, dir, o)
	if l.Head() != head {
		t.Fatalf("head is %v, want %v", l.Head(), head)
	}
	appendN(t, l, 21, 25)
	if got := ids(t, l, Filter{}); len(got) != 25 || got[0] != act(1).ID || got[24] != act(25).ID {
		t.Fatalf("entries: %v", got)
	}
	if names, _ := segmentNames(dir); len(names) < 4 {
		t.Fatalf("segments: %v", names)
	}
	mustVerify(t, dir, head, 25)
	mustVerify(t, dir, Head{Hash: l.Head().Hash}, 25)
}

func TestSameIDTwiceIsOneEntry(t *testing.T) {
	o := Options{SegmentBytes: 3000}
	dir, _ := made(t, 10, o)
	l := open(t, dir, o)
	before := l.Head()
	again := act(3)
	again.Message = "told differently"
	got, err := l.Append(again)
	if err != nil || got.Message != "" || got.ID != again.ID || got.Seq == 0 || len(got.Objects) != 2 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if l.Head() != before {
		t.Fatal("an entry was written twice")
	}
}

func TestRetentionKeepsAChainThatVerifies(t *testing.T) {
	o := Options{SegmentBytes: 3000, KeepBytes: 8000}
	dir := filepath.Join(t.TempDir(), "ledger")
	l := open(t, dir, o)
	archive := t.TempDir()
	for n := 1; n <= 60; n++ {
		names, _ := segmentNames(dir)
		for _, name := range names { // somebody keeps a copy of every file elsewhere
			text, _ := os.ReadFile(filepath.Join(dir, name))
			if err := os.WriteFile(filepath.Join(archive, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		appendN(t, l, n, n)
	}
	sum, err := verify(t, dir, l.Head())
	if err != nil || sum.First == 1 || sum.Entries > 30 {
		t.Fatalf("%+v, %v", sum, err)
	}
	var size int64
	names, _ := segmentNames(dir)
	for _, name := range names {
		info, _ := os.Stat(filepath.Join(dir, name))
		size += info.Size()
	}
	if limit := o.KeepBytes + 2*o.SegmentBytes; size > limit {
		t.Errorf("%d bytes are kept, want at most %d", size, limit)
	}
	if _, err := l.Append(act(1)); err != nil { // its segment is gone, so it counts as new
		t.Fatal(err)
	}
	key := l.PublicKey()
	if sum, err := Verify(archive, key, Head{}); err != nil || sum.First != 1 || sum.Entries != 59 {
		t.Errorf("the archive: %+v, %v", sum, err)
	}
	dropped, _ := segmentNames(archive)
	if _, err := Verify(filepath.Join(archive, dropped[2]), key, Head{}); err != nil {
		t.Errorf("a dropped file of its own: %v", err)
	}
	names, _ = segmentNames(dir)
	if err := os.Remove(filepath.Join(dir, names[0])); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(dir, key, Head{}); err == nil || !strings.Contains(err.Error(), "no checkpoint says") {
		t.Errorf("a file that retention had kept was removed: %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	o := Options{SegmentBytes: 50000}
	counting := &countingDisk{disk: realDisk{}}
	o.disk = counting
	dir := filepath.Join(t.TempDir(), "ledger")
	l := open(t, dir, o)
	const writers, each = 50, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				e, err := l.Append(act(w*each + n))
				if err != nil || e.ID != act(w*each+n).ID {
					t.Errorf("append: %v %v", e.ID, err)
				}
				twice, err := l.Append(act((w*each + n) / 2)) // another writer's, or not there yet
				if err != nil || twice.ID != act((w*each+n)/2).ID {
					t.Errorf("append again: %v %v", twice.ID, err)
				}
				l.Head()
			}
		})
	}
	wg.Wait()
	if got := ids(t, l, Filter{}); len(got) != writers*each {
		t.Errorf("%d entries, want %d", len(got), writers*each)
	}
	mustVerify(t, dir, l.Head(), writers*each)
	if n := counting.syncs.Load(); n > writers*each/2 {
		t.Errorf("%d syncs for %d entries: they do not share them", n, writers*each)
	}
}

func TestFilter(t *testing.T) {
	dir, _ := made(t, 3, Options{})
	l := open(t, dir, Options{})
	other := act(4)
	other.App = "prod/db"
	if _, err := l.Append(other); err != nil {
		t.Fatal(err)
	}
	for want, f := range map[string]Filter{
		"intent-4/Applied": {App: "db"}, "[]": {App: "staging/db"}, "intent-3/Applied": {App: "prod/web", Since: noon.Add(3 * time.Minute)},
	} {
		if got := fmt.Sprint(ids(t, l, f)); got != "["+want+"]" && got != want {
			t.Errorf("%+v: %s, want %s", f, got, want)
		}
	}
}

func TestRefusedEntries(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "ledger"), Options{})
	before := l.Head()
	huge := act(1)
	huge.Message = strings.Repeat("x", maxLine)
	for name, e := range map[string]Entry{
		"no ID": {Time: noon, Kind: Sync}, "no time": {ID: "a", Kind: Sync}, "unknown kind": {ID: "a", Time: noon, Kind: "Party"},
		"checkpoint": {ID: "a", Time: noon, Kind: Checkpoint}, "huge": huge,
	} {
		if _, err := l.Append(e); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	if l.Head() != before {
		t.Error("something was written")
	}
	appendN(t, l, 2, 2)
}

func TestOneWriter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ledger")
	l := open(t, dir, Options{})
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Fatalf("a second writer: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(act(1)); err == nil {
		t.Fatal("a closed ledger took an entry")
	}
	open(t, dir, Options{})
}

func TestKeys(t *testing.T) {
	dir, _ := made(t, 2, Options{})
	private, public := filepath.Join(dir, keyFile), filepath.Join(dir, PublicKeyFile)
	if info, err := os.Stat(private); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode of the key: %v, %v", info.Mode(), err)
	}
	key, err := os.ReadFile(private)
	if err != nil {
		t.Fatal(err)
	}
	otherDir, _ := made(t, 1, Options{})
	otherKey, _ := os.ReadFile(filepath.Join(otherDir, keyFile))

	fails := func(what, want string) {
		t.Helper()
		if l, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
			if l != nil {
				_ = l.Close()
			}
		}
	}
	put := func(path string, text []byte) {
		t.Helper()
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(private, []byte("nonsense"))
	fails("damaged key", "restore it from a backup")
	put(private, otherKey)
	fails("another key", "does not belong")
	_ = os.Remove(public)
	fails("another key, no public one", "not signed with this key")
	_ = os.Remove(private)
	fails("no key", "is missing")
	put(private, key)
	_ = os.Remove(public)
	l := open(t, dir, Options{})
	mustVerify(t, dir, l.Head(), 2)
	if a, b := l.Keyed([]byte("x")), l.Keyed([]byte("y")); a == b || a != l.Keyed([]byte("x")) || !strings.HasPrefix(a, "hmac-sha256:") {
		t.Error("keyed hashes", a, b)
	}
}

func TestParseHead(t *testing.T) {
	hash := strings.Repeat("0a", 32)
	for _, s := range []string{hash, "12:" + hash} {
		if h, err := ParseHead(s); err != nil || h.String() != s {
			t.Errorf("%s: %v, %v", s, h, err)
		}
	}
	for _, s := range []string{"", "12:", "0:" + hash, "x:" + hash, strings.ToUpper(hash), hash + "0"} {
		if _, err := ParseHead(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}
