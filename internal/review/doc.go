// Package review tells the forge that a repository lives on what became of a commit, where people look at it: as a commit status.
//
// In goes a Status; out goes one request to the forge's API. GitHub's API is spoken, by GitHub, GitHub Enterprise Server and those
// who offer the same (Gitea and Forgejo at /api/v1). It decides nothing and knows nothing of a cluster; the token goes to the API's
// address and nowhere else.
package review
