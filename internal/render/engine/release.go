package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	helmengine "helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/strvals"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/gitopsd/gitopsd/internal/render"
)

// Lookup answers a chart's question about the cluster with JSON; nil when there is no such object.
type Lookup func(render.LookupQuestion) ([]byte, error)

// releaseOptions are what the chart sees as .Release.
func (c *chartRun) releaseOptions() chartutil.ReleaseOptions {
	revision := max(1, int(c.o.Revision))
	return chartutil.ReleaseOptions{Name: c.o.ReleaseName, Namespace: c.o.Namespace, Revision: revision, IsInstall: !c.o.Upgrade, IsUpgrade: c.o.Upgrade}
}

// templates renders the chart's templates. getHostByName gives "" in any case.
func (c *chartRun) templates(ch *chart.Chart, values chartutil.Values) (map[string]string, error) {
	switch c.o.Lookup {
	case render.LookupRefuse:
		return helmengine.RenderWithClientProvider(ch, values, asks{func(render.LookupQuestion) ([]byte, error) {
			return nil, errors.New("lookup is refused by the Application; allow it with spec.render.helm.lookup: Cluster")
		}})
	case render.LookupCluster:
		if c.lookup != nil {
			return helmengine.RenderWithClientProvider(ch, values, asks{c.lookup})
		}
	}
	return helmengine.Engine{}.Render(ch, values)
}

// asks is a cluster for Helm's function lookup, which reaches no further than the one who answers.
type asks struct{ lookup Lookup }

func (a asks) GetClientFor(apiVersion, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	return objectsOf{lookup: a.lookup, of: render.LookupQuestion{APIVersion: apiVersion, Kind: kind}}, true, nil
}

// objectsOf are the objects of one kind, all or in a namespace. Only what lookup calls is there.
type objectsOf struct {
	dynamic.NamespaceableResourceInterface
	lookup Lookup
	of     render.LookupQuestion
}

func (o objectsOf) Namespace(name string) dynamic.ResourceInterface {
	o.of.Namespace = name
	return o
}

func (o objectsOf) Get(_ context.Context, name string, _ metav1.GetOptions, _ ...string) (*unstructured.Unstructured, error) {
	o.of.Name = name
	object := &unstructured.Unstructured{}
	return object, o.ask(object)
}

func (o objectsOf) List(context.Context, metav1.ListOptions) (*unstructured.UnstructuredList, error) {
	list := &unstructured.UnstructuredList{}
	return list, o.ask(list)
}

func (o objectsOf) ask(into json.Unmarshaler) error {
	answer, err := o.lookup(o.of)
	if err != nil {
		return err
	}
	if answer == nil {
		return apierrors.NewNotFound(schema.GroupResource{Resource: o.of.Kind}, o.of.Name)
	}
	return into.UnmarshalJSON(answer)
}

// valuesFile reads one of the values files.
func (c *chartRun) valuesFile(name string) (map[string]any, error) {
	where := path.Join(c.dir, name)
	if path.IsAbs(name) || !fs.ValidPath(where) || strings.Contains(name, "://") {
		return nil, &render.Error{Class: render.ErrRefused, File: name, Text: "the values file does not lie within the repository", Next: "write it relative to the chart's folder"}
	}
	data, err := fs.ReadFile(c.fsys, where)
	switch {
	case errors.Is(err, fs.ErrNotExist) && c.o.IgnoreMissingValuesFiles:
		return nil, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, c.invalid(where, "the values file does not exist", "add it, correct helm.valuesFiles, or set helm.ignoreMissingValuesFiles")
	case err != nil:
		return nil, filesError(where, err)
	}
	var values map[string]any
	if err := sigsyaml.Unmarshal(data, &values); err != nil {
		return nil, yamlError(where, 0, err)
	}
	return values, nil
}

// lay puts the values of a layer over those below it.
func (c *chartRun) lay(l render.ValuesLayer, below map[string]any) (map[string]any, error) {
	if l.Secret {
		c.secrets.set.Register(l.Values)
	}
	if l.Target != "" {
		over := merge(below, nil)
		if err := setAt(l.Target, l.Values, over); err != nil {
			return nil, c.invalid(l.Name, fmt.Sprintf("the value cannot be set at %s: %s", l.Target, c.clean(err)), "correct helm.valuesFrom[].targetPath")
		}
		return over, nil
	}
	var values map[string]any
	if err := sigsyaml.Unmarshal([]byte(l.Values), &values); err != nil {
		return nil, c.invalid(l.Name, "the values are no map in YAML", "correct them, or set helm.valuesFrom[].targetPath")
	}
	if l.Secret {
		c.secrets.all(values)
	}
	return merge(below, values), nil
}

// setAt is helm --set of one value: numbers and booleans are found out, what is in quotes is text, and nothing in the value
// sets another one.
func setAt(target, value string, into map[string]any) error {
	value = strings.TrimSuffix(value, "\n")
	set := strvals.ParseInto
	for _, quote := range []string{`"`, `'`} {
		if len(value) > 1 && strings.HasPrefix(value, quote) && strings.HasSuffix(value, quote) {
			set, value = strvals.ParseIntoString, value[1:len(value)-1]
			break
		}
	}
	return set(target+"="+literal.Replace(value), into)
}

// literal takes from a value what means something to strvals.
var literal = strings.NewReplacer(`\`, `\\`, `,`, `\,`, `{`, `\{`, `}`, `\}`)

// release is what Helm keeps of the chart and its values.
func (c *chartRun) release(ch *chart.Chart, values map[string]any) (*render.Release, error) {
	metadata, err := json.Marshal(ch.Metadata)
	if err != nil {
		return nil, c.invalid("", "the chart's metadata cannot be kept: "+c.clean(err), "run helm lint")
	}
	given, err := json.Marshal(values)
	if err != nil {
		return nil, c.invalid("", "the values cannot be kept: "+c.clean(err), "run helm lint")
	}
	return &render.Release{Chart: metadata, Values: given}, nil
}
