package diff

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Foreign are the fields of an object that one manager other than ours has set.
type Foreign struct {
	Manager string
	Time    time.Time
	Fields  []string // paths, sorted
}

// controllers write to objects of everyone as a part of their work; that is no drift.
var controllers = map[string]bool{
	"kube-controller-manager": true, "kube-scheduler": true, "kube-apiserver": true, "cloud-controller-manager": true,
	"gitopsd-agent": true, "gitopsd-cli": true, "gitopsd-epoch": true,
}

// ForeignFields reads from managedFields what managers other than ours own alone: fields that somebody added. Fields
// of subresources (status, scale) and those of Kubernetes' own controllers are not told.
func ForeignFields(live *unstructured.Unstructured, ours string) []Foreign {
	return foreign(live, ours, func(fieldpath.Path) bool { return true })
}

// AddedFields are the foreign fields that the desired object does not declare: what others have added to it, without what
// they have changed in it.
func AddedFields(live, desired *unstructured.Unstructured, ours string) []Foreign {
	return foreign(live, ours, func(p fieldpath.Path) bool {
		_, declared := lookup(desired.Object, p)
		return !declared
	})
}

func foreign(live *unstructured.Unstructured, ours string, keep func(fieldpath.Path) bool) []Foreign {
	own := fieldpath.NewSet()
	for _, m := range live.GetManagedFields() {
		if m.Manager == ours && m.Operation == metav1.ManagedFieldsOperationApply {
			if s := fieldSet(m); s != nil {
				own = own.Union(s)
			}
		}
	}
	var out []Foreign
	for _, m := range live.GetManagedFields() {
		if m.Manager == ours || m.Subresource != "" || controllers[m.Manager] {
			continue
		}
		set := fieldSet(m)
		if set == nil {
			continue
		}
		f := Foreign{Manager: m.Manager, Fields: paths(set.Difference(own), keep)}
		if m.Time != nil {
			f.Time = m.Time.Time
		}
		if len(f.Fields) > 0 {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b Foreign) int { return strings.Compare(a.Manager, b.Manager) })
	return out
}

func fieldSet(m metav1.ManagedFieldsEntry) *fieldpath.Set {
	if m.FieldsV1 == nil {
		return nil
	}
	s := fieldpath.NewSet()
	if err := s.FromJSON(m.FieldsV1.GetRawReader()); err != nil {
		return nil // written by a server of another version; nothing can be said about it
	}
	return s
}

func paths(s *fieldpath.Set, keep func(fieldpath.Path) bool) []string {
	var out []string
	s.Leaves().Iterate(func(p fieldpath.Path) {
		if keep(p) {
			out = append(out, p.String())
		}
	})
	slices.Sort(out)
	return slices.Compact(out)
}
