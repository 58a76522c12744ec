// Package objects holds the config maps and secrets that the pods of this node use.
//
// A node may read only what its pods refer to, one object at a time: never a list of all. So each object in use has a
// watch of its own, that lives as long as a pod uses it; whoever uses an object is told when it changes.
package objects

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// Kind is what a Ref points to.
type Kind string

const (
	ConfigMap Kind = "configmap"
	Secret    Kind = "secret"
)

// Ref names one object.
type Ref struct {
	Kind            Kind
	Namespace, Name string
}

// forbiddenPatience is how long a refusal is taken for the authorizer not having seen the pod yet.
const forbiddenPatience = 3 * time.Second

// Cache is the objects in use. Make it with New; Run ends its watches.
type Cache struct {
	client  kubernetes.Interface
	changed func(types.UID)
	ctx     context.Context
	wg      sync.WaitGroup

	mu    sync.Mutex
	items map[Ref]*item
	uses  map[types.UID]map[Ref]bool
}

type item struct {
	ref    Ref
	users  map[types.UID]bool
	cancel context.CancelFunc
	ready  chan struct{} // closed after the first answer
	once   sync.Once
	object runtime.Object
	err    error
}

// New returns an empty cache; its watches end with ctx. Changed is called for each pod that uses a changed object.
func New(ctx context.Context, client kubernetes.Interface, changed func(types.UID)) *Cache {
	return &Cache{client: client, changed: changed, ctx: ctx, items: map[Ref]*item{}, uses: map[types.UID]map[Ref]bool{}}
}

// Wait returns when all watches have ended, after the context given to New did.
func (c *Cache) Wait() { c.wg.Wait() }

// Use says which objects a pod uses from now on; none when it is gone.
func (c *Cache) Use(uid types.UID, refs []Ref) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := map[Ref]bool{}
	for _, r := range refs {
		next[r] = true
		c.hold(uid, r)
	}
	for r := range c.uses[uid] {
		if !next[r] {
			c.release(uid, r)
		}
	}
	c.uses[uid] = next
	if len(next) == 0 {
		delete(c.uses, uid)
	}
}

func (c *Cache) hold(uid types.UID, r Ref) {
	it := c.items[r]
	if it == nil {
		ctx, cancel := context.WithCancel(c.ctx)
		it = &item{ref: r, users: map[types.UID]bool{}, cancel: cancel, ready: make(chan struct{})}
		c.items[r] = it
		c.wg.Add(1)
		go func() {
			defer c.wg.Done()
			c.follow(ctx, it)
		}()
	}
	it.users[uid] = true
}

func (c *Cache) release(uid types.UID, r Ref) {
	it := c.items[r]
	if it == nil {
		return
	}
	delete(it.users, uid)
	if len(it.users) == 0 {
		it.cancel()
		delete(c.items, r)
	}
}

// ConfigMap returns a config map in use.
func (c *Cache) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	o, err := c.get(ctx, Ref{ConfigMap, namespace, name})
	if err != nil {
		return nil, err
	}
	return o.(*v1.ConfigMap), nil
}

// Secret returns a secret in use.
func (c *Cache) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	o, err := c.get(ctx, Ref{Secret, namespace, name})
	if err != nil {
		return nil, err
	}
	return o.(*v1.Secret), nil
}

func (c *Cache) get(ctx context.Context, r Ref) (runtime.Object, error) {
	c.mu.Lock()
	it := c.items[r]
	c.mu.Unlock()
	if it == nil {
		return c.fetch(ctx, r)
	}
	select {
	case <-it.ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("get %s %s/%s: %w", r.Kind, r.Namespace, r.Name, ctx.Err())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return it.object, it.err
}

// follow keeps an item up to date until nobody uses it.
func (c *Cache) follow(ctx context.Context, it *item) {
	began := time.Now()
	pause := 50 * time.Millisecond
	for ctx.Err() == nil {
		o, err := c.fetch(ctx, it.ref)
		early := apierrors.IsForbidden(err) && time.Since(began) < forbiddenPatience
		if !early && ctx.Err() == nil {
			c.set(it, o, err)
		}
		if err == nil || apierrors.IsNotFound(err) {
			if c.watch(ctx, it, o) {
				pause = 50 * time.Millisecond
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, 10*time.Second)
	}
}

func (c *Cache) set(it *item, o runtime.Object, err error) {
	c.mu.Lock()
	if !apierrors.IsNotFound(err) && err != nil && it.object != nil {
		// The API is away: what was known stays true.
		c.mu.Unlock()
		return
	}
	same := it.err == nil && err == nil && it.object != nil && version(it.object) == version(o)
	first := it.object == nil && it.err == nil
	it.object, it.err = o, err
	users := make([]types.UID, 0, len(it.users))
	for uid := range it.users {
		users = append(users, uid)
	}
	c.mu.Unlock()
	it.once.Do(func() { close(it.ready) })
	if same || first {
		return
	}
	for _, uid := range users {
		c.changed(uid)
	}
}

func version(o runtime.Object) string {
	if m, ok := o.(metav1.Object); ok {
		return m.GetResourceVersion()
	}
	return ""
}

// watch follows changes until the stream ends and says whether it lasted.
func (c *Cache) watch(ctx context.Context, it *item, o runtime.Object) bool {
	opts := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", it.ref.Name).String()}
	if o != nil {
		opts.ResourceVersion = version(o)
	}
	var w watch.Interface
	var err error
	if it.ref.Kind == ConfigMap {
		w, err = c.client.CoreV1().ConfigMaps(it.ref.Namespace).Watch(ctx, opts)
	} else {
		w, err = c.client.CoreV1().Secrets(it.ref.Namespace).Watch(ctx, opts)
	}
	if err != nil {
		return false
	}
	defer w.Stop()
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			return true
		case e, ok := <-w.ResultChan():
			if !ok || e.Type == watch.Error {
				return time.Since(began) > time.Minute
			}
			if e.Type == watch.Deleted {
				c.set(it, nil, apierrors.NewNotFound(v1.Resource(string(it.ref.Kind)+"s"), it.ref.Name))
			} else if e.Type != watch.Bookmark {
				c.set(it, e.Object, nil)
			}
		}
	}
}

func (c *Cache) fetch(ctx context.Context, r Ref) (runtime.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	switch r.Kind {
	case ConfigMap:
		o, err := c.client.CoreV1().ConfigMaps(r.Namespace).Get(ctx, r.Name, metav1.GetOptions{})
		return object(o, err)
	case Secret:
		o, err := c.client.CoreV1().Secrets(r.Namespace).Get(ctx, r.Name, metav1.GetOptions{})
		return object(o, err)
	}
	return nil, errors.New("unknown kind " + string(r.Kind))
}

// object avoids a nil pointer in a non-nil interface.
func object[T any, P interface {
	*T
	runtime.Object
}](o P, err error) (runtime.Object, error) {
	if err != nil {
		return nil, err
	}
	return o, nil
}
