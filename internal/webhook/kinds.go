package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// kind is how one family of senders signs, and where it names the repository.
type kind struct {
	header string
	prefix string // of the signature in the header
	plain  bool   // the header holds the secret itself
	paths  []string
}

// The formats are those of
//   - GitHub: https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries
//   - GitLab: https://docs.gitlab.com/user/project/integrations/webhooks/, which sends its secret as it is
//   - Gitea, and Forgejo with it: https://docs.gitea.com/usage/webhooks
//   - generic: an HMAC-SHA256 of the body in X-Signature, as Flux's generic-hmac receiver has it, and {"repository": "URL"}
var kinds = map[string]kind{
	"github":  {header: "X-Hub-Signature-256", prefix: "sha256=", paths: []string{"repository.clone_url", "repository.ssh_url", "repository.html_url"}},
	"gitlab":  {header: "X-Gitlab-Token", plain: true, paths: []string{"project.git_http_url", "project.git_ssh_url", "repository.git_http_url", "repository.git_ssh_url"}},
	"gitea":   {header: "X-Gitea-Signature", paths: []string{"repository.clone_url", "repository.ssh_url", "repository.html_url"}},
	"generic": {header: "X-Signature", prefix: "sha256=", paths: []string{"repository"}},
}

func (k kind) signed(h http.Header) bool { return h.Get(k.header) != "" }

// valid says whether the body was sent by somebody who knows one of the secrets. Each is compared in a time that tells nothing.
func (k kind) valid(h http.Header, body []byte, secrets [][]byte) bool {
	said, ok := strings.CutPrefix(h.Get(k.header), k.prefix)
	if !ok {
		return false
	}
	valid := false
	for _, secret := range secrets {
		if k.plain {
			valid = subtle.ConstantTimeCompare([]byte(said), secret) == 1 || valid
			continue
		}
		mac := hmac.New(sha256.New, secret)
		mac.Write(body)
		sum, err := hex.DecodeString(said)
		valid = err == nil && hmac.Equal(sum, mac.Sum(nil)) || valid
	}
	return valid
}

// repositories are the names under which the body knows the repository. A ping names it too, and so does no harm.
func (k kind) repositories(body []byte) ([]string, error) {
	if !json.Valid(body) {
		if form, ok := strings.CutPrefix(string(body), "payload="); ok {
			return formRepositories(form, k.paths)
		}
	}
	return texts(body, k.paths...)
}

// formRepositories reads a body that GitHub sends as a form (application/x-www-form-urlencoded).
func formRepositories(form string, paths []string) ([]string, error) {
	body, err := url.QueryUnescape(form)
	if err != nil {
		return nil, errors.New("the form's payload is not well escaped")
	}
	return texts([]byte(body), paths...)
}
