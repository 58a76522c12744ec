package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/diff"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// storedAnew says what no undo takes back of a definition: once objects are stored in a version, the API refuses a definition without it.
func storedAnew(o Object, live *unstructured.Unstructured) string {
	if o.Ref().GroupKind() != crdKind || live == nil {
		return ""
	}
	stored, _, _ := unstructured.NestedStringSlice(live.Object, "status", "storedVersions")
	if version := storageOf(o.Unstructured); version != "" && !slices.Contains(stored, version) {
		return fmt.Sprintf("stores its objects as %s from then on, and cannot lose that version again", version)
	}
	return ""
}

// storageOf is the version in which a definition has its objects stored.
func storageOf(crd *unstructured.Unstructured) string {
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, v := range versions {
		if version, _ := v.(map[string]any); version["storage"] == true {
			name, _ := version["name"].(string)
			return name
		}
	}
	return ""
}

// restored are the kinds of which a revision has objects stored in another version than before, and that version.
func (p *Proof) restored(desired []Object) map[schema.GroupKind]string {
	out := map[schema.GroupKind]string{}
	for _, o := range desired {
		if live := p.live[o.Ref()]; o.Ref().GroupKind() == crdKind && live != nil && storageOf(live) != storageOf(o.Unstructured) {
			group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
			kind, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
			out[schema.GroupKind{Group: group, Kind: kind}] = storageOf(o.Unstructured)
		}
	}
	return out
}

// stored sees to it that an object is stored as it was written. For a moment after a definition has changed, the API may store objects in the
// version of before, and drops without a word what that does not know.
func (x *run) stored(ctx context.Context, m *meta.RESTMapping, o Object, live *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	var p patience
	var missing []string
	err := p.await(ctx, func() (done bool, err error) {
		if missing = diff.Missing(live, x.t.Manager); len(missing) > 0 {
			live, err = x.t.patch(ctx, m, o, live, whatever)
		}
		return len(missing) == 0, err
	})
	if errors.Is(err, errPatience) {
		err = errTransient{fmt.Sprintf("the API has dropped %s of it; tried again", strings.Join(missing, ", "))}
	}
	return live, err
}

// appliedBefore is why an object cannot be proven whose fields the API remembers in a version that lacks what is new.
const appliedBefore = "its fields were applied in another version"

// convertsInVain says that the API could not convert what it would make of an object to the version in which it was applied last. It
// counts that as a fault of its own, but it does not pass: the version has no such field.
func convertsInVain(err error) bool {
	return err != nil && strings.Contains(err.Error(), "failed to convert merged object to last applied version")
}

// turnTo has the API remember what we applied of an object as applied in a version. The names of the fields stay: it is for versions
// between which nothing is converted, and for fields that are the same in both.
func (t Target) turnTo(ctx context.Context, r diff.Ref, version string) error {
	m, err := t.mapping(r.GroupKind(), version)
	if err != nil {
		return err
	}
	live, err := t.get(ctx, m, r)
	if err != nil || live == nil {
		return err
	}
	to := m.GroupVersionKind.GroupVersion().String()
	n := slices.IndexFunc(live.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool {
		return e.Manager == t.Manager && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == ""
	})
	if n < 0 || live.GetManagedFields()[n].APIVersion == to {
		return nil
	}
	if err := t.guard(ctx, live); err != nil {
		return err
	}
	patch, err := json.Marshal([]map[string]string{
		{"op": "replace", "path": "/metadata/resourceVersion", "value": live.GetResourceVersion()},
		{"op": "replace", "path": fmt.Sprintf("/metadata/managedFields/%d/apiVersion", n), "value": to},
	})
	if err != nil {
		return err
	}
	_, err = t.resource(m, r.Namespace).Patch(ctx, r.Name, types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: t.Manager})
	return err
}
