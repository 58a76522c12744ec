//lint:file-ignore SA1019 people use the deprecated fields of kustomizations
package engine

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig/v3"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/kio"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
	"sigs.k8s.io/kustomize/kyaml/yaml/merge2"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/gitopsd/gitopsd/internal/render"
)

// inflate does for the helmCharts of a kustomization what kustomize build --enable-helm has a helm program do
// (api/internal/builtins/HelmChartInflationGenerator.go): it renders each chart here, shows the result to Kustomize as one more
// file, and the kustomization with that file among its resources instead of the charts.
func (k *kustomizeFS) inflate(name string, data []byte) ([]byte, error) {
	var kust types.Kustomization
	if err := sigsyaml.Unmarshal(data, &kust); err != nil {
		return data, nil //nolint:nilerr // Kustomize says what is wrong with it
	}
	namespace := k.inherit(path.Dir(name), &kust)
	if len(kust.HelmCharts)+len(kust.HelmChartInflationGenerator) == 0 {
		return data, nil
	}
	if _, err := sigsyaml.YAMLToJSONStrict(data); err != nil {
		return nil, yamlError(name, 0, err)
	}
	var fields map[string]any
	if err := sigsyaml.Unmarshal(data, &fields); err != nil {
		return nil, yamlError(name, 0, err)
	}
	resources, _ := fields["resources"].([]any)
	kust.FixKustomization() // makes one of the two fields
	globals := types.HelmGlobals{}
	if kust.HelmGlobals != nil {
		globals = *kust.HelmGlobals
	}
	for n, c := range kust.HelmCharts {
		if c.Namespace == "" {
			c.Namespace = namespace
		}
		i := &inflation{kustomizeFS: k, file: name, data: data, dir: path.Dir(name), globals: globals, HelmChart: c}
		k.charts = true
		out, err := i.run()
		if err != nil {
			return nil, err
		}
		if len(out) == 0 {
			continue
		}
		virtual := fmt.Sprintf("%s%d.yaml", virtualName, n)
		k.made[path.Join(i.dir, virtual)] = out
		resources = append(resources, virtual)
	}
	delete(fields, "helmCharts")
	delete(fields, "helmChartInflationGenerator")
	fields["resources"] = resources
	return sigsyaml.Marshal(fields)
}

// virtualName begins the names of the files that charts are shown as.
const virtualName = ".gitopsd-helm-chart-"

// tellOrigin says of an object that a chart made where it comes from (buildMetadata: [originAnnotations]): as Kustomize has it of what its own generator makes.
func (k *kustomizeFS) tellOrigin(root string, r *resource.Resource) error {
	o, err := r.GetOrigin()
	if err != nil || o == nil || !strings.HasPrefix(path.Base(o.Path), virtualName) {
		return err
	}
	dir := path.Dir(o.Path)
	o.ConfiguredIn = path.Join(dir, kustomizationIn(k.fsys, path.Join(root, dir)))
	o.ConfiguredBy = kyaml.ResourceIdentifier{TypeMeta: kyaml.TypeMeta{APIVersion: konfig.BuiltinPluginApiVersion, Kind: "HelmChartInflationGenerator"}}
	o.Path = ""
	return r.SetOrigin(o)
}

// inherit is the namespace for charts of a kustomization that name none: its own, or that of the one which uses it. Kustomize reads
// a kustomization each time it is used, just after the one that uses it.
func (k *kustomizeFS) inherit(dir string, kust *types.Kustomization) string {
	namespace := kust.Namespace
	if namespace == "" {
		namespace = k.namespaces[dir]
	}
	for _, used := range slices.Concat(kust.Resources, kust.Bases, kust.Components) {
		if at, _, err := k.CleanedAbs("/" + path.Join(dir, used)); err == nil {
			k.namespaces[strings.TrimPrefix(at.String(), "/")] = namespace
		}
	}
	return namespace
}

// inflation renders one entry of helmCharts.
type inflation struct {
	*kustomizeFS
	types.HelmChart
	file    string // the kustomization
	data    []byte
	dir     string // its folder
	globals types.HelmGlobals
}

func (i *inflation) invalid(text, next string) error { return i.blame(render.ErrInvalid, text, next) }

func (i *inflation) blame(class error, text, next string) error {
	return &render.Error{Class: class, File: i.file, Line: lineOf(i.data, "helmCharts", i.Name), Text: "chart " + strconv.Quote(i.Name) + ": " + text, Next: next}
}

func (i *inflation) run() ([]byte, error) {
	if i.Name == "" || strings.ContainsAny(i.Name, "\\\x00") || !fs.ValidPath(i.Name) {
		return nil, i.blame(render.ErrRefused, "the name is none", "write the name of a folder below chartHome, or of a chart of repo")
	}
	release, err := i.release()
	if err != nil {
		return nil, err
	}
	o := render.HelmOptions{ReleaseName: release, Namespace: i.Namespace, SkipCRDs: !i.IncludeCRDs, Cluster: i.options.Cluster, KubeVersion: i.KubeVersion, APIVersions: slices.Concat(i.options.APIVersions, i.ApiVersions),
		Lookup: i.options.Lookup}
	if o.KubeVersion == "" {
		o.KubeVersion = i.options.KubeVersion
	}
	c := &chartRun{fsys: i.fsys, o: o, lookup: i.lookup, tests: !i.SkipTests}
	if o.Namespace == "" {
		c.o.Namespace = "default"
	}
	files, err := i.chart(c)
	if err != nil {
		return nil, err
	}
	ch, err := c.build(files)
	if err != nil {
		return nil, err
	}
	c.secrets.values(ch.Values)
	values, err := i.values(c, ch)
	if err != nil {
		return nil, err
	}
	raws, err := c.render(ch, values)
	if err != nil {
		return nil, err
	}
	return i.print(raws)
}

// release is the name as helm template takes it. It would make one up of the time when there is none.
func (i *inflation) release() (string, error) {
	switch {
	case i.ReleaseName != "" && i.NameTemplate != "":
		return "", i.invalid("both releaseName and nameTemplate are set", "keep one of them")
	case i.NameTemplate != "":
		t, err := template.New("name-template").Funcs(sprig.TxtFuncMap()).Parse(i.NameTemplate) // action.TemplateName
		if err != nil {
			return "", i.invalid("nameTemplate is no template", "correct it")
		}
		var b strings.Builder
		if err := t.Execute(&b, nil); err != nil {
			return "", i.invalid("nameTemplate fails", "correct it")
		}
		return b.String(), nil
	case i.ReleaseName == "":
		return "", i.invalid("it has no releaseName, so that helm would make up a new one each time", "give it a releaseName")
	}
	return i.ReleaseName, nil
}

// home is the folder in which Kustomize looks for the chart.
func (i *inflation) home() string {
	home := i.globals.ChartHome
	if home == "" {
		home = types.HelmDefaultHome
	}
	if i.Version != "" && i.Repo != "" {
		home = path.Join(home, i.Name+"-"+i.Version)
	}
	return path.Join(i.dir, home)
}

// chart finds the files: in the repository, or as an archive that whoever started the render fetched.
func (i *inflation) chart(c *chartRun) ([]*loader.BufferedFile, error) {
	c.dir = path.Join(i.home(), i.Name)
	if strings.HasPrefix(i.globals.ChartHome, "/") || !fs.ValidPath(c.dir) {
		return nil, i.blame(render.ErrRefused, "chartHome lies outside the repository", "write it relative to this folder, within the repository")
	}
	info, err := fs.Stat(i.fsys, c.dir)
	switch {
	case err == nil && info.IsDir():
		return c.walk()
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, filesError(c.dir, err)
	case i.Repo == "":
		return nil, i.invalid("there is no folder "+c.dir+", and no repo to fetch it from", "add the folder, or say repo and version")
	}
	version := i.Version
	if version == "" && i.Devel {
		version = ">0.0.0-0" // as helm's --devel
	}
	need := render.ChartNeed{Repository: i.Repo, Name: i.Name, Version: version, By: i.file, For: fmt.Sprintf("%x", sha256.Sum256(i.data))}
	data, err := c.need(need)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, i.invalid("it is not in "+i.home()+" and nobody fetched it", "run helm pull --untar into that folder and commit it")
	}
	if err != nil {
		return nil, err
	}
	files, err := loader.LoadArchiveFiles(bytes.NewReader(data))
	if err != nil {
		return nil, i.invalid("the archive of "+i.Repo+" does not load: "+c.clean(err), "push the chart again")
	}
	return files, nil
}

// values are what helm template would be given by -f: the values file, or what valuesInline made of it, and the others.
func (i *inflation) values(c *chartRun, ch *chart.Chart) (map[string]any, error) {
	first, err := i.firstValues(ch)
	if err != nil {
		return nil, err
	}
	merged := map[string]any{}
	texts := [][]byte{first}
	for _, name := range i.AdditionalValuesFiles {
		more, err := i.load(name)
		if err != nil {
			return nil, err
		}
		texts = append(texts, more)
	}
	for n, text := range texts {
		var more map[string]any
		if err := sigsyaml.Unmarshal(text, &more); err != nil {
			where := i.ValuesFile
			if n > 0 {
				where = i.AdditionalValuesFiles[n-1]
			}
			return nil, yamlError(path.Join(i.dir, where), 0, err)
		}
		c.secrets.values(more)
		merged = merge(merged, more)
	}
	return merged, nil
}

func (i *inflation) firstValues(ch *chart.Chart) ([]byte, error) {
	switch i.ValuesMerge {
	case "", "override", "merge", "replace":
	default:
		return nil, i.invalid("valuesMerge "+strconv.Quote(i.ValuesMerge)+" is not known", "use override, merge or replace")
	}
	if i.ValuesMerge == "replace" && len(i.ValuesInline) > 0 {
		return sigsyaml.Marshal(i.ValuesInline)
	}
	file, err := i.valuesFile(ch)
	if err != nil || len(i.ValuesInline) == 0 {
		return file, err
	}
	return i.mergeInline(file)
}

// valuesFile is the chart's own unless another is named.
func (i *inflation) valuesFile(ch *chart.Chart) ([]byte, error) {
	if i.ValuesFile != "" {
		return i.load(i.ValuesFile)
	}
	for _, f := range ch.Raw {
		if f.Name == "values.yaml" {
			return f.Data, nil
		}
	}
	return nil, i.invalid("the chart has no values.yaml, without which Kustomize does not take it", "add one, or name a valuesFile")
}

// mergeInline is replaceValuesInline of Kustomize's plugin.
func (i *inflation) mergeInline(file []byte) ([]byte, error) {
	bad := func(error) error {
		return i.invalid("valuesInline and the values file do not merge", "make both of them maps")
	}
	theirs, err := kyaml.Parse(string(file))
	if err != nil {
		return nil, bad(err)
	}
	ours, err := kyaml.FromMap(i.ValuesInline)
	if err != nil {
		return nil, bad(err)
	}
	from, into := ours, theirs
	if i.ValuesMerge == "merge" {
		from, into = theirs, ours
	}
	out, err := merge2.Merge(from, into.Copy(), kyaml.MergeOptions{})
	if err != nil {
		return nil, bad(err)
	}
	m, err := out.Map()
	if err != nil {
		return nil, bad(err)
	}
	return sigsyaml.Marshal(m)
}

// load reads a file as Kustomize's loader does: from the kustomization's folder or below.
func (i *inflation) load(name string) ([]byte, error) {
	at := path.Join(i.dir, name)
	switch {
	case remote(name) && !i.Exists("/"+at):
		return nil, i.blame(render.ErrRefused, "values file "+strconv.Quote(name)+" lies elsewhere", "copy it into the repository")
	case path.IsAbs(name) || !fs.ValidPath(at):
		return nil, i.blame(render.ErrRefused, "values file "+strconv.Quote(name)+" lies outside the repository", "copy it into this folder")
	}
	folder, _, err := i.CleanedAbs("/" + i.dir)
	if err != nil {
		return nil, filesError(i.dir, err)
	}
	if dir, _, err := i.CleanedAbs("/" + at); err == nil && !dir.HasPrefix(folder) {
		return nil, i.blame(render.ErrRefused, "values file "+strconv.Quote(name)+" lies outside the folder of the kustomization", "move it there")
	}
	data, err := fs.ReadFile(i.fsys, at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, i.invalid("there is no values file "+strconv.Quote(name), "add it, or correct the entry")
	}
	if err != nil {
		return nil, filesError(at, err)
	}
	return data, nil
}

// print makes one file of it, in which Kustomize sees objects that Helm made: it gives them no namespace.
func (i *inflation) print(raws []render.Raw) ([]byte, error) {
	var in, out bytes.Buffer
	for _, r := range raws {
		if len(r.Hooks) > 0 && i.SkipHooks {
			continue
		}
		fmt.Fprintf(&in, "---\n%s\n", bytes.TrimRight(r.YAML, "\n"))
	}
	nodes, err := (&kio.ByteReader{Reader: &in, OmitReaderAnnotations: true}).Read()
	if err != nil {
		return nil, i.invalid("Kustomize does not read what the chart renders to", "run helm template to see what it is")
	}
	for _, n := range nodes {
		if err := n.PipeE(kyaml.SetAnnotation(konfig.HelmGeneratedAnnotation, "true")); err != nil {
			return nil, i.invalid("the chart renders to something that is no object", "run helm template to see what it is")
		}
		text, err := n.String()
		if err != nil {
			return nil, i.invalid("the chart renders to something that cannot be printed", "run helm template to see what it is")
		}
		fmt.Fprintf(&out, "---\n%s", text)
	}
	return out.Bytes(), nil
}
