package review

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-github/v57/github"
)

// State of a commit, as GitHub's API names it.
// https://docs.github.com/en/rest/commits/statuses#create-a-commit-status
type State string

const (
	Pending State = "pending"
	Success State = "success"
	Failure State = "failure"
)

// Forge is where a repository lives: the base of its API and a token that may write commit statuses.
type Forge struct {
	API   string // empty: found out from the repository's URL
	Token string
}

// Status is what is said of a commit. Context names who says it: a later one of the same context takes its place.
type Status struct {
	Repo, Commit         string
	State                State
	Context, Description string
}

const (
	longest  = 140 // characters of a description, GitHub's limit
	patience = 15 * time.Second
)

// Set says it. Errors name the repository and never the token.
func Set(ctx context.Context, f Forge, s Status) error {
	api, owner, name, err := f.locate(s.Repo)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := f.client(api)
	state, description := string(s.State), shorten(s.Description)
	_, _, err = client.Repositories.CreateStatus(ctx, owner, name, s.Commit, &github.RepoStatus{State: &state, Context: &s.Context, Description: &description})
	if why := plain(err); why != err {
		return fmt.Errorf("set the status of commit %.8s of %s/%s: %w; the token has to be allowed to write commit statuses", s.Commit, owner, name, why)
	}
	if err != nil {
		return fmt.Errorf("set the status of commit %.8s of %s/%s: %w", s.Commit, owner, name, err)
	}
	return nil
}

// client speaks to the API at its address and nowhere else.
func (f Forge) client(api *url.URL) *github.Client {
	client := github.NewClient(&http.Client{Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return errRedirect }})
	if f.Token != "" {
		client = client.WithAuthToken(f.Token)
	}
	client.BaseURL, client.UserAgent = api, "gitopsd"
	return client
}

// plain is an error of the forge in its own words.
func plain(err error) error {
	var refused *github.ErrorResponse
	if errors.As(err, &refused) && refused.Response != nil {
		return fmt.Errorf("the forge answers %s (%s)", refused.Response.Status, refused.Message)
	}
	return err
}

var errRedirect = errors.New("the forge answers with a redirect, and the token is not sent elsewhere; correct spec.source.commitStatus.url")

// locate finds the API and the repository's name in it.
func (f Forge) locate(repo string) (api *url.URL, owner, name string, err error) {
	host, path, err := split(repo)
	if err != nil {
		return nil, "", "", err
	}
	base := f.API
	switch {
	case base != "":
	case host == "github.com":
		base = "https://api.github.com/"
	default:
		return nil, "", "", fmt.Errorf("spec.source.commitStatus.url: the API of %s is not known; write its base, such as https://%s/api/v3/ (GitHub Enterprise Server) or https://%s/api/v1/ (Gitea, Forgejo)", host, host, host)
	}
	api, err = url.Parse(strings.TrimSuffix(base, "/") + "/")
	if err != nil || api.Host == "" || (api.Scheme != "https" && api.Scheme != "http") {
		return nil, "", "", fmt.Errorf("spec.source.commitStatus.url: %q is no URL of an API", base)
	}
	owner, name, ok := strings.Cut(strings.TrimSuffix(strings.Trim(path, "/"), ".git"), "/")
	if !ok || owner == "" || name == "" || strings.Contains(name, "/") {
		return nil, "", "", fmt.Errorf("spec.source.commitStatus: %s is not OWNER/REPOSITORY on %s", path, host)
	}
	return api, owner, name, nil
}

// split takes host and path from a URL of a repository: https://HOST/PATH, ssh://user@HOST/PATH or user@HOST:PATH.
func split(repo string) (host, path string, err error) {
	if u, parseErr := url.Parse(repo); parseErr == nil && u.Hostname() != "" {
		return u.Hostname(), u.Path, nil
	}
	if _, rest, ok := strings.Cut(repo, "@"); ok {
		if host, path, ok = strings.Cut(rest, ":"); ok {
			return host, path, nil
		}
	}
	return "", "", errors.New("spec.source.commitStatus: the repository lives on no forge; its URL has no host")
}

func shorten(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > longest {
		return string(runes[:longest-1]) + "…"
	}
	return text
}
