package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
)

// example makes a repository of one of examples/repos, with our registry and addresses.
func example(t testing.TB, name string, replace ...string) *repo {
	t.Helper()
	r := newRepo(t, nil)
	if err := os.CopyFS(r.dir, os.DirFS(filepath.Join("../../examples/repos", name))); err != nil {
		t.Fatal(err)
	}
	replacer := strings.NewReplacer(append([]string{"registry.local", images, "https://git.example.org/acme/platform", r.dir}, replace...)...)
	err := filepath.WalkDir(r.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".yaml") {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, []byte(replacer.Replace(string(b))), 0o644)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r.commit(t, name, nil)
	return r
}

// Every repository of examples/repos is deployed, and answers.
func TestExampleHello(t *testing.T) {
	i := shared(t)
	from, _ := i.nodePorts()
	i.follow(t, example(t, "hello", "nodePort: 30080", fmt.Sprintf("nodePort: %d", from+7)), cascade).await(t)
	answers(t, 10*time.Second, fmt.Sprintf("http://%s:%d/", nodeAddress(t), from+7), "Hello from a Git repository (version v1")
}

func cascade(a *v1alpha1.Application) { a.Spec.Sync.OnDelete = v1alpha1.Cascade }

func TestExampleKustomize(t *testing.T) {
	i := shared(t)
	r := example(t, "kustomize")
	for env, replicas := range map[string]int{"staging": 1, "production": 2} {
		t.Run(env, func(t *testing.T) {
			r := *r
			r.path = "overlays/" + env
			i.follow(t, &r, cascade).await(t)
			answers(t, 10*time.Second, "http://"+i.clusterIP(t, env, "web")+"/", "Hello from "+env)
			if n := len(i.pods(t, env)); n != replicas {
				t.Errorf("%d pods, want %d", n, replicas)
			}
		})
	}
}

func TestExampleOverlay(t *testing.T) {
	i := shared(t)
	r := example(t, "overlay")
	r.path = "production"
	i.follow(t, r, cascade).await(t)
	answers(t, 10*time.Second, "http://"+i.clusterIP(t, "shop", "web")+"/", "Hello from production")
	if n := len(i.pods(t, "shop")); n != 2 {
		t.Errorf("%d pods, want 2", n)
	}
}

func TestExampleHelm(t *testing.T) {
	i := shared(t)
	r := example(t, "helm")
	r.path = "charts/web"
	a := i.follow(t, r, func(a *v1alpha1.Application) {
		a.Spec.Render = &v1alpha1.Render{Helm: &v1alpha1.Helm{ReleaseName: "shop", ValuesFiles: []string{"values-production.yaml"}}}
	})
	a.await(t)
	answers(t, 10*time.Second, "http://"+i.clusterIP(t, a.namespace, "shop")+"/", "Hello from production")
	if n := len(i.pods(t, a.namespace)); n != 2 {
		t.Errorf("%d pods, want 2", n)
	}
	if out := i.must(t, "render", a.namespace+"/"+a.name); !strings.Contains(out, "message: \"Hello from production\"") || strings.Count(out, "---\n") != 3 {
		t.Errorf("gitopsd render:\n%s", out)
	}
	out, code := i.runIn(r.dir, "render", "--dir", "charts/web", "--release-name", "shop", "--values", "values-production.yaml", "-n", a.namespace)
	if code != 0 || out != i.must(t, "render", a.namespace+"/"+a.name) {
		t.Errorf("gitopsd render --dir: exit code %d\n%s", code, out)
	}
}

func TestExampleApplications(t *testing.T) {
	i := shared(t)
	r := example(t, "applications")
	r.path = "apps"
	a := i.follow(t, r, cascade)
	a.await(t)
	for _, name := range []string{"web", "worker"} {
		newApp(i, a.namespace, name, r).await(t)
		answers(t, 10*time.Second, "http://"+i.clusterIP(t, name, name)+"/", "Hello from "+name)
	}
}
