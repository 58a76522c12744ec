package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A push that a forge tells of is live long before the repository's interval is over; what is not signed has nothing looked at.
func TestWebhook(t *testing.T) {
	const secret = "canary-webhook-secret"
	i := anyCluster(t)
	r := newRepo(t, map[string]string{"c.yaml": configMap("c", "k", "one")})
	server := newGitServer(t, r, "", "")
	i.secret(t, v1alpha1.RootNamespace, "gitopsd-webhook", corev1.SecretTypeOpaque, map[string]string{"github": secret})
	name := nameOf(t)
	i.namespace(t, name)
	a := &app{i, name, name, r}
	obj := a.object()
	obj.Spec.Source.Repo, obj.Spec.Source.Path = server.repoURL(r), ""
	obj.Spec.Source.Interval = &metav1.Duration{Duration: time.Hour}
	i.createApplication(t, obj)
	a.await(t)

	second := r.commit(t, "two", map[string]string{"c.yaml": configMap("c", "k", "two")})
	body := fmt.Sprintf(`{"ref":"refs/heads/main","repository":{"clone_url":%q,"ssh_url":"git@elsewhere.example.com:x/y.git"}}`, server.repoURL(r)+".git")
	if code := i.hook(t, body, "sha256="+sign(body, "a guess")); code != http.StatusUnauthorized {
		t.Errorf("a forged request is answered with %d", code)
	}
	before := server.requests.Load()
	consistently(t, 2*time.Second, "a forged request has nothing looked at", func() error {
		if n := server.requests.Load(); n != before {
			return fmt.Errorf("%d requests", n-before)
		}
		return nil
	})
	eventually(t, 15*time.Second, "the secret is known", func() error {
		if code := i.hook(t, body, "sha256="+sign(body, secret)); code != http.StatusAccepted {
			return fmt.Errorf("status %d", code)
		}
		return nil
	})
	a.awaitCommit(t, second, v1alpha1.Applied)
}

// hook sends a request as GitHub would.
func (i *instance) hook(t testing.TB, body, signature string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx(t), http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/hooks/github", i.port(9)), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Hub-Signature-256", signature)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func sign(body, with string) string {
	mac := hmac.New(sha256.New, []byte(with))
	mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}
