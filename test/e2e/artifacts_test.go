package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/source/sourcetest"
	helmrepo "helm.sh/helm/v3/pkg/repo"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const fluxLayer = "application/vnd.cncf.flux.content.v1.tar+gzip"

// source deploys an Application that reads no Git repository.
func (i *instance) source(t testing.TB, suffix string, s v1alpha1.Source, change ...func(*v1alpha1.Application)) *app {
	t.Helper()
	name := nameOf(t)
	a := &app{i, name, "app" + suffix, &repo{}}
	if _, err := i.kube.CoreV1().Namespaces().Get(ctx(t), name, metav1.GetOptions{}); err != nil {
		i.namespace(t, name)
	}
	obj := a.object()
	s.Interval = &metav1.Duration{Duration: time.Second}
	obj.Spec.Source = s
	for _, c := range change {
		c(obj)
	}
	i.createApplication(t, obj)
	t.Cleanup(func() {
		_ = i.dyn.Resource(appResource).Namespace(name).Delete(cleanupContext(), a.name, metav1.DeleteOptions{})
	})
	return a
}

// pushFiles pushes files as flux push artifact does, and returns the digest.
func pushFiles(t testing.TB, r *sourcetest.Registry, repository string, tags []string, files ...sourcetest.Packed) string {
	return r.Push(repository, map[string]string{"org.opencontainers.image.revision": "main@sha1:0123abc"},
		[]sourcetest.Layer{{MediaType: fluxLayer, Content: sourcetest.Gzip(t, sourcetest.Tar(t, files...))}}, tags...)
}

// guarded is a registry that wants a token of a service, which gives it for a password, and that has its layers on another host.
func guarded(t testing.TB, user, password, token string, leaked *atomic.Bool) *sourcetest.Registry {
	t.Helper()
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"access_token":%q,"expires_in":60}`, token)
	}))
	t.Cleanup(service.Close)
	var store http.Handler
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Store(true)
		}
		store.ServeHTTP(w, r)
	}))
	t.Cleanup(elsewhere.Close)
	return sourcetest.NewRegistry(t, func(next http.Handler) http.Handler {
		store = next
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Header.Get("Authorization") != "Bearer "+token:
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="registry"`, service.URL))
				http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			case strings.Contains(r.URL.Path, "/blobs/"):
				http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
			default:
				next.ServeHTTP(w, r)
			}
		})
	})
}

// An artifact of a private registry, from a push to objects: the highest version of a range is followed, its digest is the revision
// everywhere a commit is, and the credentials come to the registry and its token service alone.
func TestOCIArtifact(t *testing.T) {
	const user, password, token = "robot", "canary-oci-e2e-password-63", "canary-oci-e2e-token-64"
	i := anyCluster(t)
	var leaked atomic.Bool
	r := guarded(t, user, password, token, &leaked)
	files := func(value string) sourcetest.Packed {
		return sourcetest.File("./apps/c.yaml", configMap("c", "k", value))
	}
	first := pushFiles(t, r, "acme/infra", []string{"v1.0.0"}, files("one"))
	ns := nameOf(t)
	i.namespace(t, ns)
	i.secret(t, ns, "registry", corev1.SecretTypeDockerConfigJson, dockerConfig(strings.TrimPrefix(r.URL, "http://"), user, password))
	a := i.source(t, "", v1alpha1.Source{Repo: r.Address("acme/infra"), Path: "apps", Ref: v1alpha1.Ref{Semver: "1.x"}, SecretRef: &v1alpha1.LocalReference{Name: "registry"}})
	st := a.awaitCommit(t, first, v1alpha1.Applied).Status
	i.awaitConfigMap(t, ns, "c", "one")
	if st.ObservedVersion != "v1.0.0" {
		t.Errorf("the version is %q", st.ObservedVersion)
	}
	second := pushFiles(t, r, "acme/infra", []string{"v1.1.0", "v2.0.0-rc.1"}, files("two"))
	a.awaitCommit(t, second, v1alpha1.Applied)
	i.awaitConfigMap(t, ns, "c", "two")
	name := ns + "/" + a.name
	if out := i.must(t, "status", name); !strings.Contains(out, "v1.1.0") || !strings.Contains(out, second) {
		t.Errorf("the status is\n%s", out)
	}
	for _, rev := range []string{"v1.0.0", first, first[:15]} {
		if out, code := i.run("plan", name, "--rev", rev); code != 2 || !strings.Contains(out, `"two"`) || !strings.Contains(out, `"one"`) {
			t.Errorf("the plan of %s is\n%s", rev, out)
		}
	}
	i.must(t, "rollback", name, "--to", first[:15])
	i.awaitConfigMap(t, ns, "c", "one")
	third := pushFiles(t, r, "acme/infra", []string{"v1.2.0"}, files("three"))
	a.awaitCommit(t, third, v1alpha1.Applied)
	i.awaitConfigMap(t, ns, "c", "three")
	if out := i.must(t, "history", name); !strings.Contains(out, third[:15]) || !strings.Contains(out, first[:15]) {
		t.Errorf("the history is\n%s", out)
	}
	if leaked.Load() {
		t.Error("the credentials came to another host")
	}
	if !onPlain { // where there are more places to look
		i.checkHidden(t, name, password, token)
	}
}

// A poisoned archive is refused by name, what ran stays, and others go on.
func TestPoisonedArchive(t *testing.T) {
	i := anyCluster(t)
	r := sourcetest.NewRegistry(t, nil)
	good := pushFiles(t, r, "acme/poisoned", []string{"latest"}, sourcetest.File("c.yaml", configMap("poisoned", "k", "good")))
	well := pushFiles(t, r, "acme/well", []string{"latest"}, sourcetest.File("c.yaml", configMap("well", "k", "one")))
	a := i.source(t, "", v1alpha1.Source{Repo: r.Address("acme/poisoned")})
	b := i.source(t, "-well", v1alpha1.Source{Repo: r.Address("acme/well")})
	a.awaitCommit(t, good, v1alpha1.Applied)
	b.awaitCommit(t, well, v1alpha1.Applied)
	pushFiles(t, r, "acme/poisoned", []string{"latest"}, sourcetest.File("c.yaml", configMap("poisoned", "k", "bad")), sourcetest.File("../../../../../../etc/gitopsd-was-here", "x"))
	eventually(t, 30*time.Second, "the archive is refused", func() error {
		st := a.get(t).Status
		if st.Source == nil || !strings.Contains(st.Source.Message, "leads out of the archive") || st.AppliedRevision.Commit != good {
			return fmt.Errorf("%+v, applied %s", st.Source, st.AppliedRevision.Commit)
		}
		return nil
	})
	i.must(t, "sync", a.namespace+"/"+b.name)
	well = pushFiles(t, r, "acme/well", []string{"latest"}, sourcetest.File("c.yaml", configMap("well", "k", "two")))
	b.awaitCommit(t, well, v1alpha1.Applied)
	i.awaitConfigMap(t, a.namespace, "poisoned", "good")
	if _, err := os.Stat("/etc/gitopsd-was-here"); err == nil {
		t.Error("a file of the archive was written")
	}
	mended := pushFiles(t, r, "acme/poisoned", []string{"latest"}, sourcetest.File("c.yaml", configMap("poisoned", "k", "mended")))
	a.awaitCommit(t, mended, v1alpha1.Applied)
	i.awaitConfigMap(t, a.namespace, "poisoned", "mended")
}

// chartFolder is a Helm repository in a folder, with the index that Helm makes of it, behind a password and slow.
type chartFolder struct {
	dir string
	*httptest.Server
}

func newChartFolder(t testing.TB, user, password string) *chartFolder {
	t.Helper()
	c := &chartFolder{dir: t.TempDir()}
	files := http.FileServer(http.Dir(c.dir))
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		slow := time.NewTimer(200 * time.Millisecond) // an answer takes its time
		defer slow.Stop()
		select {
		case <-slow.C:
			files.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(c.Server.Close)
	return c
}

// add packs a chart and makes the index anew; base is where the index says that the archives are.
func (c *chartFolder) add(t testing.TB, base, name, version string, archive []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name+"-"+version+".tgz"), archive, 0o644); err != nil {
		t.Fatal(err)
	}
	index, err := helmrepo.IndexDirectory(c.dir, base)
	if err != nil {
		t.Fatal(err)
	}
	index.SortEntries()
	if err := index.WriteFile(filepath.Join(c.dir, "index.yaml"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// packedChart is a chart with one ConfigMap, whose name ends in its own.
func packedChart(t testing.TB, name, version string) []byte {
	return sourcetest.Gzip(t, sourcetest.Tar(t,
		sourcetest.File(name+"/Chart.yaml", fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\n", name, version)),
		sourcetest.File(name+"/values.yaml", "text: own\n"),
		sourcetest.File(name+"/templates/c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: "+name+"}\ndata: {k: \"{{ .Chart.Version }} {{ .Values.text }}\"}\n")))
}

// A chart of a Helm repository, from a new version to objects. The index names archives on another host, which gets no credentials.
func TestHelmRepository(t *testing.T) {
	const user, password = "robot", "canary-helm-e2e-password-71"
	i := anyCluster(t)
	repo := newChartFolder(t, user, password)
	var leaked atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Store(true)
		}
		http.ServeFile(w, r, filepath.Join(repo.dir, filepath.Base(r.URL.Path)))
	}))
	t.Cleanup(elsewhere.Close)
	repo.add(t, elsewhere.URL+"/archives", "web", "1.0.0", packedChart(t, "web", "1.0.0"))
	ns := nameOf(t)
	i.namespace(t, ns)
	i.secret(t, ns, "charts", corev1.SecretTypeOpaque, map[string]string{"username": user, "password": password})
	a := i.source(t, "", v1alpha1.Source{Repo: repo.URL, Chart: "web", Ref: v1alpha1.Ref{Semver: "^1"}, SecretRef: &v1alpha1.LocalReference{Name: "charts"}},
		func(a *v1alpha1.Application) {
			a.Spec.Render = &v1alpha1.Render{Helm: &v1alpha1.Helm{Values: &apiextensionsv1.JSON{Raw: []byte(`{"text":"of the Application"}`)}}}
		})
	first := a.awaitCommit(t, sourcetest.Digest(packedFile(t, repo, "web-1.0.0.tgz")), v1alpha1.Applied)
	i.awaitConfigMap(t, ns, "web", "1.0.0 of the Application")
	if first.Status.ObservedVersion != "1.0.0" {
		t.Errorf("the version is %q", first.Status.ObservedVersion)
	}
	repo.add(t, "", "web", "1.1.0", packedChart(t, "web", "1.1.0"))
	repo.add(t, "", "web", "2.0.0", packedChart(t, "web", "2.0.0"))
	a.awaitCommit(t, sourcetest.Digest(packedFile(t, repo, "web-1.1.0.tgz")), v1alpha1.Applied)
	i.awaitConfigMap(t, ns, "web", "1.1.0 of the Application")
	i.must(t, "rollback", ns+"/"+a.name)
	i.awaitConfigMap(t, ns, "web", "1.0.0 of the Application")
	a.patch(t, `{"spec":{"source":{"ref":{"semver":null,"tag":"2.0.0"}}}}`)
	i.awaitConfigMap(t, ns, "web", "2.0.0 of the Application")
	a.patch(t, `{"spec":{"source":{"ref":{"tag":null,"digest":"`+first.Status.ObservedCommit+`"}}}}`)
	i.awaitConfigMap(t, ns, "web", "1.0.0 of the Application")
	if leaked.Load() {
		t.Error("the credentials came to another host")
	}
	if !onPlain {
		i.checkHidden(t, ns+"/"+a.name, password)
	}
}

func packedFile(t testing.TB, c *chartFolder, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A chart of a Git repository whose dependencies lie in a Helm repository, in a registry and in a folder beside it, and an overlay over a
// chart of the Helm repository. What a range was resolved to is told and stays until Chart.yaml changes.
func TestChartDependencies(t *testing.T) {
	i := anyCluster(t)
	repo := newChartFolder(t, "", "")
	repo.add(t, "", "cache", "1.2.3", packedChart(t, "cache", "1.2.3"))
	r := sourcetest.NewRegistry(t, nil)
	r.Push("charts/queue", nil, []sourcetest.Layer{{MediaType: "application/vnd.cncf.helm.chart.content.v1.tar+gzip", Content: packedChart(t, "queue", "0.3.0")}}, "0.3.0")
	manifest := func(comment string) string {
		return fmt.Sprintf("apiVersion: v2 # %s\nname: web\nversion: 1.0.0\ndependencies:\n- {name: cache, version: ^1, repository: %q}\n- {name: queue, version: 0.3.0, repository: %q}\n- {name: near, version: 0.1.0, repository: \"file://../near\"}\n",
			comment, repo.URL, r.Address("charts"))
	}
	g := newRepo(t, map[string]string{
		"web/Chart.yaml":  manifest("first"),
		"web/values.yaml": "cache: {text: from above}\n",
		"near/Chart.yaml": "apiVersion: v2\nname: near\nversion: 0.1.0\n", "near/values.yaml": "{}\n",
		"near/templates/c.yaml":      configMap("near", "k", "{{ .Chart.Version }}"),
		"overlay/kustomization.yaml": "namePrefix: over-\nhelmCharts:\n- {name: cache, repo: \"" + repo.URL + "\", version: 1.2.3, releaseName: x, valuesInline: {text: inline}}\n",
	})
	g.path = "web"
	a := i.follow(t, g)
	st := a.await(t).Status
	for name, want := range map[string]string{"cache": "1.2.3 from above", "queue": "0.3.0 own", "near": "0.1.0"} {
		i.awaitConfigMap(t, a.namespace, name, want)
	}
	if len(st.Charts) != 2 || st.Charts[0].Name != "cache" || st.Charts[0].Requested != "^1" || st.Charts[0].Version != "1.2.3" || st.Charts[1].Version != "0.3.0" {
		t.Errorf("the status says of charts: %+v", st.Charts)
	}
	if text := i.awaitEvent(t, a.namespace, "ChartFetched"); !strings.Contains(text, "web/Chart.yaml: chart ") {
		t.Errorf("the event says %q", text)
	}
	name := a.namespace + "/" + a.name
	if out := i.must(t, "render", name); !strings.Contains(out, "1.2.3 from above") {
		t.Errorf("gitopsd render:\n%s", out)
	}
	repo.add(t, "", "cache", "1.3.0", packedChart(t, "cache", "1.3.0"))
	g.commit(t, "a value", map[string]string{"web/values.yaml": "cache: {text: changed}\n"})
	a.await(t)
	i.awaitConfigMap(t, a.namespace, "cache", "1.2.3 changed")
	g.commit(t, "look again", map[string]string{"web/Chart.yaml": manifest("second")})
	a.await(t)
	i.awaitConfigMap(t, a.namespace, "cache", "1.3.0 changed")

	over := *g
	over.path = "overlay"
	b := i.source(t, "-over", v1alpha1.Source{Repo: g.dir, Path: "overlay", Ref: v1alpha1.Ref{Branch: "main"}})
	b.repo = &over
	b.await(t)
	i.awaitConfigMap(t, a.namespace, "over-cache", "1.2.3 inline")

	g.commit(t, "what nobody has", map[string]string{"web/Chart.yaml": strings.Replace(manifest("third"), "^1", "^7", 1)})
	eventually(t, 30*time.Second, "the missing version is told", func() error {
		st := a.get(t).Status
		if st.Phase != v1alpha1.Failed || !strings.Contains(st.Message, "web/Chart.yaml asks for chart cache") || !strings.Contains(st.Message, "^7") {
			return errPhase(st)
		}
		return nil
	})
	i.awaitConfigMap(t, a.namespace, "cache", "1.3.0 changed")
	repo.add(t, "", "cache", "7.0.0", packedChart(t, "cache", "7.0.0"))
	a.await(t) // it is looked for again by itself
	i.awaitConfigMap(t, a.namespace, "cache", "7.0.0 changed")
}

// A daemon that is killed comes back to what it ran from archives that nobody has any more: what runs is looked after, and a range is not
// resolved anew.
func TestArtifactsAfterARestart(t *testing.T) {
	i := shared(t)
	r := sourcetest.NewRegistry(t, nil)
	digest := pushFiles(t, r, "acme/web", []string{"latest"}, sourcetest.File("c.yaml", configMap("c", "k", "kept")))
	charts := newChartFolder(t, "", "")
	charts.add(t, "", "cache", "1.2.3", packedChart(t, "cache", "1.2.3"))
	a := i.source(t, "", v1alpha1.Source{Repo: r.Address("acme/web")})
	g := newRepo(t, map[string]string{"Chart.yaml": fmt.Sprintf("apiVersion: v2\nname: web\nversion: 1.0.0\ndependencies:\n- {name: cache, version: ^1, repository: %q}\n", charts.URL), "values.yaml": "{}\n"})
	b := i.source(t, "-chart", v1alpha1.Source{Repo: g.dir, Ref: v1alpha1.Ref{Branch: "main"}})
	b.repo = g
	a.awaitCommit(t, digest, v1alpha1.Applied)
	b.await(t)
	charts.add(t, "", "cache", "1.9.0", packedChart(t, "cache", "1.9.0"))
	r.Close()
	i.kill9(t)
	i.start(t)
	i.mustKubectl(t, "-n", a.namespace, "patch", "configmap", "c", "--type=merge", "-p", `{"data":{"k":"changed by hand"}}`)
	i.awaitConfigMap(t, a.namespace, "c", "kept")
	eventually(t, 30*time.Second, "the registry that is gone is told", func() error {
		if st := a.get(t).Status; st.Source == nil || st.ObservedCommit != digest {
			return fmt.Errorf("source %+v, seen %s", st.Source, st.ObservedCommit)
		}
		return nil
	})
	g.commit(t, "a value", map[string]string{"values.yaml": "cache: {text: after}\n"})
	b.await(t)
	i.awaitConfigMap(t, a.namespace, "cache", "1.2.3 after")
	if c := b.get(t).Status.Charts; len(c) != 1 || c[0].Version != "1.2.3" {
		t.Errorf("the status says of charts: %+v", c)
	}
}
