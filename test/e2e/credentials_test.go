package e2e

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/source/sourcetest"
	"golang.org/x/crypto/ssh/knownhosts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// up --repo with --git-credentials follows a private repository over HTTPS from a server whose certificate only the
// credentials trust; the password is in a Secret and nowhere else.
func TestRootWithCredentials(t *testing.T) {
	const password = "canary-root-password-58d1"
	manifest := func(value string) map[string]string {
		return map[string]string{"c.yaml": strings.Replace(configMap("c", "k", value), "name: c", "name: c, namespace: default", 1)}
	}
	r := newRepo(t, manifest("one"))
	server := newTLSGitServer(t, r, "deploy", password)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	file := filepath.Join(t.TempDir(), "git.yaml")
	writeFile(t, file, "username: deploy\npassword: "+password+"\ncaFile: |\n"+indent(string(ca), 2)+"\n")
	i := newInstance(t, nil, "--repo", server.repoURL(r), "--ref", "main", "--git-credentials", file)
	i.start(t)
	root := newApp(i, v1alpha1.RootNamespace, v1alpha1.RootName, r)
	root.await(t)
	i.awaitConfigMap(t, "default", "c", "one")
	if ref := root.get(t).Spec.Source.SecretRef; ref == nil {
		t.Error("the Application names no Secret")
	}
	r.commit(t, "two", manifest("two"))
	i.must(t, "sync", v1alpha1.RootNamespace+"/"+v1alpha1.RootName)
	i.awaitConfigMap(t, "default", "c", "two")
	basic := base64.StdEncoding.EncodeToString([]byte("deploy:" + password))
	i.checkHidden(t, v1alpha1.RootNamespace+"/"+v1alpha1.RootName, password, basic)
}

func (i *instance) awaitConfigMap(t testing.TB, namespace, name, value string) {
	t.Helper()
	eventually(t, 20*time.Second, "ConfigMap "+name+" holds "+value, func() error {
		m, err := i.kube.CoreV1().ConfigMaps(namespace).Get(ctx(t), name, metav1.GetOptions{})
		if err == nil && m.Data["k"] != value {
			err = fmt.Errorf("it holds %q", m.Data["k"])
		}
		return err
	})
}

// Wrong credentials are told as such, and never shown.
func TestWrongCredentials(t *testing.T) {
	i := anyCluster(t)
	r := newRepo(t, map[string]string{"c.yaml": configMap("c", "k", "one")})
	server := newGitServer(t, r, "git", "right")
	r2 := *r
	a := i.follow(t, &r2, func(app *v1alpha1.Application) {
		app.Spec.Source.Repo = strings.Replace(server.repoURL(r), "http://", "http://git:canary-wrong-password@", 1)
	})
	eventually(t, 30*time.Second, "refused credentials are told", func() error {
		st := a.get(t).Status
		if st.Phase != v1alpha1.Failed || st.Reason != "SourceUnavailable" {
			return errPhase(st)
		}
		return nil
	})
	if st := a.get(t).Status; strings.Contains(st.Message, "canary-wrong-password") {
		t.Errorf("the password is shown: %s", st.Message)
	}
	if strings.Contains(i.output(), "canary-wrong-password") {
		t.Error("the log holds the password")
	}
}

// Over SSH, with a key and known_hosts in a Secret: the first commit and the ones that polling finds are applied. A host
// whose key is not known, or is another one, is refused in words that name it and say what to do; the key is shown
// nowhere.
func TestSSH(t *testing.T) {
	i := shared(t)
	r := newRepo(t, map[string]string{"c.yaml": configMap("c", "k", "one")})
	public, key := sourcetest.NewKey(t)
	identity := string(key)
	host, _ := sourcetest.NewKey(t)
	server := sourcetest.NewSSHServer(t, filepath.Dir(r.dir), public.PublicKey())
	url := "ssh://git@" + server.Addr() + "/" + filepath.Base(r.dir)
	follow := func(t *testing.T, knownHosts string) *app {
		a := &app{i, nameOf(t), nameOf(t), r}
		i.namespace(t, a.namespace)
		i.secret(t, a.namespace, "git", corev1.SecretTypeOpaque, map[string]string{"identity": identity, "known_hosts": knownHosts})
		i.createApplication(t, a.from(url, "git"))
		t.Cleanup(func() {
			_ = i.dyn.Resource(appResource).Namespace(a.namespace).Delete(cleanupContext(), a.name, metav1.DeleteOptions{})
		})
		return a
	}
	t.Run("sync", func(t *testing.T) {
		a := follow(t, string(server.Known()))
		a.await(t)
		i.awaitConfigMap(t, a.namespace, "c", "one")
		r.commit(t, "two", map[string]string{"c.yaml": configMap("c", "k", "two")})
		a.await(t)
		i.awaitConfigMap(t, a.namespace, "c", "two")
		i.checkHidden(t, a.namespace+"/"+a.name, strings.Split(identity, "\n")[4]) // the line with the private half
	})
	name, port, _ := net.SplitHostPort(server.Addr())
	for what, c := range map[string]struct{ knownHosts, says string }{
		"unknown host":   {"", fmt.Sprintf("the host key of %q is not known", name)},
		"other host key": {knownhosts.Line([]string{knownhosts.Normalize(server.Addr())}, host.PublicKey()), fmt.Sprintf("the host key of %q is not the one in known_hosts", name)},
	} {
		t.Run(what, func(t *testing.T) {
			a := follow(t, c.knownHosts)
			a.awaitTrouble(t, c.says)
			if s := a.get(t).Status; !strings.Contains(s.Source.Message, "ssh-keyscan -p "+port+" "+name) || s.AppliedRevision != nil {
				t.Errorf("status: %+v", s)
			}
		})
	}
}

// from is the Application as it follows a repository elsewhere, with the credentials of a Secret, looking every second.
func (a *app) from(url, secret string) *v1alpha1.Application {
	return &v1alpha1.Application{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Application"},
		ObjectMeta: metav1.ObjectMeta{Namespace: a.namespace, Name: a.name},
		Spec: v1alpha1.ApplicationSpec{
			Source: v1alpha1.Source{Repo: url, Ref: v1alpha1.Ref{Branch: "main"}, Interval: &metav1.Duration{Duration: time.Second},
				SecretRef: &v1alpha1.LocalReference{Name: secret}},
			Destination: v1alpha1.Destination{Namespace: a.namespace}},
	}
}

func (i *instance) secret(t testing.TB, namespace, name string, kind corev1.SecretType, data map[string]string) {
	t.Helper()
	_, err := i.kube.CoreV1().Secrets(namespace).Create(ctx(t), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: kind, StringData: data}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}
