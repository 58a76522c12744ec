package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// signingKey makes an SSH key and returns its file and its public line.
func signingKey(t testing.TB, name string) (file, public string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), name)
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	line, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return file, string(line)
}

// sign makes the last commit one that this key has signed.
func (r *repo) sign(t testing.TB, key string) string {
	t.Helper()
	r.git(t, "-c", "gpg.format=ssh", "-c", "user.signingKey="+key, "commit", "-q", "--amend", "--no-edit", "--allow-empty", "-S")
	return r.head(t)
}

// holds waits until a ConfigMap has a value.
func (a *app) holds(t testing.TB, name, key, value string) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("ConfigMap %s: %s=%s", name, key, value), func() error {
		c, err := a.i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), name, metav1.GetOptions{})
		if err == nil && c.Data[key] != value {
			err = fmt.Errorf("it is %q", c.Data[key])
		}
		return err
	})
}

// A commit without a signature that counts is not rendered: what runs stays and is looked after, and the status says why. One with
// a signature is applied, and the status says whose; a key that is added later lets the commit in that waits for it.
func TestSignedCommits(t *testing.T) {
	i := anyCluster(t)
	ann, annPublic := signingKey(t, "ann")
	bob, bobPublic := signingKey(t, "bob")
	r := newRepo(t, map[string]string{"c.yaml": configMap("c", "k", "one")})
	r.sign(t, ann)
	name := nameOf(t)
	a := newApp(i, name, name, r)
	i.namespace(t, name)
	i.secret(t, name, "keys", corev1.SecretTypeOpaque, map[string]string{"ann.pub": annPublic})
	obj := a.object()
	obj.Spec.Source.Verify = &v1alpha1.Verify{SecretRef: v1alpha1.LocalReference{Name: "keys"}}
	i.createApplication(t, obj)
	t.Cleanup(func() {
		_ = i.dyn.Resource(appResource).Namespace(name).Delete(cleanupContext(), name, metav1.DeleteOptions{})
	})
	st := a.await(t).Status
	if st.Signature == nil || st.Signature.Commit != st.ObservedCommit || !strings.Contains(st.Signature.Signer, "(ann)") {
		t.Errorf("signature: %+v", st.Signature)
	}
	if out := i.must(t, "status", name+"/"+name); !strings.Contains(out, "signed    by SSH key SHA256:") {
		t.Errorf("status:\n%s", out)
	}

	refused := func(commit, says string) {
		t.Helper()
		st := a.awaitCommit(t, commit, v1alpha1.Failed).Status
		if st.Reason != "SignatureInvalid" || st.Signature != nil || !strings.Contains(st.Message, says) || !strings.Contains(st.Message, "Secret "+name+"/keys") {
			t.Errorf("reason %s, signature %+v: %s", st.Reason, st.Signature, st.Message)
		}
	}
	refused(r.commit(t, "not signed", map[string]string{"c.yaml": configMap("c", "k", "two")}), "it is not signed")
	refused(r.sign(t, bob), "none of the given keys")
	if out, code := i.run("plan", name+"/"+name, "--rev", r.head(t)); code == 0 || !strings.Contains(out, "none of the given keys") {
		t.Errorf("plan: exit code %d\n%s", code, out)
	}
	_, err := i.kube.CoreV1().ConfigMaps(name).Patch(ctx(t), "c", types.MergePatchType, []byte(`{"data":{"k":"by hand"}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a.holds(t, "c", "k", "one") // what runs is looked after

	_, err = i.kube.CoreV1().Secrets(name).Patch(ctx(t), "keys", types.MergePatchType, fmt.Appendf(nil, `{"stringData":{"bob.pub":%q}}`, bobPublic), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	st = a.await(t).Status
	a.holds(t, "c", "k", "two")
	if st.Signature == nil || !strings.Contains(st.Signature.Signer, "(bob)") {
		t.Errorf("signature: %+v", st.Signature)
	}
}

// An Application follows the highest tag of a range; submodules are read where they are asked for.
func TestVersionsAndSubmodules(t *testing.T) {
	i := anyCluster(t)
	root := t.TempDir()
	lib, super := &repo{dir: filepath.Join(root, "lib")}, &repo{dir: filepath.Join(root, "super")}
	for _, r := range []*repo{lib, super} {
		if err := os.MkdirAll(r.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		r.git(t, "init", "-q", "-b", "main", ".")
	}
	pin := func(commit string) {
		super.git(t, "update-index", "--add", "--cacheinfo", "160000,"+commit+",vendor/lib")
		super.git(t, "commit", "-q", "-m", "pin")
	}
	one := lib.commit(t, "one", map[string]string{"base/kustomization.yaml": "resources: [c.yaml]\n", "base/c.yaml": configMap("c", "k", "one")})
	super.commit(t, "start", map[string]string{
		".gitmodules":            "[submodule \"lib\"]\n\tpath = vendor/lib\n\turl = ../lib\n",
		"app/kustomization.yaml": "resources: [../vendor/lib/base]\n",
	})
	pin(one)
	super.git(t, "tag", "v1.0.0")
	server := newGitServer(t, super, "git", "canary-git-password")
	name := nameOf(t)
	a := newApp(i, name, name, super)
	i.namespace(t, name)
	i.secret(t, name, "git", corev1.SecretTypeOpaque, map[string]string{"username": "git", "password": "canary-git-password"})
	obj := a.object()
	obj.Spec.Source = v1alpha1.Source{Repo: server.repoURL(super), Path: "app", Ref: v1alpha1.Ref{Semver: "^1.0.0"}, Submodules: true,
		Interval: &metav1.Duration{Duration: time.Second}, SecretRef: &v1alpha1.LocalReference{Name: "git"}}
	i.createApplication(t, obj)
	t.Cleanup(func() {
		_ = i.dyn.Resource(appResource).Namespace(name).Delete(cleanupContext(), name, metav1.DeleteOptions{})
	})
	a.await(t)
	a.holds(t, "c", "k", "one")

	pin(lib.commit(t, "two", map[string]string{"base/c.yaml": configMap("c", "k", "two")}))
	super.git(t, "tag", "v2.0.0-rc.1")
	super.git(t, "tag", "-a", "-m", "x", "1.1.0")
	a.await(t)
	a.holds(t, "c", "k", "two")

	a.patch(t, `{"spec":{"source":{"ref":{"semver":"3.x"}}}}`)
	eventually(t, 30*time.Second, "the status says what tags there are", func() error {
		trouble := a.get(t).Status.Source
		if trouble == nil || !strings.Contains(trouble.Message, `no tag is in the range "3.x"; the highest are "1.1.0", "v1.0.0"`) {
			return fmt.Errorf("source: %+v", trouble)
		}
		return nil
	})
	if out, code := i.kubectl("-n", name, "patch", "application", name, "--type=merge", "-p", `{"spec":{"source":{"ref":{"branch":"main"}}}}`); code == 0 {
		t.Errorf("a range and a branch: %s", out)
	}
}

// A tenant's Application cannot read folders of the machine unless the instance was told so; one of gitopsd's own namespace can.
func TestFileSourcesOfTenants(t *testing.T) {
	root := newRepo(t, map[string]string{"root.yaml": configMap("of-root", "k", "v")})
	i := newInstance(t, root)
	allowed := func() []string { return append([]string{"server"}, i.up()[1:]...) }
	i.args = func() []string {
		var out []string
		for _, arg := range allowed() {
			if arg != "--allow-file-sources" {
				out = append(out, arg)
			}
		}
		return out
	}
	i.start(t)
	a := i.deploy(t, map[string]string{"c.yaml": configMap("c", "k", "v")})
	eventually(t, 30*time.Second, "it is refused", func() error {
		st := a.get(t).Status
		if st.Reason != "SourceRefused" || !strings.Contains(st.Message, "--allow-file-sources") || !strings.Contains(st.Message, a.repo.dir) {
			return fmt.Errorf("%s %s: %s", st.Phase, st.Reason, st.Message)
		}
		return nil
	})
	newApp(i, "gitopsd", "root", root).awaitCommit(t, root.head(t), v1alpha1.Applied)
	if st := a.get(t).Status; st.AppliedRevision != nil || st.ObservedCommit != "" {
		t.Errorf("it was read: %+v", st)
	}
	i.stop(t)
	i.args = allowed
	i.start(t)
	a.await(t)
}
