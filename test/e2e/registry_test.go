package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/examples/image"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
)

// privateRegistry serves the toolbox, under these tags, to whoever has the password.
func privateRegistry(t testing.TB, user, password string, tags ...string) (host string) {
	t.Helper()
	store := registry.New(registry.Logger(discard))
	open := httptest.NewServer(store) // for the push
	defer open.Close()
	ref, err := name.ParseReference(toolbox(), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref, remote.WithContext(ctx(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range tags {
		if err := image.Push(ctx(t), strings.TrimPrefix(open.URL, "http://")+"/toolbox:"+tag, img); err != nil {
			t.Fatal(err)
		}
	}
	private := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
			return
		}
		store.ServeHTTP(w, r)
	}))
	t.Cleanup(private.Close)
	return strings.TrimPrefix(private.URL, "http://")
}

func dockerConfig(host, user, password string) map[string]string {
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	return map[string]string{corev1.DockerConfigJsonKey: fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, auth)}
}

// An image of a private registry is pulled with the pod's secret, or with that of its account; without one, and with a
// wrong one, the status says that the registry refuses. The passwords are shown nowhere.
func TestPullSecrets(t *testing.T) {
	i := shared(t)
	ns := nameOf(t)
	const right, wrong = "canary-registry-right-3b90", "canary-registry-wrong-3b90"
	host := privateRegistry(t, "robot", right, "none", "wrong", "pod", "account")
	i.namespace(t, ns)
	i.secret(t, ns, "right", corev1.SecretTypeDockerConfigJson, dockerConfig(host, "robot", right))
	i.secret(t, ns, "wrong", corev1.SecretTypeDockerConfigJson, dockerConfig(host, "robot", wrong))
	i.apply(t, ns, "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: puller}\nimagePullSecrets: [{name: right}]\n")
	pod := func(name, spec string) string {
		return strings.ReplaceAll(toolboxPod(name, []string{"sleep"}, "", spec), toolbox(), host+"/toolbox:"+name) + "---\n"
	}
	i.apply(t, ns, pod("none", "")+pod("wrong", "imagePullSecrets: [{name: wrong}]")+
		pod("pod", "imagePullSecrets: [{name: right}]")+pod("account", "serviceAccountName: puller"))
	for _, name := range []string{"pod", "account"} {
		i.pod(t, ns, name, "is ready", ready)
	}
	for name, reason := range map[string]string{"none": "authorization failed: no basic auth credentials", "wrong": "401 Unauthorized"} {
		i.pod(t, ns, name, "is refused, and backs off", func(p *corev1.Pod) error {
			s := p.Status.ContainerStatuses
			if len(s) == 0 || s[0].State.Waiting == nil {
				return fmt.Errorf("not yet")
			}
			w := s[0].State.Waiting
			if w.Reason != "ImagePullBackOff" || !strings.Contains(w.Message, host+"/toolbox:"+name) || !strings.Contains(w.Message, reason) {
				return fmt.Errorf("%s: %s", w.Reason, w.Message)
			}
			return nil
		})
	}
	if text := i.awaitEvent(t, ns, "Failed"); !strings.Contains(text, host+"/toolbox:") || !strings.HasPrefix(text, "Failed to pull image") {
		t.Errorf("the event says %q", text)
	}
	coded := func(password string) string { return base64.StdEncoding.EncodeToString([]byte("robot:" + password)) }
	i.checkHidden(t, "", right, wrong, coded(right), coded(wrong))
}
