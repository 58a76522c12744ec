package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// gitopsd server without a cluster to work on is a control plane and an engine without a node, and goes as an instance does.
func TestServerWithoutANode(t *testing.T) {
	i := newInstance(t, nil)
	i.args = func() []string { return append([]string{"server"}, i.up()[1:]...) }
	i.start(t)
	a := i.deploy(t, map[string]string{"c.yaml": configMap("c", "k", "v")})
	a.await(t)
	nodes, err := i.kube.CoreV1().Nodes().List(ctx(t), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 0 {
		t.Errorf("%d nodes, %v", len(nodes.Items), err)
	}
	if out := i.must(t, "status"); !strings.Contains(out, "Applied") {
		t.Errorf("status:\n%s", out)
	}
	i.must(t, "down")
	if out, code := i.run("status"); code == 0 || !strings.Contains(out, "does not run") {
		t.Errorf("after down: exit code %d\n%s", code, out)
	}
}

// The metrics of an engine on somebody else's cluster answer who has a token of that cluster and the right to read them, and nobody else.
func TestMetricsOfAGuest(t *testing.T) {
	withPlain(t)
	i := anyCluster(t)
	a := i.deploy(t, map[string]string{"c.yaml": configMap("c", "k", "v")}) // something to count
	a.await(t)
	ns := a.namespace
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // made anew at each start
	get := func(token string) (int, string) {
		req, err := http.NewRequestWithContext(ctx(t), http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/metrics", i.port(4)), nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if code, _ := get(""); code != http.StatusUnauthorized {
		t.Errorf("without a token: %d", code)
	}
	if code, _ := get("no-token"); code != http.StatusUnauthorized {
		t.Errorf("with a wrong one: %d", code)
	}
	token, err := i.kube.CoreV1().ServiceAccounts(ns).CreateToken(ctx(t), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if code, _ := get(token.Status.Token); code != http.StatusForbidden {
		t.Errorf("with a token that may not: %d", code)
	}
	i.mustKubectl(t, "create", "clusterrole", ns, "--verb=get", "--non-resource-url=/metrics")
	i.mustKubectl(t, "create", "clusterrolebinding", ns, "--clusterrole="+ns, "--serviceaccount="+ns+":default")
	eventually(t, 20*time.Second, "with one that may", func() error {
		if code, body := get(token.Status.Token); code != http.StatusOK || !strings.Contains(body, "gitopsd_") {
			return fmt.Errorf("%d %.200s", code, body)
		}
		return nil
	})
}
