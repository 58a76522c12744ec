package fakeapi

import (
	"encoding/json"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/core"
)

const (
	controllerManager = "kube-controller-manager"
	// rolloutTakes is the time between a change of a Deployment and what its controller says of it.
	rolloutTakes = 300 * time.Millisecond
)

// rollout is what the stand-in for the Deployment controller remembers of one Deployment.
type rollout struct {
	template string
	revision int
}

// roll lets the stand-in for the controller look at a Deployment that changed, a moment later.
func (s *Server) roll(k *kind, key types.NamespacedName, obj runtime.Object) {
	if d, ok := obj.(*apps.Deployment); ok && d.Generation != d.Status.ObservedGeneration {
		time.AfterFunc(rolloutTakes, func() { s.rollOut(k, key) })
	}
}

// RollOut lets it look at every Deployment: what Runs says has changed.
func (s *Server) RollOut() {
	s.mu.Lock()
	var all []func()
	for k, objects := range s.objects {
		for key, e := range objects {
			if _, ok := e.obj.(*apps.Deployment); ok {
				all = append(all, func() { s.rollOut(k, key) })
			}
		}
	}
	s.mu.Unlock()
	for _, look := range all {
		look()
	}
}

// rollOut says in the status what became of a Deployment, and numbers its revisions, as the controller does.
func (s *Server) rollOut(k *kind, key types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.objects[k][key]
	if e == nil {
		return
	}
	revision := s.revisionOf(e.obj.(*apps.Deployment))
	r := Request{Method: "PUT", Kind: k.gvk.Kind, Namespace: key.Namespace, Name: key.Name, Subresource: "status", Query: map[string][]string{"fieldManager": {controllerManager}}}
	w := writing{k: k, key: key, rules: k.status, request: r}
	w.transformed = func(now runtime.Object, _ bool) (runtime.Object, error) {
		d := now.DeepCopyObject().(*apps.Deployment)
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, revisionAnnotation, revision) // with the status, as the controller does
		if next := s.statusOf(d); !equality.Semantic.DeepEqual(next, d.Status) {
			d.Status = next
		}
		return w.owned(now, d), nil
	}
	_, _, _ = s.put(genericrequest.NewContext(), w) // a controller that fails tries again, at the next change
}

const revisionAnnotation = "deployment.kubernetes.io/revision"

func (s *Server) revisionOf(d *apps.Deployment) string {
	template, err := json.Marshal(d.Spec.Template)
	if err != nil {
		panic(err) // a struct of the API is JSON
	}
	r := s.rollouts[d.UID]
	if r.template != string(template) {
		r = rollout{string(template), r.revision + 1}
		s.rollouts[d.UID] = r
	}
	return strconv.Itoa(r.revision)
}

func (s *Server) statusOf(d *apps.Deployment) apps.DeploymentStatus {
	n, ready := d.Spec.Replicas, int32(0)
	runs := true
	for _, c := range d.Spec.Template.Spec.Containers {
		runs = runs && (s.Runs == nil || s.Runs(c.Image))
	}
	if runs {
		ready = n
	}
	st := apps.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: ready, AvailableReplicas: ready, UnavailableReplicas: n - ready}
	condition := func(kind apps.DeploymentConditionType, is bool, reason string) {
		c := apps.DeploymentCondition{Type: kind, Status: core.ConditionFalse, Reason: reason, LastUpdateTime: metav1.Now().Rfc3339Copy(), LastTransitionTime: metav1.Now().Rfc3339Copy()}
		if is {
			c.Status = core.ConditionTrue
		}
		for _, was := range d.Status.Conditions {
			if was.Type == c.Type && was.Status == c.Status && was.Reason == c.Reason {
				c = was
			}
		}
		st.Conditions = append(st.Conditions, c)
	}
	if ready == n {
		condition(apps.DeploymentAvailable, true, "MinimumReplicasAvailable")
		condition(apps.DeploymentProgressing, true, "NewReplicaSetAvailable")
	} else {
		condition(apps.DeploymentAvailable, false, "MinimumReplicasUnavailable")
		condition(apps.DeploymentProgressing, true, "ReplicaSetUpdated")
	}
	return st
}
