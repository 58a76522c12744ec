package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/test/github"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const perFolder = `apiVersion: gitopsd.io/v1alpha1
kind: ApplicationSet
metadata: {name: folders, namespace: %[1]s}
spec:
  generators:
  - directories: {repo: %[2]s, ref: {branch: main}, interval: 1s, paths: [{path: "apps/*"}]}
  template:
    metadata: {name: "%[1]s-{{ .path.basenameNormalized }}"}
    spec:
      source: {repo: %[2]s, ref: {branch: main}, path: "{{ .path.path }}", interval: 1s}
      destination: {namespace: %[1]s}
      sync: {onDelete: Cascade}
`

// awaitApps waits until the namespace has these Applications, applied, and no others.
func (i *instance) awaitApps(t testing.TB, namespace string, want ...string) {
	t.Helper()
	eventually(t, 60*time.Second, fmt.Sprintf("the Applications are %v", want), func() error {
		list, err := i.dyn.Resource(appResource).Namespace(namespace).List(ctx(t), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var got []string
		for _, u := range list.Items {
			got = append(got, u.GetName())
			app, err := i.application(t, namespace, u.GetName())
			if err != nil {
				return err
			}
			if app.Status.Phase != v1alpha1.Applied {
				return errPhase(app.Status)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			set, _ := i.kubectl("get", "appset", "-n", namespace, "-o", "jsonpath={.items[*].status.message}")
			return fmt.Errorf("there are %v; %s", got, set)
		}
		return nil
	})
}

// One Application for each folder: a folder that comes makes one, one that goes takes its own along, and many that go at once wait for a person.
func TestApplicationSetOfFolders(t *testing.T) {
	i := anyCluster(t)
	name := nameOf(t)
	i.namespace(t, name)
	r := newRepo(t, map[string]string{"apps/web/c.yaml": configMap("web", "k", "v"), "apps/api/c.yaml": configMap("api", "k", "v"), "other/c.yaml": configMap("other", "k", "v")})
	manifest := fmt.Sprintf(perFolder, name, r.dir)
	file := filepath.Join(t.TempDir(), "set.yaml")
	writeFile(t, file, manifest)
	if out, code := i.run("generate", "-f", file); code != 2 || !strings.Contains(out, "+ Application.gitopsd.io "+name+"/"+name+"-web") && !strings.Contains(out, name+"-web") || !strings.Contains(out, "2 to create") {
		t.Errorf("generate -f: exit code %d\n%s", code, out)
	}
	i.apply(t, name, manifest)
	i.awaitApps(t, name, name+"-api", name+"-web")
	checkMaps(t, i, name, map[string]string{"api": "v", "web": "v"})
	if out, code := i.run("generate", name+"/folders"); code != 0 {
		t.Errorf("generate: exit code %d\n%s", code, out)
	}
	files := map[string]string{"apps/api/c.yaml": ""}
	for n := range 6 {
		files[fmt.Sprintf("apps/m%d/c.yaml", n)] = configMap(fmt.Sprint("m", n), "k", "v")
	}
	r.commit(t, "one goes, six come", files)
	want := []string{}
	for n := range 6 {
		want = append(want, fmt.Sprintf("%s-m%d", name, n))
	}
	i.awaitApps(t, name, append(want, name+"-web")...)
	for f := range files {
		files[f] = ""
	}
	delete(files, "apps/api/c.yaml")
	r.commit(t, "six go", files)
	message := func() string {
		out, _ := i.kubectl("get", "appset/folders", "-n", name, "-o", "jsonpath={.status.reason} {.status.message}")
		return out
	}
	eventually(t, 30*time.Second, "six are withheld", func() error {
		if m := message(); !strings.HasPrefix(m, "DeletionWithheld 6 Applications are no longer asked for") {
			return fmt.Errorf("%s", m)
		}
		return nil
	})
	if out, code := i.run("generate", name+"/folders"); code != 0 || !strings.Contains(out, "6 Applications would be deleted") {
		t.Errorf("generate: exit code %d\n%s", code, out)
	}
	i.mustKubectl(t, "patch", "appset/folders", "-n", name, "--type=merge", "-p", `{"spec":{"deleteLimit":"100%"}}`)
	i.awaitApps(t, name, name+"-web")
	i.mustKubectl(t, "patch", "appset/folders", "-n", name, "--type=merge", "-p", `{"spec":{"template":{"metadata":{"name":"{{ .nothing }}"}}}}`)
	eventually(t, 30*time.Second, "the fault is told", func() error {
		if m := message(); !strings.Contains(m, `TemplateFailed spec.template.metadata.name uses the parameter "nothing", which is not among those of this set: path`) {
			return fmt.Errorf("%s", m)
		}
		return nil
	})
	i.awaitApps(t, name, name+"-web")
	i.mustKubectl(t, "delete", "appset/folders", "-n", name)
	eventually(t, 60*time.Second, "the Applications go with their set", func() error {
		if _, err := i.application(t, name, name+"-web"); !apierrors.IsNotFound(err) {
			return fmt.Errorf("web: %v", err)
		}
		return nil
	})
}

// Lists, files, branches and clusters give parameters too; a repository that cannot be read deletes nothing.
func TestApplicationSetGenerators(t *testing.T) {
	i := anyCluster(t)
	name := nameOf(t)
	i.namespace(t, name)
	r := newRepo(t, map[string]string{"app/c.yaml": configMap("c", "k", "v"), "config/a.json": `{"team": "blue"}`, "config/b.yaml": "team: green\n"})
	r.git(t, "branch", "preview/One")
	i.apply(t, name, fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: here, namespace: %s, labels: {gitopsd.io/cluster: \"\", stage: prod}}\n", name))
	set := fmt.Sprintf(`apiVersion: gitopsd.io/v1alpha1
kind: ApplicationSet
metadata: {name: all, namespace: %[1]s}
spec:
  generators:
  - list: {elements: [{name: listed}]}
  - files: {repo: %[2]s, ref: {branch: main}, interval: 1s, paths: [{path: config/*}]}
  - branches: {repo: %[2]s, match: "preview/.*", interval: 1s}
  - clusters: {selector: {matchLabels: {stage: prod}}}
  template:
    metadata: {name: '{{ with index . "team" }}{{ . }}{{ else }}{{ with index . "branchNormalized" }}{{ . }}{{ else }}{{ .name }}{{ end }}{{ end }}'}
    spec: {source: {repo: %[2]s, path: app, ref: {branch: main}, interval: 1s}, destination: {namespace: %[1]s}, sync: {suspend: true}}
`, name, r.dir)
	i.apply(t, name, set)
	there := func(want ...string) func() error {
		return func() error {
			list, err := i.dyn.Resource(appResource).Namespace(name).List(ctx(t), metav1.ListOptions{})
			var got []string
			for _, u := range list.Items {
				got = append(got, u.GetName())
			}
			slices.Sort(got)
			if err == nil && !slices.Equal(got, want) {
				out, _ := i.kubectl("get", "appset/all", "-n", name, "-o", "jsonpath={.status.message}")
				err = fmt.Errorf("there are %v; %s", got, out)
			}
			return err
		}
	}
	eventually(t, 60*time.Second, "one of each is there", there("blue", "green", "here", "listed", "preview-one"))
	r.git(t, "branch", "-D", "preview/One")
	eventually(t, 30*time.Second, "the branch's is gone", there("blue", "green", "here", "listed"))
	if err := os.Rename(r.dir, r.dir+"-away"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the set says that it cannot read", func() error {
		out, _ := i.kubectl("get", "appset/all", "-n", name, "-o", "jsonpath={.status.reason}")
		if out != "GeneratorFailed" {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	if err := there("blue", "green", "here", "listed")(); err != nil {
		t.Error(err)
	}
	if err := os.Rename(r.dir+"-away", r.dir); err != nil {
		t.Fatal(err)
	}
}

// One Application for each open pull request that has the label, at its commit; it goes when the pull request is closed.
func TestApplicationSetOfPullRequests(t *testing.T) {
	const token = "canary-pulls-token-51fe"
	i := anyCluster(t)
	name := nameOf(t)
	i.namespace(t, name)
	i.secret(t, name, "forge", corev1.SecretTypeOpaque, map[string]string{"token": token})
	r := newRepo(t, map[string]string{"c.yaml": configMap("c", "k", "main")})
	r.git(t, "checkout", "-q", "-b", "feature/One")
	commit := r.commit(t, "one", map[string]string{"c.yaml": configMap("c", "k", "one")})
	r.git(t, "checkout", "-q", "main")

	api := github.New(t)
	open := atomic.Bool{}
	open.Store(true)
	api.Handle(http.MethodGet, "/repos/{owner}/{repo}/pulls", func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "Bearer "+token || req.PathValue("owner") != "acme" || req.PathValue("repo") != "infra" {
			t.Errorf("asked for %s with %q", req.URL, req.Header.Get("Authorization"))
		}
		example := func() map[string]any {
			pull := api.Example(http.MethodGet, "/repos/{owner}/{repo}/pulls", http.StatusOK)
			pull["requested_teams"] = []any{} // of which the example lacks what the description asks for
			return pull
		}
		labelled, other := example(), example()
		labelled["number"] = 7
		labelled["head"].(map[string]any)["ref"], labelled["head"].(map[string]any)["sha"] = "feature/One", commit
		labelled["labels"].([]any)[0].(map[string]any)["name"] = "preview"
		pulls := []any{other}
		if open.Load() {
			pulls = append(pulls, labelled)
		}
		github.Answer(w, http.StatusOK, pulls)
	})
	i.apply(t, name, fmt.Sprintf(`apiVersion: gitopsd.io/v1alpha1
kind: ApplicationSet
metadata: {name: previews, namespace: %[1]s}
spec:
  generators:
  - pullRequests: {url: %[2]s, owner: acme, repo: infra, labels: [preview], interval: 10s, secretRef: {name: forge}}
  template:
    metadata: {name: "pr-{{ .number }}", annotations: {branch: "{{ .branch }}"}}
    spec: {source: {repo: %[3]s, ref: {commit: "{{ .sha }}"}}, destination: {namespace: %[1]s}, sync: {onDelete: Cascade}}
`, name, api.URL, r.dir))
	i.awaitApps(t, name, "pr-7")
	checkMaps(t, i, name, map[string]string{"c": "one"})
	open.Store(false)
	i.awaitApps(t, name)
	eventually(t, 20*time.Second, "what the preview made is gone", func() error {
		_, err := i.kube.CoreV1().ConfigMaps(name).Get(ctx(t), "c", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("c: %v", err)
		}
		return nil
	})
}
