package ledger

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const crashDir, crashRound = "LEDGER_TEST_CRASH_DIR", "LEDGER_TEST_CRASH_ROUND"

var crashOptions = Options{SegmentBytes: 6000}

// TestKilled kills a process that appends from many goroutines, again and again, on one ledger. What it had acknowledged has to be there.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(crashDir); dir != "" {
		appendForever(t, dir, os.Getenv(crashRound))
		return
	}
	rounds := 25
	if testing.Short() {
		rounds = 5
	}
	dir := filepath.Join(t.TempDir(), "ledger")
	random := rand.New(rand.NewPCG(5, 6))
	acknowledged := map[string]bool{}
	for round := range rounds {
		for _, id := range killed(t, dir, round, random.IntN(40)) {
			acknowledged[id] = true
		}
		l, err := Open(dir, crashOptions)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		there := map[string]bool{}
		for _, id := range ids(t, l, Filter{}) {
			if there[id] {
				t.Fatalf("round %d: %s is there twice", round, id)
			}
			there[id] = true
		}
		for id := range acknowledged {
			if !there[id] {
				t.Fatalf("round %d: %s was acknowledged and is lost", round, id)
			}
		}
		mustVerify(t, dir, l.Head(), len(there))
		_ = l.Close()
	}
	t.Logf("%d rounds, %d acknowledged entries", rounds, len(acknowledged))
}

// killed runs a process that appends, kills it after some acknowledgements, and returns all that it gave.
func killed(t *testing.T, dir string, round, after int) (acknowledged []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestKilled$")
	cmd.Env = append(os.Environ(), crashDir+"="+dir, fmt.Sprintf("%s=%d", crashRound, round))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		id, ok := strings.CutPrefix(lines.Text(), "ack ")
		if !ok {
			t.Errorf("the process said: %s", lines.Text())
			continue
		}
		acknowledged = append(acknowledged, id)
		if n == after {
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait() // it was killed
	return acknowledged
}

func appendForever(t *testing.T, dir, round string) {
	l := open(t, dir, crashOptions)
	var print sync.Mutex
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for n := 0; ; n++ {
				e := act(n)
				e.ID = fmt.Sprintf("%s-%d-%d", round, w, n)
				if _, err := l.Append(e); err != nil {
					fmt.Println(err)
					return
				}
				print.Lock()
				fmt.Println("ack", e.ID) // one write: a line is told whole or not at all
				print.Unlock()
			}
		})
	}
	wg.Wait()
}
