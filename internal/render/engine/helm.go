package engine

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"path"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/ignore"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"

	"github.com/gitopsd/gitopsd/internal/render"
)

// DefaultKubeVersion is what charts see as .Capabilities.KubeVersion when nobody says otherwise: the version of
// the libraries in go.mod.
const DefaultKubeVersion = "v1.36.3"

// helm does what helm template does (cmd/helm/template.go, action.Install with ClientOnly), without the parts of it
// that know a cluster: load, merge values, resolve dependencies within the chart, render, sort.
func helm(fsys fs.FS, where string, o render.Options, lookup Lookup) ([]render.Raw, *render.Release, error) {
	log.SetOutput(io.Discard) // Helm warns through the global logger
	c := &chartRun{fsys: fsys, dir: where, o: o.Helm, lookup: lookup}
	if c.o.Namespace == "" {
		c.o.Namespace = o.Namespace
	}
	if c.o.Namespace == "" {
		c.o.Namespace = "default"
	}
	if c.o.ReleaseName == "" {
		c.o.ReleaseName = "release-name"
	}
	if err := chartutil.ValidateReleaseName(c.o.ReleaseName); err != nil {
		return nil, nil, c.invalid("", "release name "+strconv.Quote(c.o.ReleaseName)+" is not valid: "+err.Error(), "set helm.releaseName")
	}
	ch, err := c.load()
	if err != nil {
		return nil, nil, err
	}
	c.secrets.values(ch.Values)
	values, err := c.values()
	if err != nil {
		return nil, nil, err
	}
	release, err := c.release(ch, values)
	if err != nil {
		return nil, nil, err
	}
	objects, err := c.render(ch, values)
	return objects, release, err
}

type chartRun struct {
	fsys    fs.FS
	dir     string
	o       render.HelmOptions
	lookup  Lookup // nil: there is no cluster
	secrets secrets
	tests   bool // keep test hooks
}

func (c *chartRun) invalid(file, text, next string) error {
	if file == "" {
		file = path.Join(c.dir, "Chart.yaml")
	}
	return &render.Error{Class: render.ErrInvalid, File: file, Text: text, Next: next}
}

// load reads the chart as loader.LoadDir does, but from the fs.FS.
func (c *chartRun) load() (*chart.Chart, error) {
	files, err := c.walk()
	if err != nil {
		return nil, err
	}
	return c.build(files)
}

// walk collects the chart's files: .helmignore is honoured, links are followed.
func (c *chartRun) walk() ([]*loader.BufferedFile, error) {
	rules := ignore.Empty()
	if data, err := fs.ReadFile(c.fsys, path.Join(c.dir, ignore.HelmIgnore)); err == nil {
		if rules, err = ignore.Parse(bytes.NewReader(data)); err != nil {
			return nil, c.invalid(path.Join(c.dir, ignore.HelmIgnore), err.Error(), "correct the pattern")
		}
	}
	rules.AddDefaults()
	w := &chartWalk{fsys: c.fsys, dir: c.dir, rules: rules}
	if err := w.folder("", 0); err != nil {
		if errors.Is(err, errTooManyFiles) {
			return nil, &render.Error{Class: render.ErrLimit, File: c.dir, Text: fmt.Sprintf("the chart holds more than %d files", maxFiles), Next: "name in .helmignore what is not part of it"}
		}
		return nil, err
	}
	return w.files, nil
}

// build makes a chart of its files.
func (c *chartRun) build(files []*loader.BufferedFile) (*chart.Chart, error) {
	for _, f := range files { // the loader's own errors have no file
		if chartFile.MatchString(f.Name) {
			if _, err := (document{text: f.Data, line: 1}).toJSON(path.Join(c.dir, f.Name), false); err != nil {
				return nil, err
			}
		}
	}
	ch, err := loader.LoadFiles(files)
	if err != nil {
		return nil, c.loadError(err)
	}
	if t := ch.Metadata.Type; t != "" && t != "application" {
		return nil, c.invalid("", t+" charts cannot be installed", "point the path at an application chart")
	}
	if name := ch.Metadata.Name; name == "." || name == ".." || strings.ContainsAny(name, "/\\") {
		return nil, &render.Error{Class: render.ErrRefused, File: path.Join(c.dir, "Chart.yaml"), Text: "chart name " + strconv.Quote(name) + " is a path", Next: "give the chart a name"}
	}
	if ch, err = c.complete(ch, files); err != nil {
		return nil, err
	}
	return ch, c.checkDependencies(ch)
}

// chartFile are the files of a chart and its dependencies that have to be YAML before anything is rendered.
var chartFile = regexp.MustCompile(`^(?:charts/[^/]+/)*(?:values|Chart)\.yaml$`)

func (c *chartRun) loadError(err error) error {
	return c.invalid("", "the chart does not load: "+c.clean(err), "run helm lint")
}

// checkDependencies is action.CheckDependencies, which cannot be had without linking a Kubernetes client.
func (c *chartRun) checkDependencies(ch *chart.Chart) error {
	var missing []string
	for _, i := range missingDependencies(ch) {
		missing = append(missing, ch.Metadata.Dependencies[i].Name)
	}
	if len(missing) == 0 {
		return nil
	}
	return c.lacks(missing)
}

// values merges the values files, the layers and the inline values, the later over the earlier, as -f and --set-json do.
func (c *chartRun) values() (map[string]any, error) {
	merged := map[string]any{}
	for _, name := range c.o.ValuesFiles {
		more, err := c.valuesFile(name)
		if err != nil {
			return nil, err
		}
		c.secrets.values(more)
		merged = merge(merged, more)
	}
	for _, l := range c.o.Layers {
		var err error
		if merged, err = c.lay(l, merged); err != nil {
			return nil, err
		}
	}
	c.secrets.values(c.o.Values)
	return merge(merged, c.o.Values), nil
}

// clean is an error's text on one line, without the secrets that are known from the values.
func (c *chartRun) clean(err error) string { return c.secrets.clean(err) }

// merge is values.mergeMaps of Helm: maps are merged, everything else is replaced.
func merge(a, b map[string]any) map[string]any {
	out := make(map[string]any, len(a)+len(b))
	for k, v := range a {
		out[k] = v
	}
	for k, v := range b {
		if over, ok := v.(map[string]any); ok {
			if under, ok := out[k].(map[string]any); ok {
				out[k] = merge(under, over)
				continue
			}
		}
		out[k] = v
	}
	return out
}

func (c *chartRun) render(ch *chart.Chart, values map[string]any) ([]render.Raw, error) {
	if err := chartutil.ProcessDependenciesWithMerge(ch, values); err != nil {
		return nil, c.invalid("", "the dependencies do not resolve: "+c.clean(err), "run helm lint")
	}
	caps, err := c.capabilities()
	if err != nil {
		return nil, err
	}
	if want := ch.Metadata.KubeVersion; want != "" && !chartutil.IsCompatibleRange(want, caps.KubeVersion.String()) {
		return nil, c.invalid("", "the chart wants Kubernetes "+want+" and this is "+caps.KubeVersion.String(), "use a version of the chart made for it")
	}
	all, err := chartutil.ToRenderValuesWithSchemaValidation(ch, values, c.releaseOptions(), caps, false)
	if err != nil {
		return nil, c.valuesError(err)
	}
	files, err := c.templates(ch, all)
	if err != nil {
		return nil, c.templateError(ch, err)
	}
	for name := range files {
		if strings.HasSuffix(name, "NOTES.txt") {
			delete(files, name)
		}
	}
	hooks, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, c.manifestError(ch, err)
	}
	return c.collect(ch, hooks, manifests)
}

func (c *chartRun) capabilities() (*chartutil.Capabilities, error) {
	caps := chartutil.DefaultCapabilities.Copy()
	version := cmp.Or(c.o.KubeVersion, c.o.Cluster.KubeVersion, DefaultKubeVersion)
	kube, err := chartutil.ParseKubeVersion(version)
	if err != nil {
		return nil, c.invalid("", "kubeVersion "+strconv.Quote(version)+" is no version", "write it as v1.36.0")
	}
	caps.KubeVersion = *kube
	if c.o.Cluster.APIVersions != nil {
		caps.APIVersions = c.o.Cluster.APIVersions
	}
	caps.APIVersions = slices.Concat(caps.APIVersions, c.o.APIVersions)
	return caps, nil
}

// collect brings everything into the form in which helm template prints it, and cuts it into objects there.
func (c *chartRun) collect(ch *chart.Chart, hooks []*release.Hook, manifests []releaseutil.Manifest) ([]render.Raw, error) {
	var out []render.Raw
	add := func(name, content string, events []string) error {
		origin := c.origin(ch, name)
		for _, d := range splitDocuments([]byte("# Source: " + name + "\n" + content + "\n")) {
			objects, err := d.raws(origin, false)
			if err != nil {
				var e *render.Error
				if errors.As(err, &e) {
					e.Line, e.Text = 0, "the rendered template is no YAML: "+e.Text
					e.Next = "run helm template --debug to see what it renders to"
				}
				return err
			}
			for i := range objects {
				objects[i].Origin, objects[i].Hooks = origin, events
			}
			out = append(out, objects...)
		}
		return nil
	}
	if !c.o.SkipCRDs {
		for _, crd := range ch.CRDObjects() {
			if err := add(crd.Filename, string(crd.File.Data), nil); err != nil {
				return nil, err
			}
		}
	}
	for _, m := range manifests {
		if err := add(m.Name, m.Content, nil); err != nil {
			return nil, err
		}
	}
	for _, h := range hooks {
		var events []string
		for _, e := range h.Events {
			events = append(events, string(e))
		}
		if !c.tests && contains(events, string(release.HookTest)) {
			continue
		}
		sort.Strings(events)
		if err := add(h.Path, h.Manifest, events); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// origin turns a template's name, which begins with the chart's name, into a file of the repository.
func (c *chartRun) origin(ch *chart.Chart, name string) string {
	if rest, ok := strings.CutPrefix(name, ch.Name()+"/"); ok {
		name = rest
	}
	return path.Join(c.dir, name)
}

// place is where Helm's errors say a template failed: chart/templates/x.yaml:12:3.
var place = regexp.MustCompile(`([\w.+-]+(?:/[\w.+-]+)+):(\d+)(?::\d+)?`)

func (c *chartRun) templateError(ch *chart.Chart, err error) error {
	text := c.clean(err)
	out := &render.Error{Class: render.ErrInvalid, File: path.Join(c.dir, "templates"), Text: "the template fails: " + text, Next: "correct the template or the values"}
	if all := place.FindAllStringSubmatch(text, -1); all != nil { // the last is the innermost
		last := all[len(all)-1]
		out.File = c.origin(ch, last[1])
		out.Line, _ = strconv.Atoi(last[2])
	}
	return out
}

func (c *chartRun) manifestError(ch *chart.Chart, err error) error {
	out := yamlError(path.Join(c.dir, "templates"), 0, errors.Unwrap(err)).(*render.Error)
	if m := regexp.MustCompile(`parse error on (\S+?):? `).FindStringSubmatch(err.Error() + " "); m != nil {
		out.File = c.origin(ch, m[1])
	}
	line := ""
	if out.Line > 0 {
		line = fmt.Sprintf(" (line %d of what it renders to)", out.Line)
	}
	out.Line, out.Text, out.Next = 0, out.Text+line, "run helm template --debug to see what it renders to"
	return out
}

func (c *chartRun) valuesError(err error) error {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	sort.SliceStable(lines, func(i, j int) bool { // the validator goes through maps
		return strings.HasPrefix(lines[i], "- at") && strings.HasPrefix(lines[j], "- at") && lines[i] < lines[j]
	})
	return c.invalid(path.Join(c.dir, "values.schema.json"), "the values do not fit the chart's schema: "+c.clean(errors.New(strings.Join(lines, " "))), "correct the values")
}

// chartWalk collects the files of a chart's folder.
type chartWalk struct {
	fsys  fs.FS
	dir   string
	rules *ignore.Rules
	seen  int
	files []*loader.BufferedFile
}

func (w *chartWalk) read(name string) ([]byte, error) {
	if d, ok := w.fsys.(*decrypting); ok {
		return d.readIfOpen(name)
	}
	return fs.ReadFile(w.fsys, name)
}

func (w *chartWalk) folder(rel string, depth int) error {
	entries, err := fs.ReadDir(w.fsys, path.Join(w.dir, rel))
	if err != nil {
		return filesError(path.Join(w.dir, rel), err)
	}
	for _, e := range entries {
		if w.seen++; w.seen > maxFiles || depth > 100 {
			return errTooManyFiles
		}
		name := path.Join(rel, e.Name())
		where := path.Join(w.dir, name)
		info, err := fs.Stat(w.fsys, where)
		if err != nil {
			return filesError(where, err)
		}
		switch {
		case w.rules.Ignore(name, info):
		case info.IsDir():
			if err := w.folder(name, depth+1); err != nil {
				return err
			}
		case info.Size() > loader.MaxDecompressedFileSize:
			return &render.Error{Class: render.ErrLimit, File: where, Text: "the file is too large for a chart", Next: "name it in .helmignore"}
		default:
			data, err := w.read(where)
			if err != nil {
				return filesError(where, err)
			}
			w.files = append(w.files, &loader.BufferedFile{Name: name, Data: bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))})
		}
	}
	return nil
}
