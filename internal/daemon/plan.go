package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/diff"
	"github.com/gitopsd/gitopsd/internal/intent"
	"github.com/gitopsd/gitopsd/internal/pipeline"
	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/source"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Look compares what Git says with what runs, for the command line. It renders in workers of its own, asks the API by
// dry-runs and writes nothing into the cluster.
type Look struct {
	dataDir string
	client  *rest.Config
	preview *pipeline.Preview
}

// NewLook looks at the Applications of an instance with its administrator's client.
func NewLook(dataDir string, client *rest.Config, all []v1alpha1.Application) (*Look, error) {
	p, err := pipeline.NewPreview(client, all)
	return &Look{dataDir, client, p}, err
}

// Revision says what of an Application to look at; the zero Revision is the newest commit that the instance has seen.
type Revision struct {
	Rev string // a commit, the first digits of one, a branch or a tag
	Dir string // a working copy
}

// Plan says what syncing a revision of an Application would change.
func (l *Look) Plan(ctx context.Context, app *v1alpha1.Application, r Revision) (diff.Plan, error) {
	if r.Dir != "" {
		return l.planDir(ctx, app, r.Dir)
	}
	if r.Rev == "" {
		r.Rev = app.Status.ObservedCommit
	}
	if r.Rev == "" {
		return diff.Plan{}, fmt.Errorf("no commit of Application %s was seen yet; look with: gitopsd status %s", app.Name, app.Name)
	}
	commit, result, err := l.renderAt(ctx, app, r.Rev)
	if err != nil {
		return diff.Plan{}, err
	}
	return l.preview.Plan(ctx, app, commit, result.Objects)
}

func (l *Look) planDir(ctx context.Context, app *v1alpha1.Application, dir string) (diff.Plan, error) {
	top, err := WorkingCopy(dir, app.Spec.Source.Path)
	if err != nil {
		return diff.Plan{}, err
	}
	root, err := os.OpenRoot(top)
	if err != nil {
		return diff.Plan{}, fmt.Errorf("--dir: %w", err)
	}
	defer root.Close()
	result, err := l.render(ctx, app, source.Snapshot{FS: root.FS()})
	if err != nil {
		return diff.Plan{}, err
	}
	return l.preview.Plan(ctx, app, "the working copy "+top, result.Objects)
}

// WorkingCopy finds the root of the repository that a person means by dir: dir itself when the Application's path is
// below it, or else the checkout that dir lies in.
func WorkingCopy(dir, path string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(abs); err != nil || !info.IsDir() {
		return "", fmt.Errorf("--dir: there is no folder %s", abs)
	}
	holds := func(root string) bool {
		_, err := os.Stat(filepath.Join(root, filepath.FromSlash(path)))
		return err == nil
	}
	whole := strings.Trim(path, "./") == ""
	if !whole && holds(abs) {
		return abs, nil
	}
	for d := abs; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, ".git")); err == nil && holds(d) {
			return d, nil
		}
		if d == filepath.Dir(d) {
			break
		}
	}
	if whole {
		return abs, nil
	}
	return "", fmt.Errorf("--dir: %s lies in no working copy with the folder %s, which the Application follows", abs, path)
}

// Drift says how the cluster differs from the applied revision of an Application: from its kept content where this
// machine has that, or else from its commit.
func (l *Look) Drift(ctx context.Context, app *v1alpha1.Application) (diff.Drift, error) {
	applied := app.Status.AppliedRevision
	if applied == nil {
		return diff.Drift{}, fmt.Errorf("nothing of Application %s was applied yet; look with: gitopsd status %s", app.Name, app.Name)
	}
	if content, ok := l.kept(ctx, app, applied.Content); ok {
		return l.preview.Drift(ctx, app, content, nil)
	}
	_, result, err := l.renderAt(ctx, app, applied.Commit)
	if err != nil {
		return diff.Drift{}, err
	}
	return l.preview.Drift(ctx, app, nil, result.Objects)
}

// kept reads a content that the instance keeps: in its data directory, or in its namespace of the cluster.
func (l *Look) kept(ctx context.Context, app *v1alpha1.Application, name string) ([]byte, bool) {
	if name == "" {
		return nil, false
	}
	var store interface {
		Get(owner, name string) ([]byte, error)
	}
	dir := filepath.Join(l.dataDir, "revisions")
	if _, err := os.Stat(dir); err == nil {
		if store, err = intent.OpenFiles(dir); err != nil {
			return nil, false
		}
	} else if kube, err := kubernetes.NewForConfig(l.client); err != nil {
		return nil, false
	} else if store, err = intent.ReadSecrets(ctx, kube.CoreV1().Secrets(EngineNamespace(l.dataDir))); err != nil {
		return nil, false
	}
	content, err := store.Get(pipeline.OwnerOf(app), name)
	return content, err == nil
}

// EngineNamespace is where the engine that a data directory belongs to keeps its things; the default where there is none.
func EngineNamespace(dataDir string) string {
	if o, err := LoadOptions(dataDir); err == nil && o.Namespace != "" {
		return o.Namespace
	}
	return pipeline.DefaultNamespace
}

func (l *Look) render(ctx context.Context, app *v1alpha1.Application, s source.Snapshot) (*render.Result, error) {
	req, err := l.preview.Request(ctx, app, s)
	if err != nil {
		return nil, err
	}
	return l.complete(ctx, app, req)
}

// complete renders, and fetches the charts that the files ask for and do not hold into a folder that goes again.
func (l *Look) complete(ctx context.Context, app *v1alpha1.Application, req render.Request) (*render.Result, error) {
	dir, err := os.MkdirTemp("", "gitopsd-charts-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var result *render.Result
	err = withStore(ctx, dir, func(ctx context.Context, store *source.Store) error {
		spec := func() (source.Spec, error) { return l.preview.Source(ctx, app) }
		result, err = pipeline.Complete(ctx, store, spec, app, req.FS, func(files fs.FS) (*render.Result, error) {
			req.FS = files
			return Render(ctx, l.dataDir, req)
		})
		return err
	})
	return result, err
}

// renderAt renders an Application at a commit, or at what a branch or tag names now.
func (l *Look) renderAt(ctx context.Context, app *v1alpha1.Application, rev string) (commit string, result *render.Result, err error) {
	spec, err := l.preview.Source(ctx, app)
	if err != nil {
		return "", nil, err
	}
	use := func(s source.Snapshot) error {
		commit = s.Commit
		if err := l.preview.Signed(ctx, app, s); err != nil {
			return err
		}
		result, err = l.render(ctx, app, s)
		return err
	}
	if looksLikeHash(rev) {
		found, err := l.fromMirror(ctx, spec, rev, use)
		if found || err != nil {
			return commit, result, err
		}
	}
	return commit, result, fromRemote(ctx, spec, rev, use)
}

// fromMirror reads a commit of which the instance has a copy; false when it has none.
func (l *Look) fromMirror(ctx context.Context, spec source.Spec, prefix string, use func(source.Snapshot) error) (bool, error) {
	dir := filepath.Join(l.dataDir, "git")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil // an instance elsewhere
	}
	found := false
	err := withStore(ctx, dir, func(ctx context.Context, store *source.Store) error {
		commits, err := store.Find(spec, prefix)
		if err != nil || len(commits) == 0 {
			return err
		}
		found = true
		if len(commits) > 1 {
			return fmt.Errorf("--rev %s is the beginning of several commits; write more of it", prefix)
		}
		s, err := store.At(spec, commits[0])
		if err != nil {
			return err
		}
		return use(s)
	})
	return found, err
}

// fromRemote asks the repository itself, into a folder that goes again.
func fromRemote(ctx context.Context, spec source.Spec, rev string, use func(source.Snapshot) error) error {
	dir, err := os.MkdirTemp("", "gitopsd-plan-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return withStore(ctx, dir, func(ctx context.Context, store *source.Store) error {
		refs := []source.Ref{{Branch: rev}, {Tag: rev}}
		switch {
		case spec.Archived():
			refs = []source.Ref{{Tag: rev}}
			if strings.HasPrefix(rev, "sha256:") {
				refs = []source.Ref{{Digest: rev}}
			}
		case len(rev) == 40 && looksLikeHash(rev):
			refs = append(refs, source.Ref{Commit: rev})
		}
		for _, ref := range refs {
			spec.Ref = ref
			s, err := store.Snapshot(ctx, spec)
			if errors.Is(err, source.ErrRefNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			return use(s)
		}
		return fmt.Errorf("--rev %s is no branch or tag of the repository, and no commit that the instance has read; write a branch, a tag or a whole commit", rev)
	})
}

func withStore(ctx context.Context, dir string, f func(context.Context, *source.Store) error) error {
	ctx, cancel := context.WithCancel(ctx)
	store, err := source.Open(ctx, source.Config{Dir: dir})
	if err == nil {
		defer store.Wait()
	}
	defer cancel()
	if err != nil {
		return err
	}
	return f(ctx, store)
}

func looksLikeHash(rev string) bool {
	hash, digest := strings.CutPrefix(rev, "sha256:")
	return len(hash) >= 4 && (len(hash) <= 40 || digest && len(hash) <= 64) && strings.Trim(hash, "0123456789abcdef") == ""
}
