package fakeapi

import (
	"fmt"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
)

// posted makes the writing a creation.
func (w *writing) posted() error {
	obj, err := w.k.codec.decode(w.request.Body)
	if err != nil {
		return err
	}
	w.key.Name, w.mayCreate, w.mustBeNew = metaOf(obj).GetName(), true, true
	w.request.Name = w.key.Name
	w.transformed = func(empty runtime.Object, _ bool) (runtime.Object, error) {
		if err := w.fits(obj); err != nil {
			return nil, err
		}
		return w.owned(empty, obj), nil
	}
	return nil
}

// replaced makes it an update.
func (w *writing) replaced() error {
	obj, err := w.k.codec.decode(w.request.Body)
	if err != nil {
		return err
	}
	if uid := metaOf(obj).GetUID(); uid != "" {
		w.uid = &uid
	}
	w.transformed = func(now runtime.Object, _ bool) (runtime.Object, error) {
		if err := w.fits(obj); err != nil {
			return nil, err
		}
		return w.owned(now, obj), nil
	}
	return nil
}

// patched makes it a merge patch or an apply.
func (w *writing) patched() error {
	switch t := types.PatchType(w.request.Header.Get("Content-Type")); t {
	case types.ApplyPatchType:
		return w.applied()
	case types.MergePatchType:
		w.transformed = func(now runtime.Object, _ bool) (runtime.Object, error) { return w.merged(now) }
		return nil
	default:
		return errors.NewGenericServerResponse(415, "patch", w.k.resource(), w.key.Name, fmt.Sprintf("fakeapi knows no patch of type %q", t), 0, true)
	}
}

func (w *writing) merged(now runtime.Object) (runtime.Object, error) {
	raw, err := w.k.codec.encode(now)
	if err != nil {
		return nil, err
	}
	if raw, err = jsonpatch.MergePatch(raw, w.request.Body); err != nil {
		return nil, errors.NewBadRequest(err.Error())
	}
	obj, err := w.k.codec.decode(raw)
	if err != nil {
		return nil, err
	}
	return w.owned(now, obj), w.fits(obj)
}

// applied is a server-side apply.
func (w *writing) applied() error {
	manager, q := w.request.Query.Get("fieldManager"), w.request.Query
	if manager == "" {
		return errors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: "PatchOptions"}, "",
			field.ErrorList{field.Required(field.NewPath("fieldManager"), "is required for apply patch")})
	}
	fields := w.rules.fields()
	if fields == nil {
		return errors.NewBadRequest("fakeapi applies no " + w.k.gvk.Kind)
	}
	w.mayCreate = w.request.Subresource == ""
	w.transformed = func(now runtime.Object, exists bool) (runtime.Object, error) {
		patch := &unstructured.Unstructured{Object: map[string]any{}}
		if err := json.Unmarshal(w.request.Body, &patch.Object); err != nil {
			return nil, errors.NewBadRequest("error decoding YAML: " + err.Error())
		}
		obj, err := fields.Apply(now, patch, manager, q.Get("force") == "true")
		if err != nil {
			return nil, err
		}
		if uid := metaOf(obj).GetUID(); uid != "" && !exists {
			return nil, errors.NewConflict(w.k.resource(), w.key.Name, fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
		}
		return obj, w.fits(obj)
	}
	return nil
}

// owned notes whose the fields of an update are.
func (w *writing) owned(now, obj runtime.Object) runtime.Object {
	fields := w.rules.fields()
	if fields == nil {
		return obj
	}
	manager := w.request.Query.Get("fieldManager")
	if manager == "" {
		manager = "unknown"
	}
	return fields.UpdateNoErrors(now, obj, manager)
}

// fits checks that an object is the one that the address names.
func (w *writing) fits(obj runtime.Object) error {
	m := metaOf(obj)
	if m.GetName() != w.key.Name {
		return errors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", m.GetName(), w.key.Name))
	}
	return rest.EnsureObjectNamespaceMatchesRequestNamespace(w.key.Namespace, m)
}
