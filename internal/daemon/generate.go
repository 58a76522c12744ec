package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/appset"
	"github.com/gitopsd/gitopsd/internal/diff"
	"github.com/gitopsd/gitopsd/internal/generate"
	"github.com/gitopsd/gitopsd/internal/pipeline"
	"github.com/gitopsd/gitopsd/internal/redact"
	"github.com/gitopsd/gitopsd/internal/source"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

// Generate says what an ApplicationSet would make, change and delete, for the command line. It writes nothing.
func Generate(ctx context.Context, dataDir string, client *rest.Config, set *v1alpha1.ApplicationSet) (diff.Plan, error) {
	api, err := pipeline.RESTClient(client)
	if err != nil {
		return diff.Plan{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	store, err := source.Open(ctx, source.Config{Dir: filepath.Join(dataDir, "git")})
	if err != nil {
		return diff.Plan{}, err
	}
	defer store.Wait()
	defer cancel()
	cfg := appset.Config{Client: client, API: api, Allowed: func(string, string) error { return nil }, Log: slog.New(slog.DiscardHandler)}
	made, there, err := appset.Preview(ctx, cfg, store, set)
	if err != nil {
		return diff.Plan{}, err
	}
	return setPlan(set, made, there)
}

// setPlan tells of Applications as a plan tells of objects.
func setPlan(set *v1alpha1.ApplicationSet, made generate.Plan, there []v1alpha1.Application) (diff.Plan, error) {
	plan := diff.Plan{Application: set.Namespace + "/" + set.Name, Revision: "its generators"}
	for _, app := range made.Create {
		u, err := declaredOf(app)
		if err != nil {
			return plan, err
		}
		plan.Changes = append(plan.Changes, diff.Change{Ref: diff.RefOf(u), Action: diff.Create, Fields: diff.Made(u)})
	}
	for _, app := range made.Change {
		old := there[slices.IndexFunc(there, func(a v1alpha1.Application) bool { return a.Name == app.Name })]
		after := old.DeepCopy()
		after.Spec = app.Spec
		for k, v := range app.Labels {
			after.Labels[k] = v
		}
		before, err := declaredOf(&old)
		if err != nil {
			return plan, err
		}
		now, err := declaredOf(after)
		if err != nil {
			return plan, err
		}
		plan.Changes = append(plan.Changes, diff.Change{Ref: diff.RefOf(now), Action: diff.Update, Fields: diff.Fields(before, now)})
	}
	for _, name := range made.Delete {
		ref := diff.Ref{Group: v1alpha1.GroupVersion.Group, Kind: "Application", Namespace: set.Namespace, Name: name}
		plan.Changes = append(plan.Changes, diff.Change{Ref: ref, Action: diff.Prune})
	}
	plan.Notes = setNotes(set, made)
	plan.Sort()
	return plan.Map(redact.String), nil
}

func setNotes(set *v1alpha1.ApplicationSet, made generate.Plan) []string {
	var out []string
	if n := len(made.Withheld); n > 0 {
		out = append(out, fmt.Sprintf("%d Applications would be deleted (%v), which are too many at once: none is; if that is meant, raise spec.deleteLimit", n, made.Withheld))
	}
	if n := len(made.Kept); n > 0 {
		out = append(out, fmt.Sprintf("%d Applications are no longer asked for and are kept, by spec.onRemove: %v", n, made.Kept))
	}
	if set.Spec.Suspend {
		out = append(out, "suspended: nothing is made, changed or deleted")
	}
	return out
}

func declaredOf(app *v1alpha1.Application) (*unstructured.Unstructured, error) {
	app = app.DeepCopy()
	app.TypeMeta.APIVersion, app.TypeMeta.Kind = v1alpha1.GroupVersion.String(), "Application"
	app.Spec, app.OwnerReferences = generate.Defaulted(app.Spec), nil
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(app)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{Object: content}
	unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
	unstructured.RemoveNestedField(u.Object, "status")
	return u, nil
}
