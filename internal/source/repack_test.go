package source

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// noise is so many bytes that cannot be packed, the same for the same seed.
func noise(seed uint64, n int) string {
	out := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range out {
		out[i] = byte(r.Uint32())
	}
	return string(out)
}

func mirrorOf(t *testing.T, s *Store, url string) *mirror {
	t.Helper()
	a, err := parseAddress(url, false)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.mirror(a)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What a fetch may bring says nothing of what sixteen commits may weigh together.
func TestRepackKnowsNoWireLimit(t *testing.T) {
	r := newRepo(t)
	s := openStore(t, Limits{Pack: 60 << 10, Objects: 20, Inflate: 60 << 10})
	for i := range packsBeforeRepack + 2 {
		r.write("a", noise(uint64(i), 20<<10)).commit(fmt.Sprint(i))
		snapshotOf(t, s, Spec{URL: r.dir})
	}
	if packs, err := mirrorOf(t, s, r.dir).packs(); err != nil || len(packs) > packsBeforeRepack {
		t.Errorf("%d packs %v", len(packs), err)
	}
}

// Large commits do not let a mirror grow: the newest stays, and what is held.
func TestMirrorIsBoundedInBytes(t *testing.T) {
	const kept, size = 256 << 10, 40 << 10
	r := newRepo(t)
	s := openStore(t, Limits{Kept: kept})
	spec := Spec{URL: r.dir}
	r.write("a", noise(1000, size)).commit("held")
	held := snapshotOf(t, s, spec)
	m := mirrorOf(t, s, r.dir)
	var commits []string
	for i := range packsBeforeRepack - 4 { // so few that their number is no reason
		commits = append(commits, r.write("a", noise(uint64(i), size)).commit(fmt.Sprint(i)))
		snapshotOf(t, s, spec)
		runtime.GC()
		if got := diskUse(m.dir); got > kept+size {
			t.Fatalf("%d bytes after %d commits", got, i+1)
		}
	}
	if got := read(t, held.FS, "a"); got != noise(1000, size) {
		t.Error("what is held is not what it was")
	}
	last := commits[len(commits)-1]
	if snap, err := s.At(spec, last); err != nil || len(read(t, snap.FS, "a")) != size {
		t.Errorf("the newest: %v", err)
	}
	if _, err := s.At(spec, commits[0]); !errors.Is(err, ErrRefNotFound) {
		t.Errorf("the oldest is there: %v", err)
	}
	runtime.KeepAlive(held)
}

// Who gives all repositories little room gives one no more.
func TestOneMirrorWeighsNoMoreThanAll(t *testing.T) {
	s, err := Open(t.Context(), Config{Dir: t.TempDir(), Keep: &Keep{MaxBytes: 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	if m := mirrorOf(t, s, newRepo(t).dir); m.limits.Kept != 1<<20 {
		t.Errorf("one mirror may weigh %d bytes", m.limits.Kept)
	}
}

// One commit that weighs more than a mirror may is kept, and not packed anew at every look.
func TestMirrorOfOneLargeCommit(t *testing.T) {
	r := newRepo(t)
	s := openStore(t, Limits{Kept: 10 << 10})
	r.write("large", noise(1, 100<<10), "small", "0").commit("0")
	snapshotOf(t, s, Spec{URL: r.dir})
	m := mirrorOf(t, s, r.dir)
	first, err := m.packs()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		r.write("small", fmt.Sprint(i+1)).commit("more")
		snapshotOf(t, s, Spec{URL: r.dir})
	}
	if packs, err := m.packs(); err != nil || len(packs) != 4 || !slices.Contains(packs, first[0]) {
		t.Errorf("packs %v %v, of which the first was %v", packs, err, first)
	}
	r.write("large", noise(2, 100<<10)).commit("as much again")
	runtime.GC()
	snap := snapshotOf(t, s, Spec{URL: r.dir})
	if got := diskUse(m.dir); got > 150<<10 || read(t, snap.FS, "large") != noise(2, 100<<10) {
		t.Errorf("%d bytes", got)
	}
}

// A repack that cannot be done is not tried at every look.
func TestRepackWaitsAfterAFailure(t *testing.T) {
	r := newRepo(t)
	s := openStore(t, Limits{Kept: 1})
	r.write("a", "1").commit("1")
	snapshotOf(t, s, Spec{URL: r.dir})
	m := mirrorOf(t, s, r.dir)
	broken := strings.Repeat("0a", 20)
	if err := os.WriteFile(filepath.Join(m.dir, markers, broken), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.bulky = true
	if err := m.repack(); err == nil {
		t.Fatal("a commit that is not there was packed")
	}
	m.bulky = true
	if err := m.repack(); err != nil {
		t.Errorf("tried again at once: %v", err)
	}
	if err := os.Remove(filepath.Join(m.dir, markers, broken)); err != nil {
		t.Fatal(err)
	}
	m.stuck = 0
	if err := m.repack(); err != nil || m.bulky {
		t.Errorf("later: %v, still to do: %v", err, m.bulky)
	}
}
