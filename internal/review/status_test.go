package review

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const commit = "0123456789012345678901234567890123456789"

// forge answers as GitHub does for one token.
func forge(t *testing.T, got *map[string]string) *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v3/repos/{owner}/{repo}/statuses/{sha}", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"message": "Bad credentials"}`)
			return
		}
		body := map[string]string{}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		body["repo"], body["sha"] = r.PathValue("owner")+"/"+r.PathValue("repo"), r.PathValue("sha")
		*got = body
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, `{"state": "success"}`)
	})
	mux.HandleFunc("/elsewhere/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func TestSet(t *testing.T) {
	var got map[string]string
	s := forge(t, &got)
	for _, repo := range []string{"https://git.example.org/acme/infra.git", "git@git.example.org:acme/infra", "ssh://git@git.example.org:22/acme/infra.git"} {
		got = nil
		err := Set(t.Context(), Forge{s.URL + "/api/v3", "s3cret"}, Status{Repo: repo, Commit: commit, State: Failure, Context: "gitopsd/web/web", Description: strings.Repeat("é", 200)})
		if err != nil {
			t.Fatal(err)
		}
		if got["repo"] != "acme/infra" || got["sha"] != commit || got["state"] != "failure" || got["context"] != "gitopsd/web/web" || len([]rune(got["description"])) != 140 {
			t.Errorf("%s: sent %v", repo, got)
		}
	}
}

func TestSetRefused(t *testing.T) {
	var got map[string]string
	s := forge(t, &got)
	for _, c := range []struct{ repo, api, token, want string }{
		{"https://git.example.org/acme/infra", s.URL + "/api/v3", "wrong", "401 Unauthorized (Bad credentials); the token has to be allowed"},
		{"https://git.example.org/acme/infra", s.URL + "/elsewhere", "s3cret", "the token is not sent elsewhere"},
		{"https://git.example.org/acme/infra", "", "s3cret", "the API of git.example.org is not known"},
		{"https://git.example.org/acme", s.URL, "s3cret", "is not OWNER/REPOSITORY"},
		{"https://git.example.org/acme/infra", "nonsense", "s3cret", "is no URL of an API"},
		{"/srv/git/infra", s.URL, "s3cret", "lives on no forge"},
	} {
		err := Set(t.Context(), Forge{c.api, c.token}, Status{Repo: c.repo, Commit: commit, State: Success})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if got != nil {
		t.Errorf("something was sent: %v", got)
	}
}
