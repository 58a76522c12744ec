package engine

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/gitopsd/gitopsd/internal/render"
)

// kustomize does what kustomize build does with its defaults: no plugins, no functions, files only from
// within each kustomization's own folder; and with --enable-helm, without the helm program.
func (out *Output) kustomize(fsys fs.FS, where string, o render.Options, lookup Lookup) (err error) {
	view := newKustomizeFS(fsys)
	view.options, view.lookup = o.Helm, lookup
	defer func() {
		// A library that panics on a stranger's file must not take the process with it without a word.
		if r := recover(); r != nil {
			out.Tainted = true
			err = view.explain(where, fmt.Errorf("kustomize panics: %v", r))
		}
		// The schema is global: a kustomization with openapi changes what the next one means. The library can reset
		// it, at the price of 0.17 s for parsing it again, which is more than a new process costs.
		out.Tainted = out.Tainted || view.changesSchema()
	}()
	k := krusty.MakeKustomizer(&krusty.Options{
		Reorder:          krusty.ReorderOptionUnspecified,
		LoadRestrictions: types.LoadRestrictionsRootOnly,
		PluginConfig:     types.DisabledPluginConfig(),
	})
	result, err := k.Run(view, "/"+strings.TrimPrefix(where, "."))
	if view.failed != nil {
		return view.failed
	}
	if err != nil {
		return view.explain(where, err)
	}
	out.Charts = out.Charts || view.charts
	origin := path.Join(where, kustomizationIn(fsys, where))
	for _, r := range result.Resources() {
		if err := view.tellOrigin(where, r); err != nil {
			return view.explain(where, err)
		}
		raws, err := kustomized(r, origin)
		if err != nil {
			return view.explain(where, err)
		}
		out.Objects = append(out.Objects, raws...)
	}
	return nil
}

// changesSchema reports whether any kustomization that was read has an openapi field, or cannot be understood here.
func (k *kustomizeFS) changesSchema() bool {
	for _, data := range k.read {
		var kust types.Kustomization
		if err := sigsyaml.Unmarshal(data, &kust); err != nil || len(kust.OpenAPI) > 0 {
			return true
		}
	}
	return false
}

func kustomized(r *resource.Resource, origin string) ([]render.Raw, error) {
	text, err := r.AsYAML()
	if err != nil {
		return nil, err
	}
	content, err := (document{text: text, line: 1}).toJSON(origin, false)
	if err != nil {
		return nil, err
	}
	return expand(render.Raw{YAML: text, JSON: content, Origin: origin})
}
