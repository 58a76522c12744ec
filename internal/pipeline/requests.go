package pipeline

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/source"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// request is what an Application asks to be rendered of a snapshot, with what the cluster has to say to it.
func (e *Engine) request(ctx context.Context, app *v1alpha1.Application, s source.Snapshot) (render.Request, error) {
	req, err := requestFor(app, s)
	if err != nil {
		return req, err
	}
	if req.Helm.Revision, err = e.nextRevision(ctx, app, mayBeChart(app, s.FS)); err != nil {
		return req, err
	}
	req.Helm.Upgrade = req.Helm.Revision > 1
	refs := e.referring(app)
	if req.Helm.Layers, err = refs.layers(ctx); err != nil {
		return req, err
	}
	if req.Decrypt, err = refs.keys(ctx); err != nil {
		return req, err
	}
	if req.Helm.Cluster, err = e.environment.get(e.kube.Discovery()); err != nil {
		return req, fmt.Errorf("ask the cluster what it serves: %w", err)
	}
	if req.Helm.Lookup == render.LookupCluster {
		req.Lookup = e.lookup(app)
	}
	return req, nil
}

// requestFor is what an Application says itself.
func requestFor(app *v1alpha1.Application, s source.Snapshot) (render.Request, error) {
	req := render.Request{FS: s.FS, Path: app.Spec.Source.Path, Scope: app.Namespace, Owner: string(app.UID) + " " + userOf(app)}
	req.Options.Namespace = namespaceFor(app)(schema.GroupKind{})
	o := &req.Options.Helm
	o.ReleaseName, o.Lookup = app.Name, render.LookupCluster
	req.Earlier = standing(app)
	if app.Spec.Render == nil || app.Spec.Render.Helm == nil {
		return req, nil
	}
	h := app.Spec.Render.Helm
	req.Kind = render.Helm
	o.ReleaseName = cmp.Or(h.ReleaseName, app.Name)
	o.ValuesFiles, o.IgnoreMissingValuesFiles = slices.Clone(h.ValuesFiles), h.IgnoreMissingValuesFiles
	o.SkipCRDs, o.KubeVersion, o.APIVersions = h.SkipCRDs, h.KubeVersion, slices.Clone(h.APIVersions)
	o.Lookup = cmp.Or(render.LookupMode(h.Lookup), render.LookupCluster)
	if h.Values != nil {
		if err := json.Unmarshal(h.Values.Raw, &o.Values); err != nil {
			return req, fmt.Errorf("spec.render.helm.values is no object: %w", err)
		}
	}
	return req, nil
}

// nextRevision is the number of a revision that is rendered now. The first is an install, and so is one that comes after a first that was undone: nothing is
// there that it could upgrade. Where a release of this name is deployed, Helm's or that of an Application before this one, the first is the next of that.
func (e *Engine) nextRevision(ctx context.Context, app *v1alpha1.Application, chart bool) (int64, error) {
	st := &app.Status
	switch {
	case st.AppliedRevision != nil:
		return max(st.Revisions, 1) + 1, nil
	case st.Intent != nil || st.Revisions > 1: // the first is under way, or it was an upgrade and was undone
		return max(st.Revisions, 1), nil
	case !chart: // no release is asked for
		return 1, nil
	}
	to, err := e.releasing(app)
	if err != nil {
		return 0, err
	}
	deployed, err := to.deployed(ctx)
	return int64(deployed) + 1, err
}

// mayBeChart says whether an Application's path holds a chart, as far as its own files tell.
func mayBeChart(app *v1alpha1.Application, files fs.FS) bool {
	if app.Spec.Source.Chart != "" || app.Spec.Render != nil && app.Spec.Render.Helm != nil {
		return true
	}
	_, err := fs.Stat(files, path.Join(path.Clean(cmp.Or(app.Spec.Source.Path, ".")), "Chart.yaml"))
	return !errors.Is(err, fs.ErrNotExist)
}

// standing are the numbers of the revisions that stand: the open one, the one that failed last and the applied one. While what
// they were rendered from stays as it is they are not rendered again, as a later revision of the release.
func standing(app *v1alpha1.Application) []int64 {
	var out []int64
	add := func(r *v1alpha1.Revision) {
		if r != nil {
			out = append(out, max(r.Number, 1)) // 0: of a version that counted none
		}
	}
	st := &app.Status
	if st.Intent != nil {
		add(&st.Intent.Revision)
	}
	if st.Rejected != nil {
		add(&st.Rejected.Revision)
	}
	add(st.AppliedRevision)
	return out
}

// numberOf is the number of a revision: the one it was rendered as, or else the next.
func (t *turn) numberOf(c candidate) int64 {
	if st := &t.app.Status; st.AppliedRevision != nil {
		return cmp.Or(c.revision, max(st.Revisions, 1)+1)
	}
	return cmp.Or(c.revision, t.w.first, 1)
}

// counted notes that there is a revision of this number.
func counted(st *v1alpha1.ApplicationStatus, r v1alpha1.Revision) {
	st.Revisions = max(st.Revisions, r.Number)
}

// lookup answers a chart from the destination, with the rights of the Application and no others.
func (e *Engine) lookup(app *v1alpha1.Application) render.Lookup {
	asked := false // the API what kinds it knows by now: once for each rendering
	return func(ctx context.Context, q render.LookupQuestion) ([]byte, error) {
		if err := e.refuseWithoutAccount(app); err != nil {
			return nil, err
		}
		kind := schema.FromAPIVersionAndKind(q.APIVersion, q.Kind)
		m, err := e.mapper.RESTMapping(kind.GroupKind(), kind.Version)
		if meta.IsNoMatchError(err) && !asked {
			asked = true
			e.mapper.Reset() // it may have come just now
			m, err = e.mapper.RESTMapping(kind.GroupKind(), kind.Version)
		}
		if err != nil {
			return nil, err
		}
		d, err := e.dynamicAs(userOf(app))
		if err != nil {
			return nil, err
		}
		var objects dynamic.ResourceInterface = d.Resource(m.Resource)
		if m.Scope.Name() == meta.RESTScopeNameNamespace && q.Namespace != "" {
			objects = d.Resource(m.Resource).Namespace(q.Namespace)
		}
		return answer(ctx, objects, q.Name)
	}
}

// mostListed bounds a list that lookup asks for: one that is longer is refused rather than cut.
const mostListed = 5000

func answer(ctx context.Context, objects dynamic.ResourceInterface, name string) ([]byte, error) {
	if name != "" {
		object, err := objects.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return object.MarshalJSON()
	}
	list, err := objects.List(ctx, metav1.ListOptions{Limit: mostListed})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if list.GetContinue() != "" {
		return nil, fmt.Errorf("there are more than %d objects; ask for those of a namespace, or by name", mostListed)
	}
	return list.MarshalJSON()
}

// keys are what opens the encrypted files of an Application; nil when it names none.
func (r referring) keys(ctx context.Context) (*render.Keys, error) {
	if r.app.Spec.Render == nil || r.app.Spec.Render.Decrypt == nil {
		return nil, nil
	}
	name := r.app.Spec.Render.Decrypt.SecretRef.Name
	data, err := r.read(ctx, reference{kind: "Secret", name: name})
	if errors.Is(err, errNoReference) {
		return nil, fmt.Errorf("spec.render.decrypt.secretRef: there is no Secret %s in namespace %s; create it", name, r.app.Namespace)
	}
	if err != nil {
		return nil, err
	}
	keys := &render.Keys{}
	for _, k := range sortedKeys(data) {
		switch {
		case strings.HasSuffix(k, ".agekey"):
			keys.Age = append(keys.Age, data[k])
		case strings.HasSuffix(k, ".asc"):
			keys.PGP = append(keys.PGP, data[k])
		}
	}
	if len(keys.Age)+len(keys.PGP) == 0 {
		return nil, fmt.Errorf("Secret %s/%s holds no key: add one that ends in .agekey (age) or in .asc (OpenPGP)", r.app.Namespace, name)
	}
	return keys, nil
}
