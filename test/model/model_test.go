package model

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/go-logr/logr"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/klog/v2"
)

func TestMain(m *testing.M) {
	klog.SetLogger(logr.Discard())
	// Kubernetes' own handlers slow down by the wall clock, which in a bubble is another one each time.
	utilruntime.ErrorHandlers = nil
	os.Exit(m.Run())
}

// stage is in memory where the machine has such a folder: everything that is kept is synced.
func stage(t testing.TB) *Stage {
	dir, err := os.MkdirTemp("/dev/shm", "gitopsd-model-")
	if err != nil {
		dir = t.TempDir()
	} else {
		t.Cleanup(func() { os.RemoveAll(dir) })
	}
	s, err := NewStage(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// play plays a history in a bubble of its own.
func play(t *testing.T, s *Stage, h History, name string) (p Played) {
	t.Helper()
	synctest.Test(t, func(*testing.T) { p = s.Play(h, name) })
	return p
}

// sort of a problem: its words without the moment and without names that are another one each time.
func sort(problem string) string {
	_, what, _ := strings.Cut(problem, ": ")
	return particulars.ReplaceAllString(what, "")
}

var particulars = regexp.MustCompile(`(?s)[0-9a-f]{8}-[0-9a-f-]*|[0-9]+|\n.*|\(.*`)

// check plays a history and tells of one that fails all that there is to know, and how little of it fails too.
func check(t *testing.T, s *Stage, h History, name string) {
	t.Helper()
	p := play(t, s, h, name)
	if len(p.Problems) == 0 {
		return
	}
	less := Shrink(h, func(h History) bool {
		return slices.ContainsFunc(play(t, s, h, name).Problems, func(q string) bool { return sort(q) == sort(p.Problems[0]) })
	})
	if again := play(t, s, less, name); len(again.Problems) > 0 {
		p = again
	}
	text, err := json.MarshalIndent(less, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	t.Errorf("%s\n\nhistory:\n%s\nfor testdata:\n%s\n\nwhat happened:\n%s", strings.Join(p.Problems, "\n"), less, text, p.Trace)
}

// number is one of the environment.
func number(t testing.TB, name string, otherwise int) int {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// Random histories keep the promises. HISTORIES is how many; SEED is the one to play, or the first of them.
func TestHistories(t *testing.T) {
	first, n := 1, number(t, "HISTORIES", 150)
	if seed := number(t, "SEED", 0); seed != 0 {
		first = seed
		if os.Getenv("HISTORIES") == "" {
			n = 1
		}
	}
	s := stage(t)
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			check(t, s, Generate(uint64(seed)), strconv.Itoa(seed))
		})
	}
}

// Histories that once broke a promise.
func TestKeptHistories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no histories in testdata: %v", err)
	}
	s := stage(t)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var h History
			if err := json.Unmarshal(b, &h); err != nil {
				t.Fatal(err)
			}
			check(t, s, h, filepath.Base(file))
		})
	}
}

// Histories that are replayed on a real API server (test/e2e) keep the promises too.
func TestCalmHistories(t *testing.T) {
	s := stage(t)
	for seed := range 50 {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			check(t, s, Calm(uint64(seed)), "calm"+strconv.Itoa(seed))
		})
	}
}
