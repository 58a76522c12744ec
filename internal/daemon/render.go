package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/bundle"
	"github.com/gitopsd/gitopsd/internal/intent"
	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/render/cache"
	"k8s.io/client-go/rest"
)

// Render renders for the command line, in workers of its own. The programs are those of the instance in dataDir; who
// may not write there gets copies in the user's cache folder.
func Render(ctx context.Context, dataDir string, req render.Request) (*render.Result, error) {
	programs, err := bundle.Unpack(filepath.Join(dataDir, "bundle"))
	if os.IsPermission(err) || os.IsNotExist(err) {
		home, homeErr := os.UserCacheDir()
		if homeErr != nil {
			return nil, err
		}
		programs, err = bundle.Unpack(filepath.Join(home, "gitopsd", "bundle"))
	}
	if err != nil {
		return nil, err
	}
	pool, err := render.NewPool(render.PoolConfig{Program: programs.Path(bundle.Render), Workers: 1})
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	if req.Owner == "" { // a folder, and no Application
		return pool.Render(ctx, req)
	}
	return keptBeside(dataDir, pool).Render(ctx, req)
}

// keptBeside answers from what the instance in dataDir keeps, where this user may read that: a chart with random values is told as
// it is applied. The rest is rendered here and kept by nobody.
func keptBeside(dataDir string, next cache.Renderer) cache.Renderer {
	dir := filepath.Join(dataDir, "rendered")
	key := filepath.Join(dir, "key")
	if _, err := os.Stat(key); err != nil {
		return next
	}
	box, err := intent.OpenBox(key)
	if err != nil {
		return next
	}
	kept, err := cache.Open(cache.Config{Dir: filepath.Join(dir, "results"), Box: box, ReadOnly: true}, next)
	if err != nil {
		return next
	}
	return kept
}

// RenderApplication renders an Application at the commit that its instance saw last, from the instance's mirror, with what the
// cluster says to it.
func RenderApplication(ctx context.Context, dataDir string, client *rest.Config, app *v1alpha1.Application) (*render.Result, error) {
	if app.Status.ObservedCommit == "" {
		return nil, fmt.Errorf("no commit of Application %s was seen yet; look with: gitopsd status %s", app.Name, app.Name)
	}
	l, err := NewLook(dataDir, client, nil)
	if err != nil {
		return nil, err
	}
	_, result, err := l.renderAt(ctx, app, app.Status.ObservedCommit)
	return result, err
}
