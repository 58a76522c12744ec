package e2e

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/test/github"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// An Application reads its repository with the right of a GitHub App, through a proxy that wants a password: the token and every fetch
// go that way, one token serves many looks, and when it is revoked another is had.
func TestGitHubAppThroughAProxy(t *testing.T) {
	i := anyCluster(t)
	api := github.New(t)
	granted := api.ServeApp()
	r := newRepo(t, map[string]string{"c.yaml": configMap("c", "k", "one")})
	git := unstartedGitServer(t, r, "", "")
	git.Config.Handler = granted.Guard(git.Config.Handler)
	git.Start()
	const password = "canary-proxy-password"
	var mu sync.Mutex
	through := map[string]int{}
	forward := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.Out.Host = p.In.Host }}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		who := &http.Request{Header: http.Header{"Authorization": req.Header["Proxy-Authorization"]}}
		if _, p, _ := who.BasicAuth(); p != password {
			http.Error(w, "who are you", http.StatusProxyAuthRequired)
			return
		}
		mu.Lock()
		through[req.Host]++
		mu.Unlock()
		forward.ServeHTTP(w, req)
	}))
	t.Cleanup(proxy.Close)

	name := nameOf(t)
	a := newApp(i, name, name, r)
	i.namespace(t, name)
	i.secret(t, name, "app", corev1.SecretTypeOpaque, map[string]string{"githubAppID": github.AppID, "githubAppInstallationID": github.Installation,
		"githubAppPrivateKey": string(granted.Key), "githubAppBaseURL": api.URL})
	i.secret(t, name, "proxy", corev1.SecretTypeOpaque, map[string]string{"address": proxy.URL, "username": "git", "password": password})
	obj := a.from(git.repoURL(r), "app")
	obj.Spec.Source.ProxySecretRef = &v1alpha1.LocalReference{Name: "proxy"}
	i.createApplication(t, obj)
	t.Cleanup(func() {
		_ = i.dyn.Resource(appResource).Namespace(name).Delete(cleanupContext(), name, metav1.DeleteOptions{})
	})
	a.await(t)
	r.commit(t, "two", map[string]string{"c.yaml": configMap("c", "k", "two")})
	a.await(t)
	if n := granted.Given(); n != 1 {
		t.Errorf("%d tokens were asked for", n)
	}
	granted.Revoke(time.Hour)
	r.commit(t, "three", map[string]string{"c.yaml": configMap("c", "k", "three")})
	a.await(t)
	a.holds(t, "c", "k", "three")
	mu.Lock()
	defer mu.Unlock()
	for _, url := range []string{api.URL, git.URL} {
		if through[strings.TrimPrefix(url, "http://")] == 0 {
			t.Errorf("%s was reached without the proxy: %v", url, through)
		}
	}
	for _, secret := range []string{password, "PRIVATE KEY-----", "ghs_token"} {
		if out := i.output(); strings.Contains(out, secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
}
