package source

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/test/github"
	"github.com/golang-jwt/jwt/v5"
)

const tokenPath = "/app/installations/{installation_id}/access_tokens"

// githubApp is an App with an installation, and what its server knows of it.
type githubApp struct {
	api *github.Server
	key *rsa.PrivateKey
	pem []byte

	mu     sync.Mutex
	given  int
	good   map[string]bool // tokens that count
	life   time.Duration
	refuse int // status to answer instead
}

func newGitHubApp(t *testing.T) *githubApp {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	a := &githubApp{api: github.New(t), key: key, good: map[string]bool{}, life: time.Hour,
		pem: pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})}
	a.api.Handle(http.MethodPost, tokenPath, func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		proof, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		claims := jwt.RegisteredClaims{}
		_, err := jwt.ParseWithClaims(proof, &claims, func(*jwt.Token) (any, error) { return &key.PublicKey, nil }, jwt.WithValidMethods([]string{"RS256"}), jwt.WithIssuedAt(), jwt.WithExpirationRequired())
		refuse := a.refuse
		if err != nil || claims.Issuer != "12345" || claims.ExpiresAt.Sub(claims.IssuedAt.Time) > 10*time.Minute || r.PathValue("installation_id") != "678" {
			refuse = http.StatusUnauthorized
		}
		if refuse != 0 {
			github.Answer(w, refuse, map[string]any{"message": "no: " + proof, "documentation_url": "https://docs.github.com/rest"})
			return
		}
		a.given++
		token := fmt.Sprintf("ghs_token-number-%d-of-the-test", a.given)
		a.good[token] = true
		answer := a.api.Example(http.MethodPost, tokenPath, http.StatusCreated)
		answer["token"], answer["expires_at"] = token, time.Now().Add(a.life).UTC().Format(time.RFC3339)
		github.Answer(w, http.StatusCreated, answer)
	})
	return a
}

func (a *githubApp) data() map[string][]byte {
	return map[string][]byte{"githubAppID": []byte("12345"), "githubAppInstallationID": []byte("678\n"), "githubAppPrivateKey": a.pem, "githubAppBaseURL": []byte(a.api.URL + "/")}
}

// guard lets through who shows a token that counts.
func (a *githubApp) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, token, _ := r.BasicAuth()
		a.mu.Lock()
		ok := user == "x-access-token" && a.good[token]
		a.mu.Unlock()
		if !ok {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func TestGitHubApp(t *testing.T) {
	a := newGitHubApp(t)
	creds, err := CredentialsFromSecret(a.data())
	if err != nil {
		t.Fatal(err)
	}
	r := newRepo(t)
	r.write("a", "1").commit("first")
	srv := httptest.NewServer(gitHandler(t, filepath.Dir(r.dir), a.guard))
	defer srv.Close()
	s := openStore(t, Limits{})
	spec := Spec{URL: srv.URL + "/repo", Credentials: creds}
	for range 3 {
		snapshotOf(t, s, spec)
	}
	if a.given != 1 {
		t.Errorf("%d tokens for three looks", a.given)
	}
	a.mu.Lock()
	a.good = map[string]bool{} // revoked
	a.life = 6 * time.Minute
	a.mu.Unlock()
	if _, err := s.Snapshot(t.Context(), spec); !errors.Is(err, ErrAuth) {
		t.Errorf("revoked: %v", err)
	}
	snapshotOf(t, s, spec)
	if a.given != 2 {
		t.Errorf("%d tokens after one was revoked", a.given)
	}
	token := s.tokens.of(*creds)
	token.mu.Lock()
	token.ends = time.Now().Add(tokenReserve - time.Second)
	token.mu.Unlock()
	snapshotOf(t, s, spec)
	if a.given != 3 {
		t.Errorf("%d tokens after one was about to end", a.given)
	}
	for status, class := range map[int]error{http.StatusNotFound: ErrAuth, http.StatusForbidden: ErrAuth, http.StatusUnprocessableEntity: ErrAuth} {
		a.mu.Lock()
		a.refuse = status
		a.mu.Unlock()
		_, err := openStore(t, Limits{}).Snapshot(t.Context(), spec)
		if !errors.Is(err, class) || !strings.Contains(err.Error(), fmt.Sprint("HTTP ", status)) || strings.Contains(err.Error(), "eyJ") {
			t.Errorf("%d: %v", status, err)
		}
	}
	if _, err := s.Snapshot(t.Context(), Spec{URL: "git@127.0.0.1:x", Credentials: creds}); !errors.Is(err, ErrAuth) || !strings.Contains(err.Error(), "https") {
		t.Errorf("over ssh: %v", err)
	}
}

func TestGitHubAppCredentials(t *testing.T) {
	a := newGitHubApp(t)
	for _, c := range []struct{ key, value, says string }{
		{"githubAppID", "", "lack githubAppID"},
		{"githubAppInstallationID", "x/../y", "is no number"},
		{"githubAppPrivateKey", "hunter2-is-no-key", "is no private key"},
		{"githubAppBaseURL", "http://github.example", "is not https"},
		{"githubAppBaseURL", "github.example", "is no URL"},
	} {
		data := a.data()
		data[c.key] = []byte(c.value)
		if _, err := CredentialsFromSecret(data); err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s %q: %v", c.key, c.value, err)
		}
	}
	creds, err := CredentialsFromSecret(a.data())
	if err != nil {
		t.Fatal(err)
	}
	back, err := creds.SecretData("https://host/x")
	if err != nil {
		t.Fatal(err)
	}
	again, err := CredentialsFromSecret(back)
	if err != nil || again.fingerprint() != creds.fingerprint() {
		t.Errorf("written and read again: %v", err)
	}
}
