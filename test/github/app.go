package github

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const tokenPath = "/app/installations/{installation_id}/access_tokens"

// The one App that a Server knows, and its installation.
const (
	AppID        = "12345"
	Installation = "678"
)

// App is a GitHub App with an installation: it gives tokens to who proves to hold its key.
type App struct {
	Key []byte // PEM

	mu     sync.Mutex
	given  int
	good   map[string]bool
	life   time.Duration
	refuse int
}

// ServeApp has the server give tokens, which live for an hour.
func (s *Server) ServeApp() *App {
	s.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		s.t.Fatal(err)
	}
	a := &App{good: map[string]bool{}, life: time.Hour, Key: pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})}
	s.Handle(http.MethodPost, tokenPath, func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		proof, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		status := a.refuse
		if r.PathValue("installation_id") != Installation || !proven(proof, &key.PublicKey) {
			status = http.StatusUnauthorized
		}
		if status != 0 { // the proof is repeated, so that a client that prints what it is told shows itself
			Answer(w, status, map[string]any{"message": "no: " + proof, "documentation_url": "https://docs.github.com/rest"})
			return
		}
		a.given++
		token := fmt.Sprintf("ghs_token-number-%d-of-the-test", a.given)
		a.good[token] = true
		answer := s.Example(http.MethodPost, tokenPath, http.StatusCreated)
		answer["token"], answer["expires_at"] = token, time.Now().Add(a.life).UTC().Format(time.RFC3339)
		Answer(w, http.StatusCreated, answer)
	})
	return a
}

// proven checks a proof as GitHub does: signed by the App's key, and good for ten minutes at most.
func proven(proof string, key *rsa.PublicKey) bool {
	claims := jwt.RegisteredClaims{}
	_, err := jwt.ParseWithClaims(proof, &claims, func(*jwt.Token) (any, error) { return key, nil },
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithIssuedAt(), jwt.WithExpirationRequired())
	return err == nil && claims.Issuer == AppID && claims.IssuedAt != nil && claims.ExpiresAt.Sub(claims.IssuedAt.Time) <= 10*time.Minute
}

// Given is how many tokens there were.
func (a *App) Given() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.given
}

// Revoke takes all tokens back; those that are given from now on live for so long.
func (a *App) Revoke(life time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.good, a.life = map[string]bool{}, life
}

// Refuse has every request for a token answered with a status; 0 ends that.
func (a *App) Refuse(status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refuse = status
}

// Guard lets through who shows a token that counts, as GitHub's Git server does.
func (a *App) Guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, token, _ := r.BasicAuth()
		a.mu.Lock()
		ok := user == "x-access-token" && a.good[token]
		a.mu.Unlock()
		if !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}
