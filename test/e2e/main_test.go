package e2e

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/google/go-containerregistry/pkg/registry"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What hack/build-e2e.sh has built, and what the whole run shares.
var (
	gitopsd      string // with the race detector
	plainProgram string // test/plaincluster
	bundleDir    string
	raceDir      string // where race detectors write what they find
	images       string // host:port of the registry
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the end-to-end tests need root: they run real containers")
		return 1
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	gitopsd = cmp.Or(os.Getenv("GITOPSD_E2E_PROGRAM"), filepath.Join(root, "build/gitopsd-race"))
	plainProgram = filepath.Join(root, "build/plaincluster")
	bundleDir = filepath.Join(root, "build/bundle-race")
	if _, err := os.Stat(gitopsd); err != nil {
		fmt.Fprintln(os.Stderr, "build what the tests run first: hack/build-e2e.sh, or make e2e")
		return 1
	}
	if raceDir, err = os.MkdirTemp("", "race-"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(raceDir)
	stop := serveImages()
	defer stop()
	code := m.Run()
	removeShared()
	endBare()
	return max(code, reportRaces())
}

// serveImages starts the registry that nodes pull from and puts the images of examples/hello into it.
func serveImages() (stop func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	images = l.Addr().String()
	server := &http.Server{Handler: registry.New(registry.Logger(discard))}
	go server.Serve(l)
	if err := pushHello(images, "v1", "v2"); err != nil {
		panic(err)
	}
	return func() { server.Close() }
}

// reportRaces prints what the race detectors of the daemons have found; 1 when that is anything.
func reportRaces() int {
	found, _ := filepath.Glob(filepath.Join(raceDir, "race*"))
	for _, f := range found {
		b, _ := os.ReadFile(f)
		fmt.Fprintf(os.Stderr, "the race detector found:\n%.20000s\n", b)
	}
	return min(len(found), 1)
}

var (
	sharedOnce sync.Once
	sharedInst *instance
	endShared  = func() {} // the cluster that the shared instance is a guest of

	// onPlain says that this run is about an engine on somebody else's cluster: make e2e runs the tests once so and once not.
	onPlain = os.Getenv("GITOPSD_E2E_ON") == "plain"
)

// anyCluster is the instance of tests of the engine that need no node: one with a control plane of its own, or `gitopsd server
// --kubeconfig` on a plain cluster. They leave it as it is.
func anyCluster(t testing.TB) *instance {
	t.Helper()
	if !onPlain {
		return shared(t)
	}
	sharedOnce.Do(func() {
		c, err := startPlain(filepath.Join(raceDir, "shared-cluster.log"))
		if err != nil {
			t.Fatal(err)
		}
		i := prepare(nil)
		endShared, i.api = c.end, c.dir
		kubeconfig := c.kubeconfigOf(t, "engine")
		i.args = func() []string { return i.guest(kubeconfig) }
		i.launch(t)
		i.config, i.kube, i.dyn = c.config, c.kube, c.dyn
		eventually(t, time.Minute, "the guest has made its kinds", func() error {
			_, err := i.dyn.Resource(v1alpha1.GroupVersion.WithResource("applicationsets")).List(ctx(t), metav1.ListOptions{})
			return err
		})
		sharedInst = i
	})
	if sharedInst == nil {
		t.Fatal("the shared instance has not started")
	}
	return sharedInst
}

// aside is for tests that bring clusters and engines of their own: they run beside each other, in the run on a plain cluster, so that the
// whole of both runs has them once.
func aside(t *testing.T) {
	t.Helper()
	withPlain(t)
	t.Parallel()
}

// withPlain skips a test in the run on a node of our own.
func withPlain(t testing.TB) {
	t.Helper()
	if !onPlain {
		t.Skip("it runs with the tests on a plain cluster: GITOPSD_E2E_ON=plain")
	}
}

// needsNode skips a test in the run on the plain cluster, which has none.
func needsNode(t testing.TB) {
	t.Helper()
	if onPlain {
		t.Skip("it needs a node, and the plain cluster has none")
	}
}

// shared is the instance of all tests that leave it as it is.
func shared(t testing.TB) *instance {
	t.Helper()
	needsNode(t)
	sharedOnce.Do(func() {
		i := prepare(nil)
		sharedInst = i
		i.start(t)
		i.awaitNode(t)
	})
	if sharedInst == nil || sharedInst.kube == nil {
		t.Fatal("the shared instance has not started")
	}
	return sharedInst
}

func removeShared() {
	if sharedInst == nil {
		return
	}
	if out, code := sharedInst.run("uninstall", "--yes"); code != 0 {
		fmt.Fprintf(os.Stderr, "uninstall of the shared instance: exit code %d\n%s", code, out)
	}
	os.RemoveAll(filepath.Dir(sharedInst.dir))
	endShared()
}

// cleanupContext is for what runs after a test's own context has ended.
func cleanupContext() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	time.AfterFunc(31*time.Second, cancel)
	return ctx
}
