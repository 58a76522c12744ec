package source

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/test/github"
)

// appData is a Secret with the right of the App that a server knows.
func appData(api *github.Server, app *github.App) map[string][]byte {
	return map[string][]byte{"githubAppID": []byte(github.AppID), "githubAppInstallationID": []byte(github.Installation + "\n"),
		"githubAppPrivateKey": app.Key, "githubAppBaseURL": []byte(api.URL + "/")}
}

func TestGitHubApp(t *testing.T) {
	api := github.New(t)
	a := api.ServeApp()
	creds, err := CredentialsFromSecret(appData(api, a))
	if err != nil {
		t.Fatal(err)
	}
	r := newRepo(t)
	r.write("a", "1").commit("first")
	srv := httptest.NewServer(gitHandler(t, filepath.Dir(r.dir), a.Guard))
	defer srv.Close()
	s := openStore(t, Limits{})
	spec := Spec{URL: srv.URL + "/repo", Credentials: creds}
	for range 3 {
		snapshotOf(t, s, spec)
	}
	if a.Given() != 1 {
		t.Errorf("%d tokens for three looks", a.Given())
	}
	a.Revoke(6 * time.Minute)
	if _, err := s.Snapshot(t.Context(), spec); !errors.Is(err, ErrAuth) {
		t.Errorf("revoked: %v", err)
	}
	snapshotOf(t, s, spec)
	if a.Given() != 2 {
		t.Errorf("%d tokens after one was revoked", a.Given())
	}
	token := s.tokens.of(*creds)
	token.mu.Lock()
	token.ends = time.Now().Add(tokenReserve - time.Second)
	token.mu.Unlock()
	snapshotOf(t, s, spec)
	if a.Given() != 3 {
		t.Errorf("%d tokens after one was about to end", a.Given())
	}
	for status, class := range map[int]error{http.StatusNotFound: ErrAuth, http.StatusForbidden: ErrAuth, http.StatusUnprocessableEntity: ErrAuth} {
		a.Refuse(status)
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
	api := github.New(t)
	a := api.ServeApp()
	for _, c := range []struct{ key, value, says string }{
		{"githubAppID", "", "lack githubAppID"},
		{"githubAppInstallationID", "x/../y", "is no number"},
		{"githubAppPrivateKey", "hunter2-is-no-key", "is no private key"},
		{"githubAppBaseURL", "http://github.example", "is not https"},
		{"githubAppBaseURL", "github.example", "is no URL"},
	} {
		data := appData(api, a)
		data[c.key] = []byte(c.value)
		if _, err := CredentialsFromSecret(data); err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s %q: %v", c.key, c.value, err)
		}
	}
	creds, err := CredentialsFromSecret(appData(api, a))
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
