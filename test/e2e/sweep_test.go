package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/intent"
	"github.com/gitopsd/gitopsd/internal/ledger"
	"github.com/gitopsd/gitopsd/internal/pipeline"
	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/source"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// bareAPI is a cluster without an engine: the tests bring theirs, between which and the API they can stand.
type bareAPI struct {
	*plainCluster
	pool *render.Pool
}

var endBare = func() {} // ends it, if it was started

var bare = sync.OnceValues(func() (*bareAPI, error) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	c, err := startPlain(filepath.Join(raceDir, "plaincluster.log"))
	if err != nil {
		return nil, err
	}
	b := &bareAPI{plainCluster: c}
	endBare = c.end
	if err := pipeline.Install(context.Background(), c.config); err != nil {
		return nil, err
	}
	b.pool, err = render.NewPool(render.PoolConfig{Program: filepath.Join(bundleDir, "gitopsd-render"), Workers: 1})
	return b, err
})

// contentsOf and ledgerIn are what an engine keeps: in Secrets of the namespace that is swept, so that their writes go wrong too.
func contentsOf(t testing.TB, namespace string, cfg *rest.Config, epoch int64) *intent.Secrets {
	t.Helper()
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	names, err := metadata.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	contents, err := intent.OpenSecrets(kube.CoreV1().Secrets(namespace), names.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(namespace), epoch)
	if err != nil {
		t.Fatal(err)
	}
	return contents
}

func ledgerIn(namespace string, cfg *rest.Config, epoch int64, o ledger.Options) (*ledger.Ledger, error) {
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return ledger.OpenCluster(kube.CoreV1().Secrets(namespace), epoch, o)
}

// engine runs an engine against the API, through a transport of the test's, until stop.
func (b *bareAPI) engine(t testing.TB, dir, namespace string, wrap func(http.RoundTripper) http.RoundTripper) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cfg := rest.CopyConfig(b.config)
	if wrap != nil {
		cfg.Wrap(wrap)
	}
	sources, err := source.Open(ctx, source.Config{Dir: filepath.Join(dir, "git"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	turn, err := pipeline.TakeTurn(ctx, b.config, "default") // its Lease is no write of the namespace that is swept
	if err != nil {
		t.Fatal(err)
	}
	contents := contentsOf(t, namespace, cfg, turn.Epoch)
	account, err := ledgerIn(namespace, cfg, turn.Epoch, ledger.Options{SegmentBytes: 1000})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		err := pipeline.Run(ctx, pipeline.Config{Client: cfg, Sources: sources, Renderer: b.pool, Contents: contents, Ledger: account, Turn: turn,
			AllowFiles: true, Log: slog.New(slog.DiscardHandler), Metrics: pipeline.NewMetrics(prometheus.NewRegistry())})
		sources.Wait()
		done <- errors.Join(err, account.Close())
	}()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, errLost) { // one that died cannot take back what it was writing to the ledger
			t.Errorf("the engine ended with %v", err)
		}
	})
}

// fault makes the n-th write of an engine go wrong; of those of one namespace only, so that nothing else counts.
type fault struct {
	namespace string
	kind      string // refused, lost, before, after
	n         int
	poison    string // every write of an object of this name is refused
	crash     chan struct{}
	armed     atomic.Bool // the engine runs: what it does to open what it keeps is not counted

	mu    sync.Mutex
	count int
	dead  bool
	life  int    // how many engines have died
	what  string // the request that was hit
}

var errLost = errors.New("the connection was lost")

// faulty is a client's way to the API, of one engine: what is still under way when that has died stays dead.
type faulty struct {
	*fault
	next http.RoundTripper
	life int
}

func (f *fault) wrap(next http.RoundTripper) http.RoundTripper {
	f.mu.Lock()
	defer f.mu.Unlock()
	return faulty{f, next, f.life}
}

func (f faulty) RoundTrip(req *http.Request) (*http.Response, error) {
	f.mu.Lock()
	if f.dead || f.life != f.fault.life {
		f.mu.Unlock()
		return nil, errLost
	}
	writes := f.armed.Load() && req.Method != http.MethodGet && !strings.Contains(req.URL.RawQuery, "dryRun") && !strings.Contains(req.URL.Path, "/events") &&
		strings.Contains(req.URL.Path, "/namespaces/"+f.namespace+"/")
	poisoned := writes && f.poison != "" && strings.HasSuffix(req.URL.Path, "/"+f.poison)
	hit := false
	if writes && !poisoned {
		f.count++
		if hit = f.count == f.n; hit {
			f.what = req.Method + " " + req.URL.Path
			f.dead = f.kind == "before" || f.kind == "after"
		}
	}
	f.mu.Unlock()
	if poisoned || hit && f.kind == "refused" {
		return forbidden(req), nil
	}
	if !hit {
		return f.next.RoundTrip(req)
	}
	switch f.kind {
	case "before":
		close(f.crash)
		return nil, errLost
	}
	resp, err := f.next.RoundTrip(req) // it happens, and the answer is lost
	if err == nil {
		resp.Body.Close()
	}
	if f.kind == "after" {
		close(f.crash)
	}
	return nil, errLost
}

func forbidden(req *http.Request) *http.Response {
	body := `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"refused by the test","reason":"Forbidden","code":403}`
	return &http.Response{StatusCode: http.StatusForbidden, Status: "403 Forbidden", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewBufferString(body))}
}

var (
	sweepOld = map[string]string{"change": "one", "gone": "one", "same": "one", "theirs": "theirs"}
	sweepNew = map[string]string{"change": "two", "new": "two", "same": "one", "theirs": "ours"}
)

// Every single write of a sync goes wrong in turn: once it is refused, once it is done and the answer is lost, and once the engine
// dies before it and once after it. Whatever happens, it ends wholly at the new revision or wholly at the old one, and when the
// faults are over the new one comes.
func TestEveryWriteFailsInTurn(t *testing.T) {
	aside(t)
	t.Run("of a sync", sweepSync)
	t.Run("of an undo", sweepUndo)
}

func sweepSync(t *testing.T) {
	sweep(t, "", func(t *testing.T, s *swept) {
		want := sweepOld
		if s.st.AppliedRevision.Commit == s.head {
			want = sweepNew
		} else if s.st.Phase != v1alpha1.RolledBack {
			t.Errorf("%s: the old revision is there and the phase is %s", s, s.st.Phase)
		}
		s.check(t, want)
		if s.st.Phase == v1alpha1.RolledBack {
			retry(t, s.app)
		}
		s.app.await(t)
		s.check(t, sweepNew)
	})
}

// sweepUndo does the same while a revision is undone, because one of its objects is refused whenever it is written: it ends wholly at the
// old one.
func sweepUndo(t *testing.T) {
	sweep(t, "poison", func(t *testing.T, s *swept) {
		if s.st.Phase != v1alpha1.RolledBack || s.st.AppliedRevision.Commit == s.head {
			t.Errorf("%s: the phase is %s, applied is %.8s", s, s.st.Phase, s.st.AppliedRevision.Commit)
		}
		s.check(t, sweepOld)
	})
}

// swept is one sync of which a write went wrong, and what came of it.
type swept struct {
	fault *fault
	app   *app
	head  string
	st    v1alpha1.ApplicationStatus
}

func (s *swept) String() string {
	return fmt.Sprintf("%s, write %d (%s)", s.fault.kind, s.fault.n, s.fault.hit())
}

func (s *swept) check(t testing.TB, want map[string]string) {
	t.Helper()
	if got := s.app.i.configMaps(t, s.app.namespace); !maps.Equal(got, want) {
		t.Errorf("%s: there is %v, want %v", s, got, want)
	}
}

// checkLedger looks for intents that have ended twice, and for an end that is missing.
func (s *swept) checkLedger(t testing.TB, dir string) {
	t.Helper()
	ends, last := map[string]string{}, ""
	for e, err := range ledger.Read(dir) {
		if err != nil {
			t.Fatal(err)
		}
		id, end, ok := strings.Cut(e.ID, "/")
		if !ok || id == "relabel" || e.Kind != ledger.Sync && e.Kind != ledger.Rollback {
			continue
		}
		if before := ends[id]; before != "" && before != end {
			t.Errorf("%s: intent %s has ended as %s and as %s", s, id, before, end)
		}
		ends[id], last = end, end
	}
	if now := string(s.app.get(t).Status.Phase); last != now {
		t.Errorf("%s: the last end in the ledger is %q, the phase %s", s, last, now)
	}
}

// ledgerOf is a copy of an engine's ledger, verified.
func (b *bareAPI) ledgerOf(t testing.TB, namespace string) string {
	t.Helper()
	dir := t.TempDir()
	if err := ledger.Fetch(ctx(t), b.kube.CoreV1().Secrets(namespace), dir); err != nil {
		t.Fatal(err)
	}
	key, err := ledger.ReadPublicKey(filepath.Join(dir, ledger.PublicKeyFile))
	if err == nil {
		_, err = ledger.Verify(dir, key, ledger.Head{})
	}
	if err != nil {
		t.Error(err)
	}
	return dir
}

func sweep(t *testing.T, poison string, judge func(*testing.T, *swept)) {
	t.Helper()
	b, err := bare()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"refused", "lost", "before", "after"} {
		t.Run(kind, func(t *testing.T) {
			for n := 1; ; n++ {
				if n > 40 {
					t.Fatal("a sync has more than 40 writes")
				}
				s := sweepOnce(t, b, &fault{kind: kind, n: n, poison: poison, crash: make(chan struct{})}, judge)
				if s.fault.hit() == "" {
					t.Logf("%d writes", n-1)
					if n < 8 {
						t.Error("these are too few to be all")
					}
					return
				}
			}
		})
	}
}

// sweepOnce syncs a second revision with one write going wrong, and has the end judged.
func sweepOnce(t *testing.T, b *bareAPI, f *fault, judge func(*testing.T, *swept)) *swept {
	t.Helper()
	f.namespace = fmt.Sprintf("sweep%s-%s-%d", f.poison, f.kind, f.n)
	i, dir := b.instance, t.TempDir()
	a := newApp(i, f.namespace, "app", newRepo(t, map[string]string{"change.yaml": configMap("change", "k", "one"), "gone.yaml": configMap("gone", "k", "one"), "same.yaml": configMap("same", "k", "one")}))
	i.namespace(t, f.namespace)
	if _, err := i.kube.CoreV1().ConfigMaps(f.namespace).Create(ctx(t), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}, Data: map[string]string{"k": "theirs"}},
		metav1.CreateOptions{FieldManager: "somebody"}); err != nil {
		t.Fatal(err)
	}
	i.createApplication(t, a.object())
	stop := b.engine(t, dir, f.namespace, nil)
	a.await(t)
	stop()
	files := map[string]string{"change.yaml": configMap("change", "k", "two"), "gone.yaml": "", "new.yaml": configMap("new", "k", "two"), "theirs.yaml": configMap("theirs", "k", "ours")}
	if f.poison != "" {
		files["poison.yaml"] = configMap(f.poison, "k", "two")
	}
	s := &swept{fault: f, app: a, head: a.repo.commit(t, "two", files)}
	stop = b.engine(t, dir, f.namespace, f.wrap)
	f.armed.Store(true)
	defer func() { stop() }()
	eventually(t, 30*time.Second, fmt.Sprintf("%s: it dies, or comes to an end", s), func() error {
		select {
		case <-f.crash:
			return nil
		default:
			return settled(a.get(t).Status, s.head)
		}
	})
	if f.died() {
		stop()
		stop = b.engine(t, dir, f.namespace, f.wrap)
	}
	eventually(t, 30*time.Second, fmt.Sprintf("%s: an end", s), func() error {
		s.st = a.get(t).Status
		return settled(s.st, s.head)
	})
	judge(t, s)
	s.checkLedger(t, b.ledgerOf(t, f.namespace))
	// The next engine shall have one Application to look at.
	if err := i.dyn.Resource(appResource).Namespace(f.namespace).Delete(ctx(t), a.name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// hit returns the request that went wrong, empty when none did so far: an engine still writes after the status that tells the end.
func (f *fault) hit() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.what
}

// died says whether the engine did, and lets the next one live.
func (f *fault) died() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.dead {
		return false
	}
	f.dead = false
	f.life++
	return true
}

// settled says that a commit was begun and came to an end, good or bad.
func settled(st v1alpha1.ApplicationStatus, commit string) error {
	if st.ObservedCommit != commit || st.Intent != nil || st.Phase != v1alpha1.Applied && st.Phase != v1alpha1.RolledBack {
		return errPhase(st)
	}
	return nil
}

// retry asks for what gitopsd sync --retry asks for.
func retry(t testing.TB, a *app) {
	t.Helper()
	now := time.Now().Format(time.RFC3339Nano)
	merge := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q,%q:%q}}}`, v1alpha1.AnnotationSync, now, v1alpha1.AnnotationRetry, now)
	if _, err := a.i.dyn.Resource(appResource).Namespace(a.namespace).Patch(ctx(t), a.name, types.MergePatchType, []byte(merge), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}
