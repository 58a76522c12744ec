package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gitopsd/gitopsd/internal/diff"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// What bringing fields back does not mend by itself: pods that the bad revision left, and pods that read what it had configured.

var podKind = schema.GroupKind{Kind: "Pod"}

// RestartAnnotation on a pod template names the undone intent for which its pods were started anew.
const RestartAnnotation = "gitopsd.io/restarted-after"

// templated are the kinds whose controllers start pods anew when the template changes.
var templated = map[schema.GroupKind]bool{
	{Group: "apps", Kind: "Deployment"}: true, {Group: "apps", Kind: "StatefulSet"}: true, {Group: "apps", Kind: "DaemonSet"}: true,
}

// unstick deletes the pods of a StatefulSet that another revision than the restored one made and that never became ready: its
// controller waits for them, in order, before it makes any other.
func (x *undo) unstick(ctx context.Context, set *unstructured.Unstructured) error {
	if set.GroupVersionKind().GroupKind() != statefulSetKind {
		return nil
	}
	pods, err := x.t.podsOf(ctx, set)
	if err != nil {
		return err
	}
	m, err := x.t.mapping(podKind, "v1")
	if err != nil {
		return err
	}
	stuck := func(pod *unstructured.Unstructured) bool {
		return condition(pod, "Ready") != "True" && !wanted(set, pod.GetLabels()["controller-revision-hash"])
	}
	var errs []error
	for _, pod := range pods {
		if !stuck(&pod) {
			continue
		}
		if _, err := x.t.delete(ctx, m, &pod, stuck); err != nil {
			errs = append(errs, fmt.Errorf("delete its pod %s, which never became ready: %w", pod.GetName(), err))
		}
	}
	return errors.Join(errs...)
}

// wanted says whether a StatefulSet is to have pods of a revision: of the one that it had, or of the one that it is bringing out,
// if its controller has seen what is asked for now.
func wanted(set *unstructured.Unstructured, revision string) bool {
	current, _, _ := unstructured.NestedString(set.Object, "status", "currentRevision")
	update, _, _ := unstructured.NestedString(set.Object, "status", "updateRevision")
	observed, _, _ := unstructured.NestedInt64(set.Object, "status", "observedGeneration")
	return revision == current || (revision == update && observed >= set.GetGeneration())
}

// podsOf are the pods that a workload controls, directly or through ReplicaSets: those with its labels that have a controller.
func (t Target) podsOf(ctx context.Context, workload *unstructured.Unstructured) ([]unstructured.Unstructured, error) {
	match, _, _ := unstructured.NestedStringMap(workload.Object, "spec", "selector", "matchLabels")
	if len(match) == 0 {
		return nil, nil
	}
	m, err := t.mapping(podKind, "v1")
	if err != nil {
		return nil, err
	}
	list, err := t.resource(m, workload.GetNamespace()).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(match).String()})
	if err != nil {
		return nil, fmt.Errorf("list its pods: %w", err)
	}
	var out []unstructured.Unstructured
	for _, pod := range list.Items {
		if metav1.GetControllerOf(&pod) != nil {
			out = append(out, pod)
		}
	}
	return out, nil
}

// restart starts the pods of workloads anew that may have read configuration of the bad revision: those of which a container was
// started since it began. Done again it changes nothing.
func (x *undo) restart(ctx context.Context) {
	restored := map[diff.Ref]bool{}
	for _, i := range x.Images {
		gk := i.Held.Ref.GroupKind()
		if _, inBase := x.base[i.Held.Ref]; inBase && i.Object != nil && (gk == secretKind || gk == configMapKind) {
			restored[i.Held.Ref] = true
		}
	}
	if len(restored) == 0 {
		return
	}
	for _, o := range x.Undoing.Base {
		if !templated[o.GroupVersionKind().GroupKind()] || !reads(o, restored) {
			continue
		}
		if err := x.restartOne(ctx, o); err != nil {
			x.errs = append(x.errs, &Refusal{Ref: o.Ref(), Origin: o.Origin, Err: fmt.Errorf("undo: start its pods anew: %w", err)})
		}
	}
}

func (x *undo) restartOne(ctx context.Context, o Object) error {
	m, err := x.t.mapping(o.Ref().GroupKind(), o.GroupVersionKind().Version)
	if err != nil {
		return err
	}
	live, err := x.t.get(ctx, m, o.Ref())
	if err != nil || live == nil {
		return err
	}
	pods, err := x.t.podsOf(ctx, live)
	if err != nil || !startedSince(pods, x.Since) {
		return err
	}
	mark := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"template": map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{RestartAnnotation: x.Intent}}}}}}
	identify(mark, live)
	_, err = x.t.as(restorer).patch(ctx, m, Object{Unstructured: mark}, live, whatever)
	return err
}

// startedSince says whether a container of one of the pods was started since then.
func startedSince(pods []unstructured.Unstructured, since time.Time) bool {
	for _, pod := range pods {
		statuses, _, _ := unstructured.NestedSlice(pod.Object, "status", "containerStatuses")
		for _, s := range statuses {
			status, _ := s.(map[string]any)
			text, _, _ := unstructured.NestedString(status, "state", "running", "startedAt")
			if at, err := time.Parse(time.RFC3339, text); err == nil && !at.Before(since) {
				return true
			}
		}
	}
	return false
}

// reads says whether the pods of a workload name one of these ConfigMaps and Secrets anywhere.
func reads(o Object, refs map[diff.Ref]bool) bool {
	spec, _, _ := unstructured.NestedMap(o.Object, "spec", "template", "spec")
	found := false
	var walk func(key string, v any)
	walk = func(key string, v any) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				walk(key, item)
			}
		case map[string]any:
			kind, name := "", "name"
			switch key {
			case "configMap", "configMapRef", "configMapKeyRef":
				kind = "ConfigMap"
			case "secretRef", "secretKeyRef":
				kind = "Secret"
			case "secret": // a volume says secretName, a projection name
				kind = "Secret"
				if v["secretName"] != nil {
					name = "secretName"
				}
			}
			if named, _ := v[name].(string); kind != "" && refs[diff.Ref{Kind: kind, Namespace: o.GetNamespace(), Name: named}] {
				found = true
			}
			for k, item := range v {
				walk(k, item)
			}
		}
	}
	walk("", map[string]any(spec))
	return found
}
