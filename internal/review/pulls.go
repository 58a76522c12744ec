package review

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/google/go-github/v57/github"
)

// PullRequest is an open one.
type PullRequest struct {
	Number         int
	Title, Author  string
	Branch, Target string
	Commit         string // of its head
	Labels         []string
}

// mostPulls is how many open pull requests are listed.
const mostPulls = 1000

// PullRequests lists the open pull requests of a repository. An API that is not named is github.com's.
func PullRequests(ctx context.Context, f Forge, owner, name string) ([]PullRequest, error) {
	base := f.API
	if base == "" {
		base = "https://api.github.com/"
	}
	api, err := url.Parse(strings.TrimSuffix(base, "/") + "/")
	if err != nil || api.Host == "" || (api.Scheme != "https" && api.Scheme != "http") {
		return nil, fmt.Errorf("%q is no URL of an API", base)
	}
	client := f.client(api)
	var out []PullRequest
	opts := &github.PullRequestListOptions{State: "open", ListOptions: github.ListOptions{PerPage: 100}}
	for {
		page, response, err := client.PullRequests.List(ctx, owner, name, opts)
		if err != nil {
			return nil, fmt.Errorf("list the pull requests of %s/%s: %w", owner, name, plain(err))
		}
		for _, p := range page {
			out = append(out, pullOf(p))
		}
		if response.NextPage == 0 || len(out) >= mostPulls {
			return out, nil
		}
		opts.Page = response.NextPage
	}
}

func pullOf(p *github.PullRequest) PullRequest {
	out := PullRequest{Number: p.GetNumber(), Title: p.GetTitle(), Author: p.GetUser().GetLogin(), Branch: p.GetHead().GetRef(), Target: p.GetBase().GetRef(), Commit: p.GetHead().GetSHA()}
	for _, l := range p.Labels {
		out.Labels = append(out.Labels, l.GetName())
	}
	return out
}
