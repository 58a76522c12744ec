package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// diceTemplate is of a chart that gives another Secret each time it is rendered.
const diceTemplate = `apiVersion: v1
kind: Secret
metadata: {name: dice, annotations: {is: "{{ if .Release.IsUpgrade }}upgrade{{ else }}install{{ end }} {{ .Release.Revision }}"}}
stringData: {thrown: {{ randAlphaNum 30 }}, mark: "{{ .Values.mark }}"}
`

func jsonValues(text string) *apiextensionsv1.JSON { return &apiextensionsv1.JSON{Raw: []byte(text)} }

func (a *app) secret(t testing.TB, name string) *corev1.Secret {
	t.Helper()
	s, err := a.i.kube.CoreV1().Secrets(a.namespace).Get(ctx(t), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// awaitData waits until a ConfigMap has a value.
func (a *app) awaitData(t testing.TB, name, key, want string) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("ConfigMap %s has %s: %s", name, key, want), func() error {
		m, err := a.i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), name, metav1.GetOptions{})
		if err == nil && m.Data[key] != want {
			err = fmt.Errorf("it is %q; %w", m.Data[key], errPhase(a.get(t).Status))
		}
		return err
	})
}

// A chart that gives something else each time makes one revision for each commit that concerns it: not one for each restart, and
// none for the commits of others. Install and upgrade are told apart.
func TestRenderedOnce(t *testing.T) {
	i := shared(t)
	a := i.deploy(t, map[string]string{"chart/Chart.yaml": chartYAML, "chart/values.yaml": "mark: one\n", "chart/templates/s.yaml": diceTemplate},
		func(app *v1alpha1.Application) { app.Spec.Source.Path = "chart" })
	applied := a.await(t).Status.AppliedRevision
	first := a.secret(t, "dice")
	if is := first.Annotations["is"]; is != "install 1" || applied.Number != 1 {
		t.Errorf("the first revision is %q, number %d", is, applied.Number)
	}
	same := func(what string) {
		t.Helper()
		now := a.secret(t, "dice")
		if string(now.Data["thrown"]) != string(first.Data["thrown"]) || now.ResourceVersion != first.ResourceVersion {
			t.Errorf("%s: the Secret was written again", what)
		}
		if got := a.get(t).Status.AppliedRevision; got.Digest != applied.Digest {
			t.Errorf("%s: another revision", what)
		}
	}
	commit := a.repo.commit(t, "of others", map[string]string{"other/readme": "x"})
	a.repo.commit(t, "again", map[string]string{"other/readme": "y"})
	i.kill9(t)
	a.repo.commit(t, "while it is down", map[string]string{"other/readme": "z"})
	i.start(t)
	eventually(t, time.Minute, "the newest commit was looked at", func() error {
		if st := a.get(t).Status; st.ObservedCommit != a.repo.head(t) || st.Phase != v1alpha1.Applied {
			return errPhase(st)
		}
		return nil
	})
	same("after a restart")
	body, _ := get(t, i, i.adminTransport(t), "/metrics")
	if !strings.Contains(body, "\ngitopsd_render_cache_misses_total 0\n") || strings.Contains(body, "\ngitopsd_render_cache_hits_total 0\n") {
		t.Errorf("a restart rendered again: %v", regexp.MustCompile(`(?m)^gitopsd_render_cache.*$`).FindAllString(body, -1))
	}
	if commit == a.repo.head(t) {
		t.Fatal("the commits are one")
	}
	if out, code := i.run("plan", a.namespace+"/"+a.name); code != 0 {
		t.Errorf("a plan of what is applied has changes: exit code %d\n%s", code, out)
	}
	a.repo.commit(t, "of the chart", map[string]string{"chart/values.yaml": "mark: two\n"})
	st := a.await(t).Status
	second := a.secret(t, "dice")
	if is := second.Annotations["is"]; is != "upgrade 2" || st.AppliedRevision.Number != 2 || string(second.Data["thrown"]) == string(first.Data["thrown"]) {
		t.Errorf("the second revision is %q, number %d", is, st.AppliedRevision.Number)
	}
	i.kill9(t)
	i.start(t)
	first, applied = second, st.AppliedRevision
	a.repo.commit(t, "of others", map[string]string{"other/readme": "w"})
	eventually(t, time.Minute, "the newest commit was looked at", func() error {
		if st := a.get(t).Status; st.ObservedCommit != a.repo.head(t) || st.Phase != v1alpha1.Applied {
			return errPhase(st)
		}
		return nil
	})
	same("of an upgrade, after a restart")
}

// Values come from files, ConfigMaps and Secrets, and the Application, the later over the earlier; a change of theirs is synced,
// and what is missing keeps what runs.
func TestValuesFrom(t *testing.T) {
	i := anyCluster(t)
	const template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: out}\ndata:\n{{- range $k, $v := .Values.v }}\n  {{ $k }}: {{ $v | quote }}\n{{- end }}\n"
	r := newRepo(t, map[string]string{"Chart.yaml": chartYAML, "values.yaml": "v: {a: chart, b: chart, c: chart, d: chart, e: chart}\n",
		"more.yaml": "v: {b: file, c: file, d: file, e: file}\n", "templates/m.yaml": template})
	a := i.follow(t, r, func(app *v1alpha1.Application) {
		app.Spec.Render = &v1alpha1.Render{Helm: &v1alpha1.Helm{ValuesFiles: []string{"more.yaml", "absent.yaml"}, IgnoreMissingValuesFiles: true, ValuesFrom: []v1alpha1.ValuesReference{
			{Kind: "ConfigMap", Name: "settings"}, {Kind: "Secret", Name: "secrets", Key: "token", TargetPath: "v.d"}, {Kind: "ConfigMap", Name: "never", Optional: true}},
			Values: jsonValues(`{"v": {"e": "inline"}}`)}}
	})
	eventually(t, 30*time.Second, "what is missing is told", func() error {
		if st := a.get(t).Status; !strings.Contains(st.Message, "there is no ConfigMap settings in namespace "+a.namespace) {
			return errPhase(st)
		}
		return nil
	})
	if _, err := i.kube.CoreV1().ConfigMaps(a.namespace).Create(ctx(t), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"},
		Data: map[string]string{"values.yaml": "v: {c: map, d: map, e: map}\n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := i.kube.CoreV1().Secrets(a.namespace).Create(ctx(t), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "secrets"},
		StringData: map[string]string{"token": "se,cret=x"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"a": "chart", "b": "file", "c": "map", "d": "se,cret=x", "e": "inline"} {
		a.awaitData(t, "out", key, want)
	}
	if _, err := i.kube.CoreV1().ConfigMaps(a.namespace).Update(ctx(t), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings", Namespace: a.namespace},
		Data: map[string]string{"values.yaml": "v: {c: changed}\n"}}, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	a.awaitData(t, "out", "c", "changed")
	a.awaitData(t, "out", "e", "inline")
	if err := i.kube.CoreV1().Secrets(a.namespace).Delete(ctx(t), "secrets", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "what went is told", func() error {
		if st := a.get(t).Status; !strings.Contains(st.Message, "there is no Secret secrets in namespace "+a.namespace) {
			return errPhase(st)
		}
		return nil
	})
	a.awaitData(t, "out", "d", "se,cret=x") // what runs is kept
}

// lookup answers with the rights of the Application: another namespace's Secret is refused as RBAC says, and told to nobody.
func TestLookup(t *testing.T) {
	i := anyCluster(t)
	other := nameOf(t) + "-other"
	i.namespace(t, other)
	const secret = "canary-of-another-tenant"
	if _, err := i.kube.CoreV1().Secrets(other).Create(ctx(t), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}, StringData: map[string]string{"k": secret}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const own = `{{ $s := lookup "v1" "Secret" .Release.Namespace "own" }}apiVersion: v1
kind: Secret
metadata: {name: own}
data: {k: {{ if $s }}{{ $s.data.k }}{{ else }}{{ randAlphaNum 20 | b64enc }}{{ end }}, mark: "{{ .Values.mark | b64enc }}"}
`
	r := newRepo(t, map[string]string{"Chart.yaml": chartYAML, "values.yaml": "mark: one\n", "templates/own.yaml": own})
	a := i.follow(t, r, func(app *v1alpha1.Application) { app.Spec.Destination.ServiceAccountName = "deployer" })
	i.mustKubectl(t, "-n", a.namespace, "create", "serviceaccount", "deployer")
	i.mustKubectl(t, "-n", a.namespace, "create", "rolebinding", "deployer", "--clusterrole=admin", "--serviceaccount="+a.namespace+":deployer")
	a.await(t)
	first := string(a.secret(t, "own").Data["k"])
	r.commit(t, "another mark", map[string]string{"values.yaml": "mark: two\n"})
	a.await(t)
	if s := a.secret(t, "own"); string(s.Data["k"]) != first || string(s.Data["mark"]) != "two" || first == "" {
		t.Errorf("the chart did not find its own Secret again: %q, then %q", first, s.Data["k"])
	}
	r.commit(t, "an attack", map[string]string{"templates/theirs.yaml": fmt.Sprintf(
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: loot}\ndata: {k: {{ (lookup \"v1\" \"Secret\" %q \"theirs\").data.k }}}\n", other)})
	eventually(t, 30*time.Second, "it is refused", func() error {
		st := a.get(t).Status
		if !strings.Contains(st.Message, "forbidden") || !strings.Contains(st.Message, "lookup v1 Secret "+other+" theirs") {
			return errPhase(st)
		}
		return nil
	})
	if _, err := i.kube.CoreV1().ConfigMaps(a.namespace).Get(ctx(t), "loot", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the loot is there: %v", err)
	}
	if strings.Contains(i.output(), secret) {
		t.Error("the log tells the Secret")
	}
}

// helmProgram is helm itself, built from its module.
var helmProgram = sync.OnceValues(func() (string, error) {
	name := filepath.Join(raceDir, "helm")
	cmd := exec.Command("go", "build", "-o", name, "helm.sh/helm/v3/cmd/helm")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build helm: %w: %s", err, out)
	}
	return name, nil
})

func (a *app) helm(t testing.TB, args ...string) string {
	t.Helper()
	program, err := helmProgram()
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	cfg := clientcmdapi.NewConfig()
	c := a.i.config
	cfg.Clusters["it"] = &clientcmdapi.Cluster{Server: c.Host, CertificateAuthority: c.CAFile, CertificateAuthorityData: c.CAData}
	cfg.AuthInfos["admin"] = &clientcmdapi.AuthInfo{ClientCertificate: c.CertFile, ClientCertificateData: c.CertData, ClientKey: c.KeyFile, ClientKeyData: c.KeyData, Token: c.BearerToken}
	cfg.Contexts["it"] = &clientcmdapi.Context{Cluster: "it", AuthInfo: "admin"}
	cfg.CurrentContext = "it"
	if err := clientcmd.WriteToFile(*cfg, kubeconfig); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, append([]string{"--kubeconfig", kubeconfig, "-n", a.namespace}, args...)...)
	cmd.Env = []string{"HOME=" + t.TempDir()}
	out, code := output(cmd)
	if code != 0 {
		t.Fatalf("helm %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// What lookup and .Capabilities give is what Helm itself gets from the same API: the manifests have the same bytes.
func TestLookupAsHelm(t *testing.T) {
	i := anyCluster(t)
	const template = `{{ $one := lookup "v1" "ConfigMap" .Release.Namespace "settings" }}apiVersion: v1
kind: ConfigMap
metadata:
  name: found
data:
  one: {{ $one | toJson | quote }}
  none: {{ lookup "v1" "ConfigMap" .Release.Namespace "absent" | toJson | quote }}
  list: {{ (lookup "v1" "ConfigMap" .Release.Namespace "").items | len | quote }}
  namespace: {{ (lookup "v1" "Namespace" "" .Release.Namespace).metadata.uid | quote }}
  wrongly: {{ (lookup "v1" "Namespace" "default" .Release.Namespace).metadata.uid | quote }}
  kube: v{{ .Capabilities.KubeVersion.Major }}.{{ .Capabilities.KubeVersion.Minor }}
  has: {{ .Capabilities.APIVersions.Has "gitopsd.io/v1alpha1/Application" }} {{ .Capabilities.APIVersions.Has "apps/v1" }} {{ .Capabilities.APIVersions.Has "x/v1" }}
  versions: {{ .Capabilities.APIVersions | sortAlpha | join "," | sha256sum }}
`
	r := newRepo(t, map[string]string{"Chart.yaml": chartYAML, "templates/found.yaml": template})
	ns := nameOf(t)
	i.namespace(t, ns)
	i.apply(t, ns, configMap("settings", "k", "v"))
	i.apply(t, ns, configMap("more", "k", "v"))
	eventually(t, 30*time.Second, "the namespace has its own things", func() error {
		_, err := i.kube.CoreV1().ConfigMaps(ns).Get(ctx(t), "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
	a := newApp(i, ns, ns, r)
	var theirs struct{ Manifest string }
	if err := json.Unmarshal([]byte(a.helm(t, "install", ns, r.dir, "--dry-run=server", "-o", "json")), &theirs); err != nil {
		t.Fatal(err)
	}
	i.createApplication(t, a.object())
	a.await(t)
	if err := i.kube.CoreV1().ConfigMaps(ns).Delete(ctx(t), "more", metav1.DeleteOptions{}); err != nil { // in its place there is ours now
		t.Fatal(err)
	}
	ours := i.must(t, "render", ns+"/"+ns)
	if strings.TrimSpace(ours) != strings.TrimSpace(theirs.Manifest) || !strings.Contains(ours, `\"k\":\"v\"`) {
		t.Errorf("ours:\n%s\ntheirs:\n%s", ours, theirs.Manifest)
	}
}

// helm list, history and get see what gitopsd deployed: revisions that are there, were replaced, or failed.
func TestHelmSeesReleases(t *testing.T) {
	i := anyCluster(t)
	r := newRepo(t, map[string]string{"Chart.yaml": chartYAML + "appVersion: \"7\"\n", "values.yaml": "a: b\n", "templates/m.yaml": configMap("m", "k", "{{ .Values.k }}")})
	a := i.follow(t, r, func(app *v1alpha1.Application) {
		app.Spec.Render = &v1alpha1.Render{Helm: &v1alpha1.Helm{ReleaseName: "web", Values: jsonValues(`{"k": "one"}`)}}
		app.Spec.Sync.OnDelete = v1alpha1.Cascade
	}, podTimeout(8*time.Second))
	a.await(t)
	if got := a.helm(t, "list"); !strings.Contains(got, "hooked-1.0.0") || !strings.Contains(got, "deployed") || !strings.Contains(got, "web") {
		t.Errorf("helm list:\n%s", got)
	}
	if got := a.helm(t, "get", "values", "web"); !strings.Contains(got, "k: one") {
		t.Errorf("helm get values:\n%s", got)
	}
	if got := a.helm(t, "get", "manifest", "web"); !strings.Contains(got, "kind: ConfigMap") || !strings.Contains(got, "k: one") {
		t.Errorf("helm get manifest:\n%s", got)
	}
	r.commit(t, "more", map[string]string{"templates/second.yaml": configMap("second", "k", "v")})
	a.await(t)
	r.commit(t, "refused in the middle", map[string]string{"templates/third.yaml": configMap("third", "k", "v"), "templates/broken.yaml": brokenImage("")})
	eventually(t, time.Minute, "it is rolled back", func() error {
		if st := a.get(t).Status; st.Phase != v1alpha1.RolledBack {
			return errPhase(st)
		}
		return nil
	})
	history := a.helm(t, "history", "web")
	var got []string
	for _, line := range strings.Split(strings.TrimSpace(history), "\n")[1:] {
		for _, status := range []string{"superseded", "deployed", "failed"} {
			if strings.Contains(line, "\t"+status) {
				got = append(got, strings.Fields(line)[0]+" "+status)
			}
		}
	}
	if want := "1 superseded, 2 deployed, 3 failed"; strings.Join(got, ", ") != want {
		t.Errorf("helm history:\n%s", history)
	}
	if err := i.dyn.Resource(appResource).Namespace(a.namespace).Delete(ctx(t), a.name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the releases go with the Application", func() error {
		left, err := i.kube.CoreV1().Secrets(a.namespace).List(ctx(t), metav1.ListOptions{LabelSelector: "owner=helm"})
		if err == nil && len(left.Items) > 0 {
			err = errors.New("there are some")
		}
		return err
	})
}

// Files that SOPS encrypted are decrypted on the way: manifests, values and files of generators. Without the key nothing is
// applied, and nobody tells what is in them.
func TestEncryptedFiles(t *testing.T) {
	i := anyCluster(t)
	dir := filepath.Join("..", "..", "internal", "render", "sops", "testdata")
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	r := newRepo(t, map[string]string{
		"kustomization.yaml": "resources: [manifest.yaml]\nsecretGenerator:\n- {name: generated, envs: [all.env], files: [all.txt]}\ngeneratorOptions: {disableNameSuffixHash: true}\n",
		"manifest.yaml":      read("object.enc.yaml"), "all.env": read("plain.enc.env"), "all.txt": read("plain.enc.txt")})
	a := i.follow(t, r)
	eventually(t, 30*time.Second, "the encrypted file is named", func() error {
		if st := a.get(t).Status; !strings.Contains(st.Message, "SOPS encrypted") || !strings.Contains(st.Message, "spec.render.decrypt") {
			return errPhase(st)
		}
		return nil
	})
	i.mustKubectl(t, "-n", a.namespace, "create", "secret", "generic", "keys", "--from-file=main.agekey="+filepath.Join(dir, "keys.agekey"))
	a.patch(t, `{"spec":{"render":{"decrypt":{"secretRef":{"name":"keys"}}}}}`)
	eventually(t, 30*time.Second, "it is applied", func() error {
		if st := a.get(t).Status; st.Phase != v1alpha1.Applied {
			return errPhase(st)
		}
		return nil
	})
	if got := string(a.secret(t, "db").Data["password"]); got != "canary-4711" {
		t.Errorf("the password is %q", got)
	}
	generated := a.secret(t, "generated").Data
	if string(generated["PASSWORD"]) != "canary-4711" || string(generated["all.txt"]) != read("plain.txt") {
		t.Errorf("generated: %q", generated)
	}
	i.mustKubectl(t, "-n", a.namespace, "create", "secret", "generic", "others", "--from-literal=a.agekey=AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ")
	a.patch(t, `{"spec":{"render":{"decrypt":{"secretRef":{"name":"others"}}}}}`)
	eventually(t, 30*time.Second, "a key that is none is told", func() error {
		if st := a.get(t).Status; !strings.Contains(st.Message, "age key cannot be read") {
			return errPhase(st)
		}
		return nil
	})
	if strings.Contains(i.output(), "canary-4711") || strings.Contains(i.output(), "AGE-SECRET-KEY") {
		t.Error("the log tells a secret")
	}
	a.secret(t, "db") // what runs is kept
}
