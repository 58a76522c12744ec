package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/appset"
	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/intent"
	"github.com/gitopsd/gitopsd/internal/pipeline"
	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/render/cache"
	"github.com/gitopsd/gitopsd/internal/review"
	"github.com/gitopsd/gitopsd/internal/source"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	clientcache "k8s.io/client-go/tools/cache"
)

// engine is what the pipeline runs with, on our own control plane and on anybody's cluster.
type engine struct {
	client   *rest.Config
	dataDir  string // mirrors of repositories and the unpacked programs
	contents pipeline.Contents
	ledger   pipeline.Ledger
	turn     apply.Turn
	log      *slog.Logger
	metrics  *pipeline.Metrics

	requireAccount bool
	namespace      string // the engine's own
	options        SourceOptions
}

func (e engine) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	sources, err := source.Open(ctx, source.Config{Dir: filepath.Join(e.dataDir, "git"), Logger: e.log,
		Keep: &source.Keep{Unused: e.options.Unused, MaxBytes: e.options.CacheBytes, Measured: e.metrics.SourceCache}})
	if err != nil {
		cancel()
		return err
	}
	defer sources.Wait()
	defer cancel()
	programs, err := bundle.Unpack(filepath.Join(e.dataDir, "bundle"))
	if err != nil {
		return err
	}
	renderer, err := render.NewPool(render.PoolConfig{Program: programs.Path(bundle.Render), Logger: e.log})
	if err != nil {
		return err
	}
	defer renderer.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return e.hearWebhooks(ctx, sources.Trigger) })
	group.Go(func() error { return e.runPipeline(ctx, sources, renderer) })
	return group.Wait()
}

func (e engine) runPipeline(ctx context.Context, sources *source.Store, renderer *render.Pool) error {
	kept, err := e.keepRendered(renderer)
	if err != nil {
		return err
	}
	sets := func(ctx context.Context, api rest.Interface, apps clientcache.SharedIndexInformer) error {
		return appset.Run(ctx, appset.Config{Client: e.client, API: api, Applications: apps, Sources: sources, Turn: e.turn.Valid, Allowed: e.mayRead, Log: e.log})
	}
	return pipeline.Run(ctx, pipeline.Config{Client: e.client, Sources: sources, Charts: sources, Renderer: kept, Contents: e.contents, Ledger: e.ledger,
		Announce: review.Set, Beside: sets, Turn: e.turn, RequireAccount: e.requireAccount, Namespace: e.namespace, AllowFiles: e.options.AllowFiles, Log: e.log, Metrics: e.metrics})
}

// mayRead keeps ApplicationSets of tenants away from the folders of this machine.
func (e engine) mayRead(namespace, repo string) error {
	return pipeline.RefuseFiles(e.options.AllowFiles || namespace == e.namespace, repo, e.namespace)
}

// keepRendered keeps what is rendered in the data directory, sealed: it holds Secrets.
func (e engine) keepRendered(renderer cache.Renderer) (*cache.Cache, error) {
	dir := filepath.Join(e.dataDir, "rendered")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of rendered objects: %w", err)
	}
	box, err := intent.OpenBox(filepath.Join(dir, "key"))
	if err != nil {
		return nil, err
	}
	return cache.Open(cache.Config{Dir: filepath.Join(dir, "results"), Box: box, Seen: e.metrics.Rendered, Log: e.log}, renderer)
}
