package fakeapi

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Server is an API server. Requests are answered one after another.
type Server struct {
	// Observe, when set, sees each change of an object just after it happened. It may read (Object), and nothing else.
	Observe func(Change)
	// Runs says whether the pods of an image become ready; a Deployment whose do not never becomes available. Nil: all do.
	Runs func(image string) bool

	mu      sync.Mutex
	version uint64
	objects map[*kind]map[types.NamespacedName]*entry
	history []event
	oldest  uint64        // what happened before is forgotten
	changed chan struct{} // closed, and made anew, at each event
	dropped chan struct{} // closed, and made anew, when watches are to end

	rollouts map[types.UID]rollout
}

// entry is one stored object: as it is worked with, and as it is sent.
type entry struct {
	obj runtime.Object
	raw []byte
}

// event is one change, as watches tell it.
type event struct {
	version   uint64
	k         *kind
	namespace string
	was, is   labels.Set // nil: it was not there, it is not any more
	raw       []byte
}

// New returns a server that holds nothing. It belongs to the bubble in which it was made.
func New() *Server {
	s := &Server{version: 1000, objects: map[*kind]map[types.NamespacedName]*entry{}, changed: make(chan struct{}), dropped: make(chan struct{}),
		rollouts: map[types.UID]rollout{}}
	for _, k := range kinds {
		s.objects[k] = map[types.NamespacedName]*entry{}
	}
	return s
}

// Clone returns a server with the same objects. What happened before is forgotten, and nobody watches it.
func (s *Server) Clone() *Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := New()
	c.version, c.oldest, c.Runs, c.rollouts = s.version, s.version, s.Runs, maps.Clone(s.rollouts)
	for k, all := range s.objects {
		c.objects[k] = maps.Clone(all) // entries are never changed
	}
	return c
}

// Change is one write that changed an object. Old and New are its bytes before and after, nil where it was not there.
type Change struct {
	Request  Request
	Old, New []byte
}

// writing is one request on its way through the rules.
type writing struct {
	k           *kind
	key         types.NamespacedName
	rules       rules
	dryRun      bool
	request     Request
	uid         *types.UID // precondition
	mayCreate   bool
	mustBeNew   bool
	transformed func(now runtime.Object, exists bool) (runtime.Object, error)
}

// put runs an object through the rules and stores it: registry.Store's Create and Update.
func (s *Server) put(ctx context.Context, w writing) (raw []byte, created bool, err error) {
	ctx = genericrequest.WithNamespace(ctx, w.key.Namespace)
	old := s.objects[w.k][w.key]
	switch {
	case old == nil && !w.mayCreate:
		return nil, false, errors.NewNotFound(w.k.resource(), w.key.Name)
	case old != nil && w.mustBeNew:
		return nil, false, errors.NewAlreadyExists(w.k.resource(), w.key.Name)
	case old == nil:
		return s.create(ctx, w)
	}
	if uid := metaOf(old.obj).GetUID(); w.uid != nil && *w.uid != uid {
		return nil, false, errors.NewConflict(w.k.resource(), w.key.Name, fmt.Errorf("Precondition failed: UID in precondition: %s, UID in object meta: %s", *w.uid, uid))
	}
	obj, err := w.transformed(old.obj.DeepCopyObject(), true)
	if err != nil {
		return nil, false, err
	}
	current := metaOf(old.obj).GetResourceVersion()
	switch version := metaOf(obj).GetResourceVersion(); {
	case version == "" && w.rules.unconditional():
		metaOf(obj).SetResourceVersion(current)
	case version == "":
		return nil, false, errors.NewInvalid(schema.GroupKind{Group: w.k.gvk.Group, Kind: w.k.plural}, w.key.Name, unversioned)
	case version != current:
		return nil, false, errors.NewConflict(w.k.resource(), w.key.Name, errLate)
	}
	if err := w.rules.update(ctx, obj, old.obj.DeepCopyObject()); err != nil {
		return nil, false, err
	}
	raw, err = s.keep(w, old, obj)
	return raw, false, err
}

func (s *Server) create(ctx context.Context, w writing) ([]byte, bool, error) {
	obj, err := w.transformed(w.k.codec.empty(), false)
	if err != nil {
		return nil, false, err
	}
	if err := s.inNamespace(w.k, w.key); err != nil {
		return nil, false, err
	}
	m := metaOf(obj)
	rest.FillObjectMetaSystemFields(m)
	m.SetResourceVersion("")
	if err := w.rules.create(ctx, obj); err != nil {
		return nil, false, err
	}
	raw, err := s.keep(w, nil, obj)
	return raw, true, err
}

// inNamespace is what the admission of namespaces refuses.
func (s *Server) inNamespace(k *kind, key types.NamespacedName) error {
	if !k.namespaced {
		return nil
	}
	for n, all := range s.objects {
		if n.gvk.Kind == "Namespace" && all[types.NamespacedName{Name: key.Namespace}] == nil {
			return errors.NewNotFound(n.resource(), key.Namespace)
		}
	}
	return nil
}

// keep stores an object that passed the rules, unless it is a dry-run or nothing differs. An object that waited for its
// finalizers alone goes.
func (s *Server) keep(w writing, old *entry, obj runtime.Object) ([]byte, error) {
	raw, err := w.k.codec.encode(obj)
	if err != nil || w.dryRun || old != nil && slices.Equal(raw, old.raw) {
		return raw, err
	}
	m := metaOf(obj)
	if m.GetDeletionTimestamp() != nil && len(m.GetFinalizers()) == 0 {
		return raw, s.remove(w.k, w.key, obj, w.request)
	}
	s.version++
	m.SetResourceVersion(strconv.FormatUint(s.version, 10))
	if raw, err = w.k.codec.encode(obj); err != nil {
		return nil, err
	}
	s.objects[w.k][w.key] = &entry{obj, raw}
	s.happened(w, old, obj, raw)
	s.roll(w.k, w.key, obj)
	return raw, nil
}

func (s *Server) remove(k *kind, key types.NamespacedName, last runtime.Object, r Request) error {
	old := s.objects[k][key]
	delete(s.objects[k], key)
	s.version++
	last = last.DeepCopyObject()
	metaOf(last).SetResourceVersion(strconv.FormatUint(s.version, 10))
	raw, err := k.codec.encode(last)
	if err != nil {
		return err
	}
	s.tell(event{s.version, k, key.Namespace, labelsOf(old.obj), nil, raw})
	if s.Observe != nil {
		s.Observe(Change{Request: r, Old: old.raw})
	}
	return nil
}

func (s *Server) happened(w writing, old *entry, obj runtime.Object, raw []byte) {
	e, c := event{s.version, w.k, w.key.Namespace, nil, labelsOf(obj), raw}, Change{Request: w.request, New: raw}
	if old != nil {
		e.was, c.Old = labelsOf(old.obj), old.raw
	}
	s.tell(e)
	if s.Observe != nil {
		s.Observe(c)
	}
}

func (s *Server) tell(e event) {
	s.history = append(s.history, e)
	close(s.changed)
	s.changed = make(chan struct{})
}

func labelsOf(obj runtime.Object) labels.Set {
	if l := metaOf(obj).GetLabels(); l != nil {
		return l
	}
	return labels.Set{}
}

// delete is registry.Store's Delete: preconditions, then finalizers, then the end.
func (s *Server) delete(k *kind, key types.NamespacedName, o metav1.DeleteOptions, dryRun bool, r Request) ([]byte, error) {
	old := s.objects[k][key]
	if old == nil {
		return nil, errors.NewNotFound(k.resource(), key.Name)
	}
	obj := old.obj.DeepCopyObject()
	m := metaOf(obj)
	if err := met(o.Preconditions, k, m); err != nil {
		return nil, err
	}
	if o.PropagationPolicy != nil && *o.PropagationPolicy != metav1.DeletePropagationBackground {
		return nil, errors.NewBadRequest("fakeapi knows no propagationPolicy but Background")
	}
	if len(m.GetFinalizers()) == 0 {
		if !dryRun {
			if err := s.remove(k, key, obj, r); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}
	if m.GetDeletionTimestamp() == nil && m.GetGeneration() > 0 {
		m.SetGeneration(m.GetGeneration() + 1)
	}
	now, zero := metav1.NewTime(time.Now().Truncate(time.Second)), int64(0)
	if m.GetDeletionTimestamp() == nil {
		m.SetDeletionTimestamp(&now)
	}
	m.SetDeletionGracePeriodSeconds(&zero)
	return s.keep(writing{k: k, key: key, dryRun: dryRun, request: r}, old, obj)
}

// met checks the preconditions of a deletion, in Kubernetes' words.
func met(p *metav1.Preconditions, k *kind, m metav1.Object) error {
	if p == nil {
		return nil
	}
	named := schema.GroupResource{Group: k.gvk.Group, Resource: k.gvk.Kind} // so says Kubernetes too
	if p.UID != nil && *p.UID != m.GetUID() {
		return errors.NewConflict(named, m.GetName(), fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, m.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != m.GetResourceVersion() {
		return errors.NewConflict(named, m.GetName(), fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, m.GetResourceVersion()))
	}
	return nil
}

// Object is the bytes of a stored object, nil when there is none. It is for Observe, which runs while a request is answered.
func (s *Server) Object(kind, namespace, name string) []byte {
	for k, all := range s.objects {
		if e := all[types.NamespacedName{Namespace: namespace, Name: name}]; e != nil && k.gvk.Kind == kind {
			return e.raw
		}
	}
	return nil
}

// Forget makes that a watch from before now is told to list again, and ends those that are under way.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldest, s.history = s.version, nil
	close(s.dropped)
	s.dropped = make(chan struct{})
}
