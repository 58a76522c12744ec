package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

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
	inputs          render.Inputs // what was read, and looked for in vain
	objects         []apply.Object
	err             error
}

func (e *Engine) render(ctx context.Context, app *v1alpha1.Application, w *work, s source.Snapshot) ([]apply.Object, error) {
	req, err := RequestFor(app, s)
	if err != nil {
		return nil, err
	}
	options, err := json.Marshal([]any{req.Path, req.Options})
	if err != nil {
		return nil, err
	}
	if w.rendered.commit == s.Commit && w.rendered.options == string(options) {
		return w.rendered.objects, w.rendered.err
	}
	if w.rendered.options == string(options) && w.rendered.err == nil && len(w.rendered.inputs) > 0 && w.rendered.inputs.Match(s.FS) {
		w.rendered.commit = s.Commit // a commit that concerns others
		e.noteReading(app, s, w.rendered.inputs)
		return w.rendered.objects, nil
	}
	result, err := e.cfg.Renderer.Render(ctx, req)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	r := rendered{commit: s.Commit, options: string(options), err: err}
	if err == nil {
		r.inputs = result.Inputs
		for _, o := range result.Objects {
			r.objects = append(r.objects, apply.Object{Unstructured: o.Object, Origin: o.Origin})
		}
	}
	if errors.Is(err, render.ErrInternal) || errors.Is(err, render.ErrFiles) {
		return nil, err // no fault of the files: worth another try
	}
	w.rendered = r
	e.noteReading(app, s, r.inputs)
	return r.objects, r.err
}

// RequestFor is what an Application asks to be rendered of a snapshot.
func RequestFor(app *v1alpha1.Application, s source.Snapshot) (render.Request, error) {
	req := render.Request{FS: s.FS, Path: app.Spec.Source.Path}
	req.Options.Namespace = namespaceFor(app)(schema.GroupKind{})
	if app.Spec.Render == nil || app.Spec.Render.Helm == nil {
		req.Options.Helm.ReleaseName = app.Name
		return req, nil
	}
	h := app.Spec.Render.Helm
	req.Kind = render.Helm
	req.Options.Helm.ReleaseName = h.ReleaseName
	if h.ReleaseName == "" {
		req.Options.Helm.ReleaseName = app.Name
	}
	req.Options.Helm.ValuesFiles = slices.Clone(h.ValuesFiles)
	if h.Values != nil {
		if err := json.Unmarshal(h.Values.Raw, &req.Options.Helm.Values); err != nil {
			return req, fmt.Errorf("spec.render.helm.values is no object: %w", err)
		}
	}
	return req, nil
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
