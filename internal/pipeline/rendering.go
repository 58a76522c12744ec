package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/source"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// rendered is the outcome of rendering one commit under one spec, good or bad. A commit is rendered once: charts may
// call clocks and random functions, and what failed once fails again.
type rendered struct {
	commit, options string
	revision        int64         // as which a chart was rendered; 0 for what knows no releases
	inputs          render.Inputs // what was read, and looked for in vain
	objects         []apply.Object
	release         *render.Release
	err             error
}

func (e *Engine) render(ctx context.Context, app *v1alpha1.Application, w *work, s source.Snapshot) ([]apply.Object, error) {
	req, err := e.request(ctx, app, s)
	if err != nil {
		w.rendered = rendered{}
		return nil, err
	}
	w.first = req.Helm.Revision
	options, err := fingerprint(req)
	if err != nil {
		return nil, err
	}
	if w.rendered.commit == s.Commit && w.rendered.options == options {
		return w.rendered.objects, w.rendered.err
	}
	files := e.laid(app, w, s)
	req.FS = files
	if w.rendered.options == options && w.rendered.err == nil && len(w.rendered.inputs) > 0 && w.rendered.inputs.Match(files) {
		w.rendered.commit = s.Commit // a commit that concerns others
		w.noteCharts(app, w.rendered.inputs)
		e.cfg.Metrics.Rendered(true)
		e.noteReading(app, s, w.rendered.inputs)
		return w.rendered.objects, nil
	}
	result, err := e.cfg.Renderer.Render(ctx, req)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if missing := needsOf(err); len(missing) > 0 && e.cfg.Charts != nil {
		return nil, e.fetch(ctx, app, w, missing)
	}
	if passes(err) {
		if w.rendered.err != nil { // it is not what fails now
			w.rendered = rendered{}
		}
		return nil, err // no fault of the files: worth another try
	}
	r := rendered{commit: s.Commit, options: options, err: err}
	if err == nil {
		r.inputs, r.revision, r.release = result.Inputs, result.Revision, result.Release
		r.objects = desiredOf(result.Objects)
		w.noteCharts(app, r.inputs)
	}
	w.rendered = r
	e.noteReading(app, s, r.inputs)
	return r.objects, r.err
}

// passes says that a rendering may go better the next time.
func passes(err error) bool {
	return errors.Is(err, render.ErrInternal) || errors.Is(err, render.ErrFiles) || errors.Is(err, render.ErrLookup)
}

// fingerprint is what an Application asks for besides the files: not the number of the revision, and not what the cluster is like,
// by which nothing is rendered anew.
func fingerprint(req render.Request) (string, error) {
	options := req.Options
	options.Helm.Revision, options.Helm.Upgrade, options.Helm.Cluster = 0, false, render.Cluster{}
	text, err := json.Marshal([]any{req.Path, req.Scope, req.Owner, options})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text) // it may hold values of Secrets
	return hex.EncodeToString(sum[:]), nil
}

// namespaceFor says where objects go that name no namespace: Applications live where their parent lives.
func namespaceFor(app *v1alpha1.Application) func(schema.GroupKind) string {
	return func(gk schema.GroupKind) string {
		switch {
		case gk.Group == v1alpha1.GroupVersion.Group:
			return app.Namespace
		case app.Spec.Destination.Namespace != "":
			return app.Spec.Destination.Namespace
		}
		return "default"
	}
}
