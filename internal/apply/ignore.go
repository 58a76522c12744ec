package apply

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/gitopsd/gitopsd/internal/diff"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// Ignored are fields of some objects that are left to others once the objects exist. Empty names stand for any.
type Ignored struct {
	Group, Kind, Namespace, Name string
	Pointers                     []diff.Pointer
	Managers                     []string // fields that these managers own
}

func (i Ignored) concerns(r diff.Ref) bool {
	return (i.Group == "" || i.Group == r.Group) && (i.Kind == "" || i.Kind == r.Kind) &&
		(i.Namespace == "" || i.Namespace == r.Namespace) && (i.Name == "" || i.Name == r.Name)
}

// leave is a desired object as it is applied to a live one: without what is left to others.
func (t Target) leave(o Object, at *unstructured.Unstructured) (Object, []string) {
	ref := o.Ref()
	var pointers []diff.Pointer
	var managers []string
	for _, i := range t.Ignored {
		if i.concerns(ref) {
			pointers, managers = append(pointers, i.Pointers...), append(managers, i.Managers...)
		}
	}
	if t.Scaled.by(ref) != "" {
		pointers = append(pointers, replicas)
	}
	if len(pointers)+len(managers) == 0 {
		return o, nil
	}
	u, left := diff.Leave(o.Unstructured, at, t.Manager, pointers, managers)
	return Object{u, o.Origin}, left
}

// Left says what of the declared fields is left to others, object by object, of those objects that a proof has read.
func (t Target) Left(objects []Object, p *Proof) []string {
	var out []string
	for _, o := range objects {
		live := p.live[o.Ref()]
		if live == nil || live.GetDeletionTimestamp() != nil {
			continue
		}
		scaler := t.Scaled.by(o.Ref())
		_, left := t.leave(o, live)
		for _, path := range left {
			if path == ".spec.replicas" && scaler != "" {
				out = append(out, fmt.Sprintf("%s: %s is left to HorizontalPodAutoscaler %s", o.Ref(), path, scaler))
			} else {
				out = append(out, fmt.Sprintf("%s: %s is left as it is, by spec.ignore", o.Ref(), path))
			}
		}
	}
	return out
}

var (
	replicas = diff.Pointer{"spec", "replicas"}
	scalers  = schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}
)

// Scaled are the workloads of which an autoscaler was found to set the replicas. It is asked for when a write would change
// these, and not before: that is rare, and so nothing needs to be watched.
type Scaled struct {
	client dynamic.Interface

	mu    sync.Mutex
	names map[diff.Ref]string
}

// NewScaled asks with a client that may list autoscalers.
func NewScaled(client dynamic.Interface) *Scaled {
	return &Scaled{client: client, names: map[diff.Ref]string{}}
}

func (s *Scaled) by(r diff.Ref) string {
	if s == nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names[r]
}

// look finds out whether an autoscaler, of the cluster or among those that the revision brings, sets a workload's replicas.
func (s *Scaled) look(ctx context.Context, r diff.Ref, brought []Object) (bool, error) {
	if s == nil {
		return false, nil
	}
	list, err := s.client.Resource(scalers).Namespace(r.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !meta.IsNoMatchError(err) && !apierrors.IsForbidden(err) {
		return false, fmt.Errorf("list HorizontalPodAutoscalers: %w", err)
	}
	all := brought
	if err == nil {
		for n := range list.Items {
			all = append(slices.Clip(all), Object{&list.Items[n], ""})
		}
	}
	for _, o := range all {
		if scales(o.Unstructured, r) {
			s.mu.Lock()
			s.names[r] = o.GetName()
			s.mu.Unlock()
			return true, nil
		}
	}
	return false, nil
}

func scales(hpa *unstructured.Unstructured, r diff.Ref) bool {
	text := func(field string) string {
		s, _, _ := unstructured.NestedString(hpa.Object, "spec", "scaleTargetRef", field)
		return s
	}
	gv, err := schema.ParseGroupVersion(text("apiVersion"))
	return err == nil && hpa.GetDeletionTimestamp() == nil && hpa.GetNamespace() == r.Namespace &&
		gv.Group == r.Group && text("kind") == r.Kind && text("name") == r.Name
}

// autoscalers are those among the objects of a revision.
func autoscalers(objects []Object) []Object {
	var out []Object
	for _, o := range objects {
		if o.Ref().GroupKind() == (schema.GroupKind{Group: scalers.Group, Kind: "HorizontalPodAutoscaler"}) {
			out = append(out, o)
		}
	}
	return out
}

// setsReplicas says that a write would change a number of replicas that is there.
func setsReplicas(fields []diff.Field) bool {
	return slices.ContainsFunc(fields, func(f diff.Field) bool { return f.Path == ".spec.replicas" && f.Old != nil })
}

// lookForScaler finds out who sets the replicas of a workload whose number is another one than is to be written.
func (t Target) lookForScaler(ctx context.Context, o Object, live *unstructured.Unstructured) error {
	want, declared, _ := unstructured.NestedInt64(o.Object, "spec", "replicas")
	has, there, _ := unstructured.NestedInt64(live.Object, "spec", "replicas")
	if !declared || !there || want == has {
		return nil
	}
	_, err := t.Scaled.look(ctx, o.Ref(), nil)
	return err
}
