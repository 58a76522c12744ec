package e2e

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// gate stands between a server and the API, and can hold one of its writes.
type gate struct {
	proxy *httputil.ReverseProxy

	mu      sync.Mutex
	armed   bool
	counts  func(*http.Request) bool
	after   int // this many are let through first
	held    chan struct{}
	release chan struct{}
	came    chan int // the answer to the one that was held
	letGo   func()   // lets it go on
}

// newGate returns a gate and the kubeconfig of a server that goes through it.
func newGate(t testing.TB, c *plainCluster) (*gate, string) {
	t.Helper()
	target, err := url.Parse(c.config.Host)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := rest.TransportFor(c.config)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{letGo: func() {}, proxy: httputil.NewSingleHostReverseProxy(target)}
	g.proxy.Transport, g.proxy.FlushInterval, g.proxy.ErrorLog = tr, -1, log.New(discardWriter{}, "", 0)
	s := httptest.NewServer(g)
	t.Cleanup(func() {
		g.letGo()
		s.CloseClientConnections()
		s.Close()
	})
	return g, kubeconfigFor(t, s.URL)
}

type discardWriter struct{}

func (discardWriter) Write(p []byte) (int, error) { return len(p), nil }

// hold makes the gate hold the write that comes after so many.
func (g *gate) hold(after int, counts func(*http.Request) bool) (held <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.armed, g.after, g.counts = true, after, counts
	release := make(chan struct{})
	g.held, g.release, g.came = make(chan struct{}), release, make(chan int, 1)
	g.letGo = sync.OnceFunc(func() { close(release) })
	return g.held
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	hit := false
	if g.armed && g.counts(r) {
		hit = g.after == 0
		g.after--
		g.armed = !hit
	}
	held, release, came := g.held, g.release, g.came
	g.mu.Unlock()
	if !hit && r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/poison") && !strings.Contains(r.URL.RawQuery, "dryRun") {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		io.Copy(w, forbidden(r).Body)
		return
	}
	if !hit {
		g.proxy.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body) // the whole of it has left the process that is about to be stopped
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	close(held)
	<-release
	answer := &statusWriter{ResponseWriter: w}
	g.proxy.ServeHTTP(answer, r)
	came <- answer.status
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// point is a write of a sync: the one with this method and end of its path that comes after so many of the kind.
type point struct {
	method, path string
	after        int
}

func (p point) String() string { return fmt.Sprintf("%s %s after %d", p.method, p.path, p.after) }

// of says whether a request is a write of this kind, for the Application of a namespace: of its objects, its status, or of what the engine
// keeps.
func (p point) of(namespace string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		return r.Method == p.method && !strings.Contains(r.URL.RawQuery, "dryRun") && p.ends(r.URL.Path) &&
			(strings.Contains(r.URL.Path, "/namespaces/"+namespace+"/") || strings.Contains(r.URL.Path, "/namespaces/gitopsd/secrets"))
	}
}

// ends says whether a path ends so; one that ends in a dash is the beginning of a name.
func (p point) ends(path string) bool {
	return strings.HasSuffix(path, p.path) || strings.HasSuffix(p.path, "-") && strings.Contains(path, p.path)
}

// mayCome says whether the write may be done although it is late: a creation finds nothing, and no version can forbid it.
func (p point) mayCome() bool {
	return p.method == http.MethodPost || p.method == http.MethodPatch && p.path == "/new" && p.after == 0
}

// Where the leader is stopped: contents, the root of the intent, objects, the ledger, a prune, the seal; and the same on the way back.
var stalePoints = map[string][]point{
	"newer": {{"POST", "/secrets", 0}, {"POST", "/secrets", 1}, {"PUT", "/status", 0}, {"PATCH", "/change", 0}, {"PATCH", "/new", 0},
		{"PUT", "/status", 1}, {"PUT", "/gitopsd-ledger-", 0}, {"DELETE", "/gone", 0}, {"PUT", "/gitopsd-ledger-", 1}, {"PUT", "/status", 2}},
	"undone": {{"PATCH", "/change", 0}, {"PATCH", "/new", 0}, {"PUT", "/status", 1}, {"PATCH", "/change", 1}, {"DELETE", "/new", 0},
		{"PUT", "/gitopsd-ledger-", 0}, {"PUT", "/status", 2}},
}

var (
	staleBase = map[string]string{"change.yaml": configMap("change", "k", "one"), "gone.yaml": configMap("gone", "k", "one"), "same.yaml": configMap("same", "k", "one")}
	staleTwo  = map[string]string{"change.yaml": configMap("change", "k", "two"), "gone.yaml": "", "new.yaml": configMap("new", "k", "two")}
	// The third is unlike the second in everything that the second wrote.
	staleThree = map[string]string{"change.yaml": configMap("change", "k", "three"), "gone.yaml": configMap("gone", "k", "three"), "new.yaml": ""}
	staleEnd   = map[string]string{"change": "three", "gone": "three", "same": "one"}
	staleUndo  = map[string]string{"change": "one", "gone": "one", "same": "one"}
)

// Two servers on one cluster. The one that leads is stopped between two writes of a sync, at each write in turn; the other takes over and
// goes on to a newer revision, or undoes one of which an object is refused. Then the write that was held arrives, late, and the stopped
// one goes on: nothing of it survives.
func TestStaleLeader(t *testing.T) {
	aside(t)
	c, err := startPlain(t.TempDir() + "/cluster.log")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.end)
	var servers [2]*server
	var gates [2]*gate
	for n := range servers {
		g, kubeconfig := newGate(t, c)
		gates[n], servers[n] = g, newServer(t, c, kubeconfig, "--lease-duration", "3s")
		servers[n].launch(t)
		if n == 0 {
			servers[n].says(t, 0, "msg=leading")
		}
	}
	servers[1].says(t, 0, "another process leads")
	for _, end := range []string{"newer", "undone"} {
		t.Run(end, func(t *testing.T) {
			for n, p := range stalePoints[end] {
				x := &stale{cluster: c, point: p, namespace: fmt.Sprintf("%s-%d", end, n), undone: end == "undone"}
				leader := leading(t, servers)
				x.leads, x.gate = servers[leader], gates[leader]
				x.run(t)
			}
		})
	}
	if out := c.audit(t, "verify"); !strings.HasPrefix(out, "whole: ") {
		t.Errorf("audit verify: %s", out)
	}
}

var turnForm = regexp.MustCompile(`msg=leading turn=([0-9]+)`)

// leading is which of two servers began the later turn.
func leading(t testing.TB, servers [2]*server) int {
	t.Helper()
	var last [2]int64
	for n, s := range servers {
		b, err := os.ReadFile(s.log)
		if err != nil {
			t.Fatal(err)
		}
		if turns := turnForm.FindAllSubmatch(b, -1); len(turns) > 0 {
			last[n], _ = strconv.ParseInt(string(turns[len(turns)-1][1]), 10, 64)
		}
	}
	if last[0] > last[1] {
		return 0
	}
	return 1
}

// stale is one stop of the leader at its n-th write.
type stale struct {
	cluster *plainCluster
	point
	namespace string
	undone    bool // the second revision is: there is no third
	leads     *server
	gate      *gate
}

func (x *stale) run(t *testing.T) {
	t.Helper()
	ns := x.namespace
	x.cluster.namespace(t, ns)
	a := newApp(x.cluster.instance, ns, "app", newRepo(t, staleBase))
	x.cluster.createApplication(t, a.object())
	a.await(t)
	x.quiet(t, ns)
	held := x.gate.hold(x.after, x.of(ns))
	files := maps.Clone(staleTwo)
	if x.undone {
		files["poison.yaml"] = configMap("poison", "k", "refused by both gates")
	}
	last := a.repo.commit(t, "two", files)
	select {
	case <-held:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: there was no such write; status %+v", x.point, a.get(t).Status)
	}
	x.leads.suspend(t)
	if !x.undone {
		last = a.repo.commit(t, "three", staleThree)
	}
	x.end(t, a, last, "the other one takes over")
	x.gate.letGo()
	late := <-x.gate.came
	t.Logf("%s: came late, and was answered with %d", x.point, late)
	if late < 400 && !x.mayCome() {
		t.Errorf("%s: it was late, and done: %d", x.point, late)
	}
	x.end(t, a, last, "after the late write")
	mark := x.leads.mark()
	x.leads.resume(t)
	x.leads.says(t, mark, "another process leads")
	x.end(t, a, last, "after the stopped one went on")
	consistently(t, 500*time.Millisecond, "nothing of it comes back", func() error { return x.differs(t, a) })
	if err := x.cluster.dyn.Resource(appResource).Namespace(ns).Delete(ctx(t), a.name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (x *stale) end(t *testing.T, a *app, commit, when string) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("%s: %s", x.point, when), func() error {
		st := a.get(t).Status
		if err := settled(st, commit); err != nil {
			return err
		}
		if (st.Phase == v1alpha1.RolledBack) != x.undone || (st.AppliedRevision.Commit == commit) == x.undone {
			return errPhase(st)
		}
		return x.differs(t, a)
	})
}

func (x *stale) differs(t *testing.T, a *app) error {
	want := staleEnd
	if x.undone {
		want = staleUndo
	}
	if got := x.cluster.configMaps(t, a.namespace); !maps.Equal(got, want) {
		return fmt.Errorf("there is %v, want %v", got, want)
	}
	return nil
}

// quiet waits until what was kept of earlier Applications is gone, so that its removal is not counted.
func (x *stale) quiet(t *testing.T, namespace string) {
	t.Helper()
	eventually(t, 30*time.Second, "only this Application's revisions are kept", func() error {
		list, err := x.cluster.kube.CoreV1().Secrets("gitopsd").List(ctx(t), metav1.ListOptions{LabelSelector: "gitopsd.io/revision-of,gitopsd.io/revision-of!=" + namespace + ".app"})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d of others", len(list.Items))
		}
		return err
	})
}

// audit runs gitopsd audit against the cluster as somebody would who has its kubeconfig alone.
func (c *plainCluster) audit(t testing.TB, args ...string) string {
	t.Helper()
	return c.must(t, append([]string{"audit"}, append(args, "--kubeconfig", c.kubeconfig())...)...)
}
