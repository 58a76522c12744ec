package source

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/redact"
	"github.com/golang-jwt/jwt/v5"
)

// App is the right of a GitHub App's installation: a key with which short-lived tokens are had.
type App struct {
	ID, Installation string
	PrivateKey       []byte // PEM
	BaseURL          string // of the API; "": api.github.com
}

func (a App) empty() bool { return a.ID+a.Installation+a.BaseURL == "" && len(a.PrivateKey) == 0 }

func (a App) check() error {
	for _, f := range []struct{ key, value string }{{"githubAppID", a.ID}, {"githubAppInstallationID", a.Installation}, {"githubAppPrivateKey", string(a.PrivateKey)}} {
		if f.value == "" {
			return &Error{Class: ErrAuth, Text: "the GitHub App's credentials lack " + f.key, Next: "add it to the Secret"}
		}
	}
	if _, err := strconv.ParseUint(a.Installation, 10, 64); err != nil {
		return &Error{Class: ErrAuth, Text: "githubAppInstallationID is no number", Next: "take it from the end of the installation's address"}
	}
	if _, err := a.key(); err != nil {
		return err
	}
	_, err := a.endpoint()
	return err
}

func (a App) key() (*rsa.PrivateKey, error) {
	key, err := jwt.ParseRSAPrivateKeyFromPEM(a.PrivateKey)
	if err != nil {
		return nil, &Error{Class: ErrAuth, Text: "githubAppPrivateKey is no private key that can be read", Next: "put the whole .pem file into it that GitHub made"}
	}
	return key, nil
}

// endpoint is where tokens are had. Without TLS it may be on this machine only.
func (a App) endpoint() (string, error) {
	base := a.BaseURL
	if base == "" {
		base = "https://api.github.com"
	}
	u, err := url.Parse(base)
	switch {
	case err != nil, u.Host == "", u.User != nil, u.RawQuery != "":
		return "", &Error{Class: ErrAuth, Text: "githubAppBaseURL is no URL of an API", Next: "write https://HOST/api/v3"}
	case u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())):
		return "", &Error{Class: ErrAuth, Text: "githubAppBaseURL is not https", Next: "write https://HOST/api/v3"}
	}
	return strings.TrimSuffix(base, "/") + "/app/installations/" + a.Installation + "/access_tokens", nil
}

// appTokens keeps the tokens that were had, until shortly before they end.
type appTokens struct {
	mu    sync.Mutex
	byApp map[string]*appToken
}

type appToken struct {
	mu     sync.Mutex // held while a token is being had
	value  string
	ends   time.Time
	forget func()
}

// tokenReserve is how long before its end a token is no longer used: a fetch may take a while.
const tokenReserve = 5 * time.Minute

func (t *appTokens) of(c Credentials) *appToken {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := (&Credentials{App: c.App}).fingerprint()
	if t.byApp[key] == nil {
		t.byApp[key] = &appToken{forget: func() {}}
	}
	return t.byApp[key]
}

// with returns the credentials with a token of the App in place of the App itself.
func (t *appTokens) with(ctx context.Context, c Credentials, client http.RoundTripper) (Credentials, error) {
	if c.App.empty() {
		return c, nil
	}
	token := t.of(c)
	token.mu.Lock()
	defer token.mu.Unlock()
	if time.Until(token.ends) < tokenReserve {
		if err := token.renew(ctx, c.App, client); err != nil {
			return c, err
		}
	}
	c.Username, c.Password, c.BearerToken = "x-access-token", token.value, ""
	return c, nil
}

// refused forgets a token that the Git server did not take: it was revoked, or its rights changed.
func (t *appTokens) refused(c Credentials) {
	if c.App.empty() {
		return
	}
	token := t.of(c)
	token.mu.Lock()
	defer token.mu.Unlock()
	token.ends = time.Time{}
}

func (t *appToken) renew(ctx context.Context, app App, client http.RoundTripper) error {
	value, ends, err := app.fetchToken(ctx, client)
	if err != nil {
		return err
	}
	t.forget()
	t.value, t.ends, t.forget = value, ends, redact.Register(value)
	return nil
}

// fetchToken asks GitHub for a token that may read files and nothing else. The proof of being the App is good for some
// minutes, and back-dated by one because clocks differ, as GitHub advises.
func (a App) fetchToken(ctx context.Context, client http.RoundTripper) (token string, ends time.Time, err error) {
	key, err := a.key()
	if err != nil {
		return "", ends, err
	}
	now := time.Now()
	proof, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{
		Issuer: a.ID, IssuedAt: jwt.NewNumericDate(now.Add(-time.Minute)), ExpiresAt: jwt.NewNumericDate(now.Add(5 * time.Minute)),
	}).SignedString(key)
	if err != nil {
		return "", ends, &Error{Class: ErrAuth, Text: "sign as the GitHub App", Err: err}
	}
	defer redact.Register(proof)()
	endpoint, err := a.endpoint()
	if err != nil {
		return "", ends, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, bytes.NewReader([]byte(`{"permissions":{"contents":"read"}}`)))
	if err != nil {
		return "", ends, err
	}
	req.Header.Set("Authorization", "Bearer "+proof)
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "gitopsd")
	resp, err := client.RoundTrip(req) // which follows no redirect
	if err != nil {
		return "", ends, tlsError(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", ends, err
	}
	return readToken(resp.StatusCode, body, now)
}

func readToken(status int, body []byte, now time.Time) (string, time.Time, error) {
	var said struct {
		Token   string    `json:"token"`
		Expires time.Time `json:"expires_at"`
		Message string    `json:"message"`
	}
	err := json.Unmarshal(body, &said)
	switch {
	case status != http.StatusCreated:
		e := &Error{Class: ErrUnreachable, Text: fmt.Sprintf("GitHub gives no token: HTTP %d", status), Next: "gitopsd tries again by itself"}
		if said.Message != "" {
			e.Text += " (" + redact.String(oneLine(said.Message)) + ")" // while the proof is still known to redact
		}
		if status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusNotFound || status == http.StatusUnprocessableEntity {
			e.Class, e.Next = ErrAuth, "check githubAppID, githubAppInstallationID and githubAppPrivateKey, and that the App may read contents"
		}
		return "", time.Time{}, e
	case err != nil, said.Token == "", said.Expires.Before(now):
		return "", time.Time{}, &Error{Class: ErrBroken, Text: "GitHub's answer holds no token that is good", Next: "check githubAppBaseURL, and the clock of this machine"}
	}
	return said.Token, said.Expires, nil
}
