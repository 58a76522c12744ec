package e2e

import (
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// gitServer serves a repository over smart HTTP, by Git's own program, with credentials and troubles on demand.
type gitServer struct {
	*httptest.Server
	user, password string
	requests       atomic.Int64
	hang           atomic.Bool // requests are taken and not answered
}

func newGitServer(t testing.TB, r *repo, user, password string) *gitServer {
	t.Helper()
	s := unstartedGitServer(t, r, user, password)
	s.Start()
	return s
}

// newTLSGitServer is one over HTTPS, with a certificate that nobody trusts yet.
func newTLSGitServer(t testing.TB, r *repo, user, password string) *gitServer {
	t.Helper()
	s := unstartedGitServer(t, r, user, password)
	s.Config.ErrorLog = discard // handshakes that fail are part of the tests
	s.StartTLS()
	return s
}

func unstartedGitServer(t testing.TB, r *repo, user, password string) *gitServer {
	t.Helper()
	backend, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	handler := &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(backend)), "git-http-backend"), Stderr: discard.Writer(),
		Env: []string{"GIT_PROJECT_ROOT=" + filepath.Dir(r.dir), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}
	s := &gitServer{user: user, password: password}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		s.requests.Add(1)
		if s.hang.Load() {
			<-req.Context().Done()
			return
		}
		if u, p, _ := req.BasicAuth(); user != "" && (u != user || p != password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, req)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *gitServer) repoURL(r *repo) string { return s.URL + "/" + filepath.Base(r.dir) }

// The Git server goes away, comes back, hangs, and the branch is deleted: what runs stays and is healed, status says since
// when and why, the daemon does not spin, and when it is over the newest commit comes by itself.
func TestGitTroubles(t *testing.T) {
	i := anyCluster(t)
	r := newRepo(t, map[string]string{"c.yaml": configMap("c", "k", "one")})
	server := newGitServer(t, r, "git", "canary-git-password")
	name := nameOf(t)
	i.namespace(t, name)
	i.secret(t, name, "git", corev1.SecretTypeOpaque, map[string]string{"username": "git", "password": "canary-git-password"})
	a := newApp(i, name, name, r)
	i.createApplication(t, a.from(server.repoURL(r), "git"))
	a.await(t)

	t.Run("a commit comes by polling", func(t *testing.T) {
		r.commit(t, "two", map[string]string{"c.yaml": configMap("c", "k", "two")})
		a.await(t)
	})
	t.Run("the server hangs", func(t *testing.T) {
		before := server.requests.Load()
		server.hang.Store(true)
		defer server.CloseClientConnections()
		defer server.hang.Store(false)
		eventually(t, 10*time.Second, "a request is taken and not answered", func() error {
			if server.requests.Load() == before {
				return fmt.Errorf("no request yet")
			}
			return nil
		})
		a.checkHealing(t)
	})
	t.Run("the branch is deleted", func(t *testing.T) {
		r.git(t, "checkout", "-q", "-b", "other")
		r.git(t, "branch", "-D", "main")
		a.awaitTrouble(t, "main")
		a.checkHealing(t)
		r.git(t, "checkout", "-q", "-b", "main")
		r.commit(t, "three", map[string]string{"c.yaml": configMap("c", "k", "three")})
		a.await(t)
	})
	t.Run("the server is gone", func(t *testing.T) {
		address := server.Listener.Addr().String()
		before := server.requests.Load()
		server.Close()
		a.awaitTrouble(t, address)
		a.checkHealing(t)
		if n := server.requests.Load() - before; n > 20 {
			t.Errorf("%d requests while the server went away", n)
		}
		out := i.must(t, "status", name+"/"+name)
		if !strings.Contains(out, "cannot be read since") || strings.Contains(out, "canary-git-password") {
			t.Errorf("status:\n%s", out)
		}
	})
}

// awaitTrouble waits until the status tells why the repository cannot be read, and since when.
func (a *app) awaitTrouble(t testing.TB, says string) {
	t.Helper()
	eventually(t, 60*time.Second, "the trouble is told", func() error {
		s := a.get(t).Status.Source
		if s == nil || s.Since.IsZero() || !strings.Contains(s.Message, says) {
			return fmt.Errorf("source is %+v", s)
		}
		return nil
	})
}

// checkHealing deletes an object and waits until it is back.
func (a *app) checkHealing(t testing.TB) {
	t.Helper()
	uid := configMapUID(t, a.i, a.namespace, "c")
	a.i.mustKubectl(t, "-n", a.namespace, "delete", "configmap", "c")
	eventually(t, 20*time.Second, "it is healed without the Git server", func() error {
		m, err := a.i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), "c", metav1.GetOptions{})
		if err == nil && m.UID == uid {
			err = fmt.Errorf("not deleted yet")
		}
		return err
	})
}

// A repository that has moved on its own server is followed there; one that has moved to another server does not get the credentials there.
func TestGitRedirects(t *testing.T) {
	i := anyCluster(t)
	r := newRepo(t, map[string]string{"c.yaml": configMap("c", "k", "one")})
	name := nameOf(t)
	i.namespace(t, name)
	i.secret(t, name, "git", corev1.SecretTypeOpaque, map[string]string{"username": "git", "password": "canary-git-password"})
	moved := unstartedGitServer(t, r, "git", "canary-git-password")
	inner := moved.Config.Handler
	moved.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if rest, old := strings.CutPrefix(req.URL.Path, "/old/"); old {
			http.Redirect(w, req, "/"+rest+"?"+req.URL.RawQuery, http.StatusMovedPermanently)
			return
		}
		inner.ServeHTTP(w, req)
	})
	moved.Start()
	elsewhere := newGitServer(t, r, "", "")
	away := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, elsewhere.URL+req.URL.Path+"?"+req.URL.RawQuery, http.StatusMovedPermanently)
	}))
	t.Cleanup(away.Close)
	deploy := func(suffix, url string) *app {
		a := &app{i, name, name + suffix, r}
		obj := a.object()
		obj.Name, obj.Spec.Source.Repo = a.name, url
		obj.Spec.Source.SecretRef = &v1alpha1.LocalReference{Name: "git"}
		i.createApplication(t, obj)
		return a
	}
	deploy("", moved.URL+"/old/"+filepath.Base(r.dir)).await(t)
	deploy("-away", away.URL+"/"+filepath.Base(r.dir)).awaitTrouble(t, "which the credentials were not given for")
	if n := elsewhere.requests.Load(); n > 0 {
		t.Errorf("the other server was asked %d times", n)
	}
}
