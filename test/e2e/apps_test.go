package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

var appResource = v1alpha1.GroupVersion.WithResource("applications")

// app is an Application of a test, in a namespace of its own name.
type app struct {
	i         *instance
	namespace string
	name      string
	repo      *repo
}

// deploy makes a namespace, a repository with these files and an Application that follows it there.
func (i *instance) deploy(t testing.TB, files map[string]string, change ...func(*v1alpha1.Application)) *app {
	t.Helper()
	return i.follow(t, newRepo(t, files), change...)
}

// follow makes a namespace and an Application that follows a repository there.
func (i *instance) follow(t testing.TB, r *repo, change ...func(*v1alpha1.Application)) *app {
	t.Helper()
	name := nameOf(t)
	a := &app{i, name, name, r}
	i.namespace(t, name)
	obj := a.object()
	for _, c := range change {
		c(obj)
	}
	i.createApplication(t, obj)
	t.Cleanup(func() {
		_ = i.dyn.Resource(appResource).Namespace(name).Delete(cleanupContext(), name, metav1.DeleteOptions{})
	})
	return a
}

// object is the Application as a person would write it.
func (a *app) object() *v1alpha1.Application {
	return &v1alpha1.Application{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Application"},
		ObjectMeta: metav1.ObjectMeta{Namespace: a.namespace, Name: a.name},
		Spec: v1alpha1.ApplicationSpec{Source: v1alpha1.Source{Repo: a.repo.dir, Path: a.repo.path, Ref: v1alpha1.Ref{Branch: "main"}},
			Destination: v1alpha1.Destination{Namespace: a.namespace}},
	}
}

func (i *instance) createApplication(t testing.TB, obj *v1alpha1.Application) {
	t.Helper()
	raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "make the Application", func() error {
		_, err := i.dyn.Resource(appResource).Namespace(obj.Namespace).Create(ctx(t), &unstructured.Unstructured{Object: raw}, metav1.CreateOptions{})
		return err
	})
}

// namespace makes a namespace that goes with the test.
func (i *instance) namespace(t testing.TB, name string) {
	t.Helper()
	_, err := i.kube.CoreV1().Namespaces().Create(ctx(t), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.kube.CoreV1().Namespaces().Delete(cleanupContext(), name, metav1.DeleteOptions{}) })
	eventually(t, 60*time.Second, "the default service account", func() error { // a cluster that has just begun takes its time
		_, err := i.kube.CoreV1().ServiceAccounts(name).Get(ctx(t), "default", metav1.GetOptions{})
		return err
	})
}

// nameOf makes a namespace of a test's name.
func nameOf(t testing.TB) string {
	name := strings.ToLower(strings.TrimPrefix(t.Name(), "Test"))
	name = strings.Map(func(r rune) rune {
		if (r >= 'a' && r <= 'z') || (r >= '0' && r <= '9') {
			return r
		}
		return '-'
	}, name)
	return strings.Trim(name[:min(len(name), 50)], "-")
}

func (i *instance) application(t testing.TB, namespace, name string) (*v1alpha1.Application, error) {
	u, err := i.dyn.Resource(appResource).Namespace(namespace).Get(ctx(t), name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	out := &v1alpha1.Application{}
	return out, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out)
}

func (a *app) get(t testing.TB) *v1alpha1.Application {
	t.Helper()
	out, err := a.i.application(t, a.namespace, a.name)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// await waits until the Application has applied the repository's head and is healthy.
func (a *app) await(t testing.TB) *v1alpha1.Application {
	t.Helper()
	return a.awaitCommit(t, a.repo.head(t), v1alpha1.Applied)
}

// awaitCommit waits until a commit was seen and the Application is in a phase; Applied means with that commit.
func (a *app) awaitCommit(t testing.TB, commit string, phase v1alpha1.Phase) *v1alpha1.Application {
	t.Helper()
	var last *v1alpha1.Application
	eventually(t, 90*time.Second, fmt.Sprintf("%s is %s at %.8s", a.name, phase, commit), func() error {
		got, err := a.i.application(t, a.namespace, a.name)
		if err != nil {
			return err
		}
		last = got
		st := got.Status
		if st.ObservedCommit != commit || st.Phase != phase || (phase == v1alpha1.Applied && (st.AppliedRevision == nil || st.AppliedRevision.Commit != commit)) {
			return fmt.Errorf("phase %s, seen %.8s, %s: %s", st.Phase, st.ObservedCommit, st.Reason, st.Message)
		}
		return nil
	})
	return last
}

// patch changes the Application by a JSON merge patch.
func (a *app) patch(t testing.TB, merge string) {
	t.Helper()
	a.i.mustKubectl(t, "-n", a.namespace, "patch", "application", a.name, "--type=merge", "-p", merge)
}

// pods of the namespace that are not on their way out.
func (i *instance) pods(t testing.TB, namespace string) []corev1.Pod {
	t.Helper()
	list, err := i.kube.CoreV1().Pods(namespace).List(ctx(t), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out []corev1.Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			out = append(out, p)
		}
	}
	return out
}

// httpClient makes a connection for every request, so that an answer tells of now.
var httpClient = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// fetch returns the body of an answer with status 200.
func fetch(url string) (string, error) {
	resp, err := httpClient.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}

// answers waits until a URL answers with a text in it.
func answers(t testing.TB, within time.Duration, url, want string) {
	t.Helper()
	eventually(t, within, url+" answers "+want, func() error { return answer(url, want) })
}

func answer(url, want string) error {
	body, err := fetch(url)
	if err != nil {
		return err
	}
	if !strings.Contains(body, want) {
		return fmt.Errorf("it answers %q", body)
	}
	return nil
}

// auditEntry is one line of the API's audit log.
type auditEntry struct {
	Verb, RequestURI string
	User             struct{ Username string }
	ImpersonatedUser struct{ Username string }
	ResponseStatus   struct{ Code int }
	ObjectRef        struct{ Resource, Namespace, Name, Subresource string }
}

var errNoAudit = errors.New("no line in the audit log")

func parseAudit(lines []byte) ([]auditEntry, error) {
	var out []auditEntry
	for _, line := range strings.Split(strings.TrimSpace(string(lines)), "\n") {
		if line == "" {
			continue
		}
		var e auditEntry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return nil, fmt.Errorf("audit line %q: %w", line, err)
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		return nil, errNoAudit
	}
	return out, nil
}

func errPhase(st v1alpha1.ApplicationStatus) error {
	return fmt.Errorf("phase %s, %s: %s", st.Phase, st.Reason, st.Message)
}
