package source

import (
	"context"
	"strings"
)

// Branches asks a Git repository for its branches, and the commit of each. Nothing is fetched.
func (s *Store) Branches(ctx context.Context, spec Spec) (map[string]string, error) {
	a, k, err := spec.parse()
	if err != nil {
		return nil, err
	}
	if k != gitKind {
		return nil, &Error{Class: ErrRefused, Repo: a.String(), Text: "such a source has no branches", Next: "name a Git repository"}
	}
	r := newRemote(s, a, spec.Credentials.forAddress(a))
	defer r.forget()
	defer func() {
		if r.http != nil {
			r.http.CloseIdleConnections()
		}
	}()
	ctx, dog, stop := watch(ctx, s.cfg.Limits.Stall)
	defer stop()
	out, err := r.branches(ctx, dog)
	return out, classify(ctx, a.String(), err)
}

func (r *remote) branches(ctx context.Context, dog *watchdog) (map[string]string, error) {
	session, err := r.open(ctx, dog)
	if err != nil {
		return nil, err
	}
	defer session.close()
	list, err := session.refs(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, commit := range list.hashes {
		if branch, ok := strings.CutPrefix(name, "refs/heads/"); ok {
			out[branch] = commit.String()
		}
	}
	return out, nil
}
