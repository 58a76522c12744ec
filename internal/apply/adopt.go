package apply

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// AdoptAnnotation on a desired object says whether an object of its name that others made may be taken over: true or false. It is
// over what the Application says.
const AdoptAnnotation = "gitopsd.io/adopt"

// CheckAdopt tells an annotation that is neither.
func CheckAdopt(u *unstructured.Unstructured) error {
	if v, found := u.GetAnnotations()[AdoptAnnotation]; found && v != "true" && v != "false" {
		return fmt.Errorf("annotation %s is %q; it has to be \"true\" or \"false\"", AdoptAnnotation, v)
	}
	return nil
}

// Stranger says that a live object is not this Application's, neither by its label nor by what we have applied to it.
func (t Target) Stranger(live *unstructured.Unstructured) bool {
	return live.GetLabels()[t.Label] != t.Owner && !slices.ContainsFunc(live.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool {
		return m.Manager == t.Manager && m.Operation == metav1.ManagedFieldsOperationApply
	})
}

// adopts says whether an object that others made may be taken over, or why not.
func (t Target) adopts(o Object, live *unstructured.Unstructured) error {
	said := o.GetAnnotations()[AdoptAnnotation]
	if !t.Stranger(live) || said == "true" || (said == "" && !t.RefuseStrangers) {
		return nil
	}
	why := "spec.sync.adopt is Refuse"
	if said == "false" {
		why = AdoptAnnotation + " is false"
	}
	return &apiMessage{fmt.Sprintf("it is there already, made by %s, and %s; to take it over as it is, give it the annotation %s: \"true\" in the repository", MadeByWhom(live), why, AdoptAnnotation), errStranger}
}

var errStranger = errors.New("somebody else's object is in the way")

// marks by which the tools of the field know what they made.
var marks = []struct{ key, tool string }{
	{"meta.helm.sh/release-name", "Helm release"},
	{"argocd.argoproj.io/tracking-id", "Argo CD"},
	{"argocd.argoproj.io/instance", "Argo CD Application"},
	{"kustomize.toolkit.fluxcd.io/name", "Flux Kustomization"},
	{"helm.toolkit.fluxcd.io/name", "Flux HelmRelease"},
}

// MadeByWhom names the tools whose marks an object has, and the field managers that wrote it.
func MadeByWhom(live *unstructured.Unstructured) string {
	var who []string
	for _, m := range marks {
		if v := live.GetAnnotations()[m.key]; v != "" {
			who = append(who, m.tool+" "+v)
		} else if v := live.GetLabels()[m.key]; v != "" {
			who = append(who, m.tool+" "+v)
		}
	}
	var managers []string
	for _, m := range live.GetManagedFields() {
		if m.Subresource == "" && !slices.Contains(managers, m.Manager) {
			managers = append(managers, m.Manager)
		}
	}
	slices.Sort(managers)
	if len(managers) > 0 {
		who = append(who, "field manager "+strings.Join(managers, ", "))
	}
	if len(who) == 0 {
		return "somebody"
	}
	return strings.Join(who, ", ")
}

// Adopted says which objects would be taken over, and from whom.
func (t Target) Adopted(objects []Object, p *Proof) []string {
	var out []string
	for _, o := range objects {
		if live := p.live[o.Ref()]; live != nil && live.GetDeletionTimestamp() == nil && t.Stranger(live) {
			out = append(out, fmt.Sprintf("%s is there already, made by %s; it is taken over as it is, with its UID", o.Ref(), MadeByWhom(live)))
		}
	}
	return out
}
