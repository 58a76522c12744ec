package e2e

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A projected token has the audience and the life that the pod asked for and is bound to the pod: the API knows whose it
// is, takes it for no other audience, and not any more once the pod is gone.
func TestProjectedTokens(t *testing.T) {
	i := shared(t)
	ns := nameOf(t)
	i.namespace(t, ns)
	i.mustKubectl(t, "-n", ns, "create", "serviceaccount", "robot")
	i.apply(t, ns, toolboxPod("p", []string{"sleep"}, "volumeMounts: [{name: t, mountPath: /t}]", `serviceAccountName: robot
volumes: [{name: t, projected: {sources: [{serviceAccountToken: {audience: vault, expirationSeconds: 700, path: token}}]}}]`))
	pod := i.pod(t, ns, "p", "is ready", ready)
	token := strings.TrimSpace(i.mustKubectl(t, "-n", ns, "exec", "p", "--", "/app", "cat", "/t/token"))
	c := claimsOf(t, token)
	if c.Expires-c.Issued != 700 || !slices.Equal(c.Audience, []string{"vault"}) || c.Kubernetes.Pod.UID != string(pod.UID) {
		t.Errorf("the token says %+v", c)
	}
	got := i.review(t, token, "vault")
	if !got.Authenticated || got.User.Username != "system:serviceaccount:"+ns+":robot" || !slices.Equal(got.User.Extra["authentication.kubernetes.io/pod-uid"], []string{string(pod.UID)}) {
		t.Errorf("for its audience: %+v", got)
	}
	if got := i.review(t, token); got.Authenticated {
		t.Errorf("for the API itself: %+v", got)
	}
	standard := strings.TrimSpace(i.mustKubectl(t, "-n", ns, "exec", "p", "--", "/app", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"))
	if got := i.review(t, standard); !got.Authenticated || got.User.Username != "system:serviceaccount:"+ns+":robot" {
		t.Errorf("the token that every pod gets: %+v", got)
	}
	i.mustKubectl(t, "-n", ns, "delete", "pod", "p")
	// The API remembers answers for some seconds; another list of audiences is another question.
	if got := i.review(t, token, "vault", "other"); got.Authenticated {
		t.Errorf("after the end of its pod: %+v", got)
	}
}

// tokenOnDisk is the token in a pod's standard volume, as its containers see it now.
func (i *instance) tokenOnDisk(p corev1.Pod) (string, error) {
	found, err := filepath.Glob(filepath.Join(i.dir, "pods", string(p.UID), "volumes", "kubernetes.io~projected", "*", "token"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("tokens of pod %s: %v %v", p.Name, found, err)
	}
	b, err := os.ReadFile(found[0])
	return string(b), err
}

// checkNewToken waits until a pod has another token than before in the same place, and has the API confirm it. It
// stands for the renewal of one that grows old, which no test can wait for, as none lives for less than ten minutes;
// the tests of internal/nodeagent/token have that in virtual time.
func (i *instance) checkNewToken(t testing.TB, p corev1.Pod, before string) {
	t.Helper()
	var token string
	eventually(t, 30*time.Second, "pod "+p.Name+" has a new token", func() (err error) {
		if token, err = i.tokenOnDisk(p); err == nil && token == before {
			err = errors.New("still the one from before")
		}
		return err
	})
	if got := i.review(t, token); !got.Authenticated || !slices.Equal(got.User.Extra["authentication.kubernetes.io/pod-uid"], []string{string(p.UID)}) {
		t.Errorf("the new token: %+v", got)
	}
}

type claims struct {
	Audience   []string `json:"aud"`
	Expires    int64    `json:"exp"`
	Issued     int64    `json:"iat"`
	Kubernetes struct {
		Pod struct {
			UID string `json:"uid"`
		} `json:"pod"`
	} `json:"kubernetes.io"`
}

func claimsOf(t testing.TB, token string) claims {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("a token of %d parts", len(parts))
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	var c claims
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// review asks the API whose token this is, for these audiences; none: for its own.
func (i *instance) review(t testing.TB, token string, audiences ...string) authv1.TokenReviewStatus {
	t.Helper()
	r, err := i.kube.AuthenticationV1().TokenReviews().Create(ctx(t),
		&authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: token, Audiences: audiences}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status
}
