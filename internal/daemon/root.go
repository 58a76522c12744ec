package daemon

import (
	"errors"
	"fmt"
	"os"

	"github.com/gitopsd/gitopsd/internal/pipeline"
	"github.com/gitopsd/gitopsd/internal/source"
)

// rootApplication is the first Application as it was asked for on the command line.
type rootApplication = pipeline.Root

// load checks what was said about the first Application before anything is started. Nil when nothing was: an
// Application that an earlier start made goes on.
func (r *RootSource) load() (*rootApplication, error) {
	if r.Repo == "" {
		if r.Ref != "" || r.Path != "" || r.Credentials != "" || r.Secret != "" || r.ServiceAccount != "" {
			return nil, errors.New("--ref, --path, --git-credentials, --git-secret and --service-account are about the repository that is followed first; name it with --repo")
		}
		return nil, nil
	}
	given := r.Repo
	var err error
	if r.Repo, err = source.Canonical(given); err != nil { // from here on without a password
		return nil, fmt.Errorf("--repo: %w", err)
	}
	credentials := &source.Credentials{}
	if r.Credentials != "" {
		file, err := os.ReadFile(r.Credentials)
		if err != nil {
			return nil, fmt.Errorf("--git-credentials: %w", err)
		}
		if credentials, err = source.ParseCredentials(file); err != nil {
			return nil, fmt.Errorf("--git-credentials %s: %w", r.Credentials, err)
		}
	}
	data, err := credentials.SecretData(given) // those in the URL come first
	if err != nil {
		return nil, fmt.Errorf("--repo: %w", err)
	}
	if r.Credentials != "" && len(data) == 0 {
		return nil, fmt.Errorf("--git-credentials %s: none of it is for the host of --repo", r.Credentials)
	}
	if r.Secret != "" && len(data) > 0 {
		return nil, errors.New("--git-secret and credentials in --repo or --git-credentials are two ways to say one thing; use one of them")
	}
	root := &rootApplication{Repo: r.Repo, Ref: r.Ref, Path: r.Path, Secret: r.Secret, ServiceAccount: r.ServiceAccount}
	if len(data) > 0 {
		root.Credentials = data
	}
	return root, nil
}
