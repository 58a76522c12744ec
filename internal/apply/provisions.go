package apply

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/gitopsd/gitopsd/internal/diff"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// provisions are the namespaces, kinds and roles that the revision itself brings.
type provisions struct {
	namespaces  map[string]bool
	kinds       map[schema.GroupKind]meta.RESTScopeName
	definitions map[schema.GroupKind]*definition // of the kinds that come or change
	roles       map[diff.Ref]bool

	autoscalers []Object
}

func madeHere(objects []Object) provisions {
	made := provisions{map[string]bool{}, definedScopes(objects), map[schema.GroupKind]*definition{}, map[diff.Ref]bool{}, autoscalers(objects)}
	for _, o := range objects {
		switch o.GroupVersionKind().GroupKind() {
		case namespaceKind:
			made.namespaces[o.GetName()] = true
		case roleKind, clusterRoleKind:
			made.roles[o.Ref()] = true
		}
	}
	return made
}

// define notes the definitions of kinds that are not in the API as the revision has them.
func (p provisions) define(objects []Object, answers []answer) {
	for n, o := range objects {
		if o.Ref().GroupKind() == crdKind && answers[n].err == nil && answers[n].change.Action != diff.Unchanged {
			if gk, d := defined(o); d != nil {
				p.definitions[gk] = d
			}
		}
	}
}

// defines says that the revision defines the kind of an object, which the API does not know, and allows the object.
func (p provisions) defines(ctx context.Context, o Object) error {
	gk := o.Ref().GroupKind()
	if _, comes := p.kinds[gk]; !comes {
		return fmt.Errorf("the API knows no kind %s in %s; add its CustomResourceDefinition or mend apiVersion and kind", gk.Kind, o.GetAPIVersion())
	}
	if d := p.definitions[gk]; d != nil {
		return d.check(ctx, o, false)
	}
	return nil // the definition itself is refused
}

// excuses says why an API that has not got the revision yet cannot judge an object, or "".
func (p provisions) excuses(o Object, live *unstructured.Unstructured, err error) string {
	switch {
	case err == nil:
		return ""
	case live == nil && apierrors.IsNotFound(err) && p.namespaces[o.GetNamespace()]:
		return "its namespace is made by the same revision"
	case live == nil && apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) && p.namespaces[o.GetNamespace()]:
		return "its namespace is being deleted, and made again by the same revision"
	case p.definitions[o.Ref().GroupKind()] != nil && misfits(err):
		return "its kind changes in the same revision"
	case live != nil && convertsInVain(err):
		return appliedBefore
	case apierrors.IsNotFound(err) && p.roles[boundBy(o)]:
		return "its role is made by the same revision"
	}
	return ""
}

// misfits says that the API may have refused an object because of its kind as that is now. Of an apply with a field that a kind does not
// have it says that it has failed itself; one that is being deleted allows nothing.
func misfits(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	switch status.Status().Code {
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusInternalServerError, http.StatusMethodNotAllowed:
		return true
	}
	return false
}

// noSuchPage says that the API does not serve a kind at all in the version that it was asked for, whatever the object.
func noSuchPage(err error) bool {
	return apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

// boundBy is the role that a binding is about.
func boundBy(o Object) diff.Ref {
	text := func(field string) string {
		s, _, _ := unstructured.NestedString(o.Object, "roleRef", field)
		return s
	}
	ref := diff.Ref{Group: roleKind.Group, Kind: text("kind"), Name: text("name")}
	switch o.Ref().GroupKind() {
	case roleBindingKind, clusterRoleBindingKind:
	default:
		return diff.Ref{}
	}
	if ref.Kind == roleKind.Kind {
		ref.Namespace = o.GetNamespace()
	}
	return ref
}
