//lint:file-ignore SA1019 people use the deprecated fields of kustomizations, and so their mistakes are in them
package engine

import (
	"errors"
	"io/fs"
	"path"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"sigs.k8s.io/kustomize/api/types"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/gitopsd/gitopsd/internal/render"
)

// explain finds out why a kustomization fails. Kustomize's own errors are long chains that name the cause last,
// or not at all; so its files are looked through first for what commonly is wrong with them.
func (k *kustomizeFS) explain(where string, err error) error {
	var ours *render.Error
	if errors.As(err, &ours) {
		return ours
	}
	names := make([]string, 0, len(k.read))
	for name := range k.read {
		names = append(names, name)
	}
	sort.Strings(names)
	known, uses := &secrets{}, map[string][]string{}
	for _, name := range names {
		used, found := k.inspect(name, k.read[name], known)
		if found != nil {
			return found
		}
		uses[name] = used
	}
	for _, name := range names {
		if circle := leadsBack(name, name, uses, nil); circle != nil {
			return &render.Error{Class: render.ErrInvalid, File: name, Text: "the kustomization leads back to itself: " + strings.Join(append(circle, name), ", which uses "),
				Next: "take one of them out of resources"}
		}
	}
	own := kustomizationIn(k.fsys, where)
	if own == "" {
		return &render.Error{Class: render.ErrInvalid, File: where, Text: "the folder holds no kustomization.yaml", Next: "add one, or correct the path"}
	}
	return &render.Error{Class: render.ErrInvalid, File: path.Join(where, own), Text: known.clean(err), Next: "run kustomize build to see the same"}
}

// inspection looks for one cause in one kustomization.
type inspection struct {
	*kustomizeFS
	name  string // of the kustomization
	data  []byte
	known *secrets
	first map[string]string // object to the file that declares it
	used  []string          // kustomizations of other folders
}

// staysBelow refuses entries that lead above the root of the repository. Kustomize itself would take the root to be its own parent.
func (k *kustomizeFS) staysBelow(name string, data []byte) error {
	var kust types.Kustomization
	if err := sigsyaml.Unmarshal(data, &kust); err != nil {
		return nil //nolint:nilerr // Kustomize says what is wrong with it
	}
	i := &inspection{kustomizeFS: k, name: name, data: data}
	for _, u := range uses(&kust) {
		if relative := path.Join(path.Dir(name), u.path); u.path != "" && !strings.Contains(u.path, "\n") && !remote(u.path) && !path.IsAbs(u.path) && aboveRoot(relative) {
			return i.use(u)
		}
	}
	return nil
}

func aboveRoot(relative string) bool { return relative == ".." || strings.HasPrefix(relative, "../") }

// leadsBack returns the way from at to the kustomization that is looked for, or nil.
func leadsBack(at, to string, uses map[string][]string, way []string) []string {
	for _, before := range way {
		if before == at {
			return nil
		}
	}
	way = append(way[:len(way):len(way)], at)
	for _, next := range uses[at] {
		if next == to {
			return way
		}
		if found := leadsBack(next, to, uses, way); found != nil {
			return found
		}
	}
	return nil
}

func (k *kustomizeFS) inspect(name string, data []byte, known *secrets) (used []string, err error) {
	if _, err := sigsyaml.YAMLToJSONStrict(data); err != nil {
		return nil, yamlError(name, 0, err)
	}
	var kust types.Kustomization
	if err := sigsyaml.Unmarshal(data, &kust); err != nil {
		return nil, nil //nolint:nilerr // Kustomize's own error says which field it is
	}
	i := &inspection{kustomizeFS: k, name: name, data: data, known: known, first: map[string]string{}}
	for _, g := range kust.SecretGenerator {
		known.generator(g, func(file string) []byte {
			content, err := k.ReadFile(path.Join("/", path.Dir(name), file))
			if err != nil {
				return nil // the missing file is found below
			}
			return content
		})
	}
	for _, u := range uses(&kust) {
		if err := i.use(u); err != nil {
			return nil, err
		}
	}
	return i.used, nil
}

func (i *inspection) blame(class error, u use, text, next string) error {
	return &render.Error{Class: class, File: i.name, Line: lineOf(i.data, u.key, u.path), Text: text, Next: next}
}

// use looks at one entry.
func (i *inspection) use(u use) error {
	names := u.key + " names " + strconv.Quote(u.path) + ", "
	relative := path.Join(path.Dir(i.name), u.path)
	switch {
	case u.path == "":
		return nil
	case strings.Contains(u.path, "\n"):
		return i.plugin(u, i.name, []byte(u.path)) // the content itself
	case remote(u.path) && !i.Exists("/"+relative):
		return i.blame(render.ErrRefused, u, names+"which lies elsewhere", "copy it into the repository: a render reaches no network, and a commit has to say everything")
	case path.IsAbs(u.path):
		return i.blame(render.ErrRefused, u, names+"an absolute path", "write it relative to this folder")
	case aboveRoot(relative):
		return i.blame(render.ErrRefused, u, names+"which lies outside the repository", "copy it into the repository")
	}
	info, err := fs.Stat(i.fsys, relative)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return i.blame(render.ErrInvalid, u, names+"which does not exist", "add it, or correct the entry")
	case err != nil:
		return filesError(relative, err)
	case info.IsDir() && u.folders && kustomizationIn(i.fsys, relative) == "":
		return i.blame(render.ErrInvalid, u, names+"a folder without kustomization.yaml", "add one, or name the folder's files")
	case info.IsDir():
		i.used = append(i.used, path.Join(relative, kustomizationIn(i.fsys, relative)))
		return nil
	case i.outside(relative):
		return i.blame(render.ErrRefused, u, names+"a file outside the folder of the kustomization", "move it there, or make a base of its folder")
	}
	return i.file(u, relative)
}

// outside is Kustomize's own rule for files (LoadRestrictionsRootOnly), after links.
func (i *inspection) outside(file string) bool {
	folder, _, err := i.CleanedAbs("/" + path.Dir(i.name))
	if err != nil {
		return false
	}
	at, _, err := i.CleanedAbs("/" + file)
	return err == nil && !at.HasPrefix(folder)
}

// file looks into a file that is used as YAML.
func (i *inspection) file(u use, file string) error {
	if !u.yaml {
		return nil
	}
	data, err := i.ReadFile("/" + file)
	if err != nil {
		return filesError(file, err)
	}
	for _, d := range splitDocuments(data) {
		objects, err := d.raws(file, true)
		if err != nil {
			return err
		}
		for _, o := range objects {
			i.known.manifest(o.JSON)
			if u.key != "resources" {
				continue
			}
			if err := i.twice(o); err != nil {
				return err
			}
		}
	}
	return i.plugin(u, file, data)
}

// twice finds objects that two resources of one kustomization declare.
func (i *inspection) twice(o render.Raw) error {
	objects, err := render.Arrange([]render.Raw{o})
	if err != nil || len(objects) == 0 {
		return nil //nolint:nilerr // Kustomize makes other demands on an object
	}
	u := objects[0].Object
	id := u.GroupVersionKind().String() + " " + u.GetNamespace() + "/" + u.GetName()
	before, ok := i.first[id]
	i.first[id] = o.Origin
	if !ok {
		return nil
	}
	_, err = render.Arrange([]render.Raw{{JSON: o.JSON, Origin: before}, o})
	return err
}

// plugin refuses what would run as a program: generators, transformers and validators that are not built in.
func (i *inspection) plugin(u use, file string, data []byte) error {
	if u.key != "generators" && u.key != "transformers" && u.key != "validators" {
		return nil
	}
	for _, d := range splitDocuments(data) {
		var m struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
		}
		if !d.blank() && sigsyaml.Unmarshal(d.text, &m) == nil && m.APIVersion == "builtin" && m.Kind == "HelmChartInflationGenerator" {
			return i.blame(render.ErrRefused, u, u.key+" names a HelmChartInflationGenerator in "+file+", which would run the helm program", "write it into the kustomization as helmCharts, which are rendered here")
		}
		if d.blank() || sigsyaml.Unmarshal(d.text, &m) != nil || m.APIVersion == "builtin" || m.Kind == "Kustomization" {
			continue
		}
		return i.blame(render.ErrRefused, u, u.key+" names the plugin "+strconv.Quote(m.Kind)+" of "+file+", which would run a program",
			"use what is built in, or commit what the plugin makes")
	}
	return nil
}

// use is a path that a kustomization names.
type use struct {
	key, path string
	folders   bool // may be a folder, with a kustomization of its own
	yaml      bool // is read as YAML
}

func uses(k *types.Kustomization) []use {
	var out []use
	add := func(u use, paths ...string) {
		for _, p := range paths {
			u.path = p
			out = append(out, u)
		}
	}
	add(use{key: "resources", folders: true, yaml: true}, k.Resources...)
	add(use{key: "bases", folders: true}, k.Bases...)
	add(use{key: "components", folders: true}, k.Components...)
	add(use{key: "crds", yaml: true}, k.Crds...)
	add(use{key: "configurations"}, k.Configurations...)
	add(use{key: "generators", folders: true, yaml: true}, k.Generators...)
	add(use{key: "transformers", folders: true, yaml: true}, k.Transformers...)
	add(use{key: "validators", folders: true, yaml: true}, k.Validators...)
	add(use{key: "openapi"}, k.OpenAPI["path"])
	for _, p := range k.PatchesStrategicMerge {
		if s := string(p); !strings.Contains(s, ": ") {
			add(use{key: "patchesStrategicMerge", yaml: true}, s)
		}
	}
	for _, p := range append(append([]types.Patch(nil), k.Patches...), k.PatchesJson6902...) {
		add(use{key: "patches"}, p.Path)
	}
	for _, r := range k.Replacements {
		add(use{key: "replacements"}, r.Path)
	}
	for _, g := range k.ConfigMapGenerator {
		add(use{key: "configMapGenerator"}, sources(g.KvPairSources)...)
	}
	for _, g := range k.SecretGenerator {
		add(use{key: "secretGenerator"}, sources(g.KvPairSources)...)
	}
	return out
}

func sources(s types.KvPairSources) []string {
	out := append([]string(nil), s.EnvSources...)
	if s.EnvSource != "" {
		out = append(out, s.EnvSource)
	}
	for _, f := range s.FileSources {
		if _, p, ok := strings.Cut(f, "="); ok {
			f = p
		}
		out = append(out, f)
	}
	return out
}

// remotePath recognises what Kustomize would clone or download: URLs, scp-like addresses, hosts it knows, queries.
var remotePath = regexp.MustCompile(`^(?:git::)?(?:[a-z][a-z0-9+.-]*://|[^/\s]+@[^/\s]+:|gh:|git@|github\.com[/:]|gitlab\.com[/:]|bitbucket\.org[/:])|\?(?:.*&)?(?:ref|version|submodules|timeout)=|_git/|\.git(?:/|$|\?)`)

func remote(p string) bool { return remotePath.MatchString(p) }
