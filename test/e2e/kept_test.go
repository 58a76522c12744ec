package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/intent"
	"github.com/gitopsd/gitopsd/internal/ledger"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Contents in a cluster: one that is larger than a Secret comes back as it was, nobody can read it in the Secrets, and an earlier process
// cannot take away what a later one has put.
func TestContentsInACluster(t *testing.T) {
	aside(t)
	b := bareOf(t)
	ns := nameOf(t)
	b.namespace(t, ns)
	earlier := contentsOf(t, ns, b.config, 1)
	canary := []byte("canary-of-a-secret")
	large := make([]byte, 3<<20) // which compresses to nothing less
	_, _ = rand.Read(large)
	large = append(large, canary...)
	name := mustPut(t, earlier, "web", large)
	small := mustPut(t, earlier, "web", canary)
	mustPut(t, earlier, "other", canary)
	secrets, err := b.kube.CoreV1().Secrets(ns).List(ctx(t), metav1.ListOptions{LabelSelector: "gitopsd.io/revision-of"})
	if err != nil {
		t.Fatal(err)
	}
	if len(secrets.Items) != 7 {
		t.Errorf("%d Secrets, want 5 chunks and two more", len(secrets.Items))
	}
	for _, s := range secrets.Items {
		if raw, _ := s.Marshal(); bytes.Contains(raw, canary) || len(raw) > 1<<20 {
			t.Errorf("Secret %s has %d bytes, and %v", s.Name, len(raw), bytes.Contains(raw, canary))
		}
	}
	later := contentsOf(t, ns, b.config, 2)
	if got, err := later.Get("web", name); err != nil || !bytes.Equal(got, large) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	b.lateRemoval(t, ns, later, small, canary)
	if err := later.Keep("web", map[string]bool{small: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := later.Get("web", name); !errors.Is(err, intent.ErrAbsent) {
		t.Errorf("what is not named is there: %v", err)
	}
	if err := later.Drop("web"); err != nil {
		t.Fatal(err)
	}
	if got, err := later.Get("other", small); err != nil || !bytes.Equal(got, canary) {
		t.Errorf("another owner's went too: %q %v", got, err)
	}
}

// lateRemoval holds the removal of a content until a later process has put it again.
func (b *bareAPI) lateRemoval(t *testing.T, ns string, later *intent.Secrets, name string, content []byte) {
	t.Helper()
	g, kubeconfig := newGate(t, b.plainCluster)
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	through := contentsOf(t, ns, cfg, 1)
	held := g.hold(0, func(r *http.Request) bool { return r.Method == http.MethodDelete })
	done := make(chan error, 1)
	go func() { done <- through.Keep("web", map[string]bool{}) }()
	<-held
	if mustPut(t, later, "web", content) != name {
		t.Error("the same content has another name")
	}
	g.letGo()
	if err := <-done; err != nil {
		t.Error(err)
	}
	mustPut(t, later, "web", content)
	if got, err := later.Get("web", name); err != nil || !bytes.Equal(got, content) {
		t.Errorf("after the late removal: %q %v", got, err)
	}
}

func mustPut(t testing.TB, s *intent.Secrets, owner string, content []byte) string {
	t.Helper()
	name, err := s.Put(owner, content)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// A ledger in a cluster: it goes on over segments, drops the oldest, an entry whose answer was lost is in it once, and a process whose
// turn is over adds nothing, at no place.
func TestLedgerInACluster(t *testing.T) {
	aside(t)
	b := bareOf(t)
	ns := nameOf(t)
	b.namespace(t, ns)
	lossy := &lossy{}
	cfg := rest.CopyConfig(b.config)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { lossy.next = next; return lossy })
	open := func(cfg *rest.Config, epoch int64) (*ledger.Ledger, error) {
		return ledgerIn(ns, cfg, epoch, ledger.Options{SegmentBytes: 2000, KeepBytes: 12000})
	}
	earlier, err := open(cfg, 1)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 60 {
		lossy.armed.Store(n%3 == 0)
		if _, err = earlier.Append(entry(n)); n%3 == 0 {
			if err == nil {
				t.Fatalf("entry %d: the lost answer was no error", n)
			}
			_, err = earlier.Append(entry(n))
		}
		if err != nil {
			t.Fatalf("entry %d: %v", n, err)
		}
	}
	later, err := open(b.config, 2)
	if err != nil {
		t.Fatal(err)
	}
	for n := 60; n < 90; n++ {
		if _, err := earlier.Append(entry(1000 + n)); !errors.Is(err, ledger.ErrFenced) {
			t.Fatalf("the earlier process appended: %v", err)
		}
		if _, err := later.Append(entry(n)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := open(b.config, 1); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("an earlier turn opened it: %v", err)
	}
	seen := map[string]int{}
	last := ""
	for e, err := range ledger.Read(b.ledgerOf(t, ns)) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind != ledger.Checkpoint {
			seen[e.ID]++
			last = e.ID
		}
	}
	for id, n := range seen {
		if n != 1 || strings.HasPrefix(id, "entry-10") && len(id) > len("entry-10") {
			t.Errorf("%s is in it %d times", id, n)
		}
	}
	if last != "entry-89" || len(seen) >= 90 || len(seen) < 10 {
		t.Errorf("the last is %s of %d, of which the oldest should be gone", last, len(seen))
	}
}

func entry(n int) ledger.Entry {
	return ledger.Entry{Time: time.Now(), Kind: ledger.Sync, ID: fmt.Sprint("entry-", n), App: "a/b", Message: strings.Repeat("x", 100)}
}

// lossy loses the answer to the next write.
type lossy struct {
	next  http.RoundTripper
	armed atomic.Bool
}

func (l *lossy) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.next.RoundTrip(req)
	if err == nil && req.Method != http.MethodGet && l.armed.CompareAndSwap(true, false) {
		resp.Body.Close()
		return nil, errLost
	}
	return resp, err
}

func bareOf(t testing.TB) *bareAPI {
	t.Helper()
	b, err := bare()
	if err != nil {
		t.Fatal(err)
	}
	return b
}
