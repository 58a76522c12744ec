package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// No Secret value appears in any log, event, error, status, metric, or object that is not a Secret, and none reaches the
// store unencrypted: whatever is done with it, well or badly.
func TestSecretsNeverAppear(t *testing.T) {
	i := shared(t)
	const value, changed, broken, drifted = "canary-value-71c5", "canary-changed-71c5", "canary-broken-71c5", "canary-drifted-71c5"
	secret := func(v string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: %s}\n", v)
	}
	a := i.deploy(t, map[string]string{"s.yaml": secret(value),
		"p.yaml": toolboxPod("p", []string{"sleep"}, "env: [{name: S, valueFrom: {secretKeyRef: {name: s, key: k}}}]\nvolumeMounts: [{name: s, mountPath: /s}]", "volumes: [{name: s, secret: {secretName: s}}]")})
	a.await(t)
	i.pod(t, a.namespace, "p", "is ready", ready)
	a.repo.commit(t, "changed", map[string]string{"s.yaml": secret(changed)})
	a.await(t)
	for name, bad := range map[string]string{
		"no text":       "apiVersion: v1\nkind: Secret\nmetadata: {name: bad}\nstringData: {k: [" + broken + "]}\n",
		"no base64":     "apiVersion: v1\nkind: Secret\nmetadata: {name: bad}\ndata: {k: " + broken + "}\n",
		"a wrong type":  "apiVersion: v1\nkind: Secret\nmetadata: {name: bad}\ntype: kubernetes.io/tls\nstringData: {k: " + broken + "}\n",
		"unknown field": "apiVersion: v1\nkind: Secret\nmetadata: {name: bad}\nstrngData: {k: " + broken + "}\n",
		"broken YAML":   "apiVersion: v1\nkind: Secret\nmetadata: {name: bad}\nstringData: {k: " + broken + "\n",
	} {
		st := a.awaitCommit(t, a.repo.commit(t, name, map[string]string{"bad.yaml": bad}), v1alpha1.Failed).Status
		t.Logf("%s: %s", name, st.Message)
	}
	a.repo.commit(t, "good", map[string]string{"bad.yaml": ""})
	a.await(t)
	i.mustKubectl(t, "-n", a.namespace, "patch", "secret", "s", "-p", `{"stringData":{"k":"`+drifted+`"}}`)
	eventually(t, 20*time.Second, "the Secret is healed", func() error {
		s, err := i.kube.CoreV1().Secrets(a.namespace).Get(ctx(t), "s", metav1.GetOptions{})
		if err == nil && string(s.Data["k"]) != changed {
			err = fmt.Errorf("not yet")
		}
		return err
	})
	i.checkHidden(t, a.namespace+"/"+a.name, value, changed, broken, drifted)
}

// checkHidden fails when one of the texts, as it is or in base64, is in anything that the daemon wrote or that the API
// shows, Secrets apart. app is the Application that may know them; empty: none.
func (i *instance) checkHidden(t testing.TB, app string, canaries ...string) {
	t.Helper()
	search := func(where, text string) {
		for _, canary := range canaries {
			coded := base64.StdEncoding.EncodeToString([]byte(canary[:len(canary)/3*3]))
			for _, form := range []string{canary, coded} {
				if n := strings.Index(text, form); n >= 0 {
					t.Errorf("%s holds %s: …%s…", where, form, text[max(0, n-200):min(len(text), n+100)])
				}
			}
		}
	}
	if app != "" {
		search("status", i.must(t, "status", app))
	}
	search("status -o json", i.must(t, "status", "-o", "json"))
	search("events", i.mustKubectl(t, "get", "events", "-A", "-o", "yaml"))
	search("objects", i.mustKubectl(t, "get", "applications,pods,configmaps,serviceaccounts", "-A", "-o", "yaml"))
	search("nodes", i.mustKubectl(t, "get", "nodes", "-o", "yaml"))
	body, code := get(t, i, i.adminTransport(t), "/metrics")
	if code != http.StatusOK {
		t.Errorf("/metrics: %d", code)
	}
	search("/metrics", body)
	searchFiles(t, i.log, search)
	for _, name := range []string{"logs", "etcd", "instance.json", filepath.Join("containerd", "containerd.log")} {
		searchFiles(t, filepath.Join(i.dir, name), search)
	}
}

func searchFiles(t testing.TB, dir string, search func(where, text string)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		search(path, string(b))
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func (i *instance) adminTransport(t testing.TB) http.RoundTripper {
	t.Helper()
	rt, err := rest.TransportFor(i.config)
	if err != nil {
		t.Fatal(err)
	}
	return rt
}

func get(t testing.TB, i *instance, rt http.RoundTripper, path string) (string, int) {
	t.Helper()
	resp, err := (&http.Client{Transport: rt, Timeout: 5 * time.Second}).Get(fmt.Sprintf("https://127.0.0.1:%d%s", i.port(4), path))
	if err != nil {
		return err.Error(), 0
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), resp.StatusCode
}

// Nothing listens without authentication: not the API, not the agent, not the metrics, not etcd.
func TestNothingAnswersStrangers(t *testing.T) {
	i := shared(t)
	ca, err := os.ReadFile(filepath.Join(i.dir, "pki", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	stranger := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	for what, url := range map[string]string{
		"the API":              fmt.Sprintf("https://127.0.0.1:%d/api/v1/secrets", i.port(0)),
		"the API's health":     fmt.Sprintf("https://127.0.0.1:%d/healthz", i.port(0)),
		"the agent's pods":     fmt.Sprintf("https://127.0.0.1:%d/pods", i.port(1)),
		"the agent's metrics":  fmt.Sprintf("https://127.0.0.1:%d/metrics", i.port(1)),
		"the daemon's metrics": fmt.Sprintf("https://127.0.0.1:%d/metrics", i.port(4)),
		"the daemon's health":  fmt.Sprintf("https://127.0.0.1:%d/healthz", i.port(4)),
	} {
		resp, err := stranger.Get(url)
		if err != nil {
			continue // refused in the handshake
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s answers a stranger with %s", what, resp.Status)
		}
	}
	node, err := tls.LoadX509KeyPair(filepath.Join(i.dir, "pki", "node.crt"), filepath.Join(i.dir, "pki", "node.key"))
	if err != nil {
		t.Fatal(err)
	}
	for what, certs := range map[string][]tls.Certificate{"no certificate": nil, "a certificate of the cluster": {node}} {
		for _, port := range []int{i.port(2), i.port(3)} {
			conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{InsecureSkipVerify: true, Certificates: certs})
			if err == nil {
				conn.SetDeadline(time.Now().Add(5 * time.Second))
				_, err = conn.Write([]byte("GET /version HTTP/1.1\r\nHost: x\r\n\r\n"))
				if err == nil {
					_, err = conn.Read(make([]byte, 1))
				}
				conn.Close()
			}
			if err == nil {
				t.Errorf("etcd on port %d answers with %s", port, what)
			}
		}
	}
	nodeTransport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{node}}}
	if body, code := get(t, i, nodeTransport, "/metrics"); code != http.StatusForbidden {
		t.Errorf("/metrics for a node: %d %s", code, body)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if body, code := get(t, i, i.adminTransport(t), path); code != http.StatusOK {
			t.Errorf("%s for the admin: %d %s", path, code, body)
		}
	}
	err = filepath.WalkDir(filepath.Join(i.dir, "pki"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if info, err := d.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v %v", path, info.Mode(), err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(i.dir, "admin.kubeconfig")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("admin.kubeconfig: %v %v", info.Mode(), err)
	}
}

// Certificates renew by themselves while everything goes on: with a life of 45 s, after two lives the API,
// logs through the agent, and syncs still work, without a restart.
func TestCertificatesRenew(t *testing.T) {
	const life = 45 * time.Second
	i := newInstance(t, nil, "--certificate-life", life.String())
	i.start(t)
	i.awaitNode(t)
	started := time.Now()
	a := i.deploy(t, map[string]string{"p.yaml": toolboxPod("p", []string{"count", "3"}, "", "")})
	a.await(t)
	i.pod(t, a.namespace, "p", "is ready", ready)
	eventually(t, 3*life, "two lives of a certificate pass", func() error {
		if left := 2*life - time.Since(started); left > 0 {
			return fmt.Errorf("%s to go", left)
		}
		return nil
	})
	i.connect(t) // the admin's kubeconfig was renewed too
	commit := a.repo.commit(t, "two", map[string]string{"c.yaml": configMap("c", "k", "v")})
	eventually(t, time.Minute, "a commit is applied", func() error {
		app, err := i.application(t, a.namespace, a.name)
		if err != nil {
			return err
		}
		if app.Status.AppliedRevision == nil || app.Status.AppliedRevision.Commit != commit {
			return errPhase(app.Status)
		}
		return nil
	})
	eventually(t, time.Minute, "logs come through the agent", func() error {
		if out, code := i.kubectl("-n", a.namespace, "logs", "p"); code != 0 || !strings.Contains(out, "line 2") {
			return fmt.Errorf("exit code %d: %s", code, out)
		}
		return nil
	})
	if out, code := i.kubectl("get", "nodes"); code != 0 || !strings.Contains(out, " Ready ") {
		t.Errorf("exit code %d: %s", code, out)
	}
}
