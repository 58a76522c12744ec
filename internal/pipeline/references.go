package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/redact"
	"github.com/gitopsd/gitopsd/internal/render"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// references watches the ConfigMaps and Secrets that renderings read, each by its name and with the rights of the Application that
// names it, and brings the Applications up when one changes.
type references struct {
	ctx     context.Context // ends all watches
	kube    func(user string) (kubernetes.Interface, error)
	changed func(types.NamespacedName)

	mu  sync.Mutex
	of  map[reference]*referred
	all sync.WaitGroup
}

// reference names an object as an account sees it.
type reference struct{ user, kind, namespace, name string }

// referred is one watch.
type referred struct {
	informer cache.SharedIndexInformer
	end      context.CancelFunc
	by       map[types.NamespacedName]bool
	forget   func() // the values that are kept out of every text
}

func newReferences(ctx context.Context, e *Engine) *references {
	return &references{ctx: ctx, kube: e.kubeAs, changed: e.queue.Add, of: map[reference]*referred{}}
}

// name has an Application's references watched, and no others of it.
func (r *references) name(key types.NamespacedName, named []reference) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ref, w := range r.of {
		if w.by[key] && !slices.Contains(named, ref) {
			if delete(w.by, key); len(w.by) == 0 {
				w.end()
				w.forget()
				delete(r.of, ref)
			}
		}
	}
	for _, ref := range named {
		if r.of[ref] == nil {
			r.watch(ref)
		}
		if w := r.of[ref]; w != nil {
			w.by[key] = true
		}
	}
}

// watch begins to watch an object. The caller holds the lock.
func (r *references) watch(ref reference) {
	kube, err := r.kube(ref.user)
	if err != nil {
		return
	}
	var object runtime.Object = &corev1.ConfigMap{}
	resource := "configmaps"
	if ref.kind == "Secret" {
		object, resource = &corev1.Secret{}, "secrets"
	}
	lw := cache.NewListWatchFromClient(kube.CoreV1().RESTClient(), resource, ref.namespace, fields.OneTermEqualSelector(metav1.ObjectNameField, ref.name))
	informer := cache.NewSharedIndexInformer(lw, object, 0, nil)
	notify := func(any) {
		for _, key := range r.readers(ref) {
			r.changed(key)
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: notify, DeleteFunc: notify, UpdateFunc: func(old, new any) {
		if old.(metav1.Object).GetResourceVersion() != new.(metav1.Object).GetResourceVersion() {
			notify(new)
		}
	}}); err != nil {
		return
	}
	quiet := func(context.Context, *cache.Reflector, error) {} // who may read it but not watch it is asked for it now and then
	if err := informer.SetWatchErrorHandlerWithContext(quiet); err != nil {
		return
	}
	ctx, end := context.WithCancel(r.ctx)
	r.of[ref] = &referred{informer, end, map[types.NamespacedName]bool{}, func() {}}
	r.all.Go(func() { informer.RunWithContext(ctx) })
}

func (r *references) readers(ref reference) []types.NamespacedName {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.of[ref]; w != nil {
		return slices.Collect(maps.Keys(w.by))
	}
	return nil
}

// seen is the object as the watch saw it last; false when it is not watched, or not yet.
func (r *references) seen(ref reference) (object any, found, watched bool) {
	r.mu.Lock()
	w := r.of[ref]
	r.mu.Unlock()
	if w == nil || !w.informer.HasSynced() {
		return nil, false, false
	}
	object, found, err := w.informer.GetStore().GetByKey(ref.namespace + "/" + ref.name)
	return object, found, err == nil
}

// hide keeps the values of a Secret out of every text, in place of those that it had before.
func (r *references) hide(ref reference, data map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.of[ref]; w != nil {
		before := w.forget
		w.forget = redact.Register(unspeakable(data)...)
		before()
	}
}

// shortest is the length below which a part of a value is not taken out of texts: the words of a language are shorter.
const shortest = 8

// unspeakable are the values of a Secret and what looks like a value in them, line by line. They are not parsed here: what
// strangers wrote is parsed in the render worker.
func unspeakable(data map[string]string) []string {
	var out []string
	for _, value := range data {
		for _, line := range append(strings.Split(value, "\n"), value) {
			_, right, _ := strings.Cut(line, ": ")
			for _, text := range []string{line, right} {
				if text = strings.Trim(strings.TrimSpace(text), `"'`); len(text) >= shortest {
					out = append(out, text)
				}
			}
		}
	}
	return out
}

// referring is an Application that names ConfigMaps and Secrets.
type referring struct {
	*Engine
	app *v1alpha1.Application
}

// referring has what the Application names watched, and reads it.
func (e *Engine) referring(app *v1alpha1.Application) referring {
	r := referring{e, app}
	if e.refs != nil { // a Preview watches nothing
		e.refs.name(keyOf(app), r.named())
	}
	return r
}

func (r referring) named() []reference {
	var out []reference
	if r.app.Spec.Render == nil {
		return nil
	}
	if h := r.app.Spec.Render.Helm; h != nil {
		for _, v := range h.ValuesFrom {
			out = append(out, r.full(reference{kind: v.Kind, name: v.Name}))
		}
	}
	if d := r.app.Spec.Render.Decrypt; d != nil {
		out = append(out, r.full(reference{kind: "Secret", name: d.SecretRef.Name}))
	}
	return out
}

func (r referring) full(ref reference) reference {
	ref.user, ref.namespace = userOf(r.app), r.app.Namespace
	return ref
}

// errNoReference says that an object is not there.
var errNoReference = errors.New("it is not there")

// read returns the data of a reference, from its watch or else from the API.
func (r referring) read(ctx context.Context, ref reference) (map[string]string, error) {
	ref = r.full(ref)
	var object any
	found, watched := false, false
	if r.refs != nil {
		object, found, watched = r.refs.seen(ref)
	}
	if !watched {
		if r.refs != nil {
			r.lookAgain()
		}
		var err error
		object, err = r.ask(ctx, ref)
		if found = err == nil; err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("read %s %s/%s: %w", ref.kind, ref.namespace, ref.name, err)
		}
	}
	if !found {
		return nil, errNoReference
	}
	data := dataOf(object)
	if ref.kind == "Secret" && r.refs != nil {
		r.refs.hide(ref, data)
	}
	return data, nil
}

// unwatched is how often an object is read that may not be watched.
const unwatched = 30 * time.Second

// lookAgain has the Application looked at again for an object that no watch tells of.
func (r referring) lookAgain() {
	w := r.workOf(keyOf(r.app))
	if at := time.Now().Add(unwatched); w.wake.IsZero() || at.Before(w.wake) {
		w.wake = at
	}
}

func (r referring) ask(ctx context.Context, ref reference) (any, error) {
	kube, err := r.kubeAs(ref.user)
	if err != nil {
		return nil, err
	}
	if ref.kind == "Secret" {
		return kube.CoreV1().Secrets(ref.namespace).Get(ctx, ref.name, metav1.GetOptions{})
	}
	return kube.CoreV1().ConfigMaps(ref.namespace).Get(ctx, ref.name, metav1.GetOptions{})
}

func dataOf(object any) map[string]string {
	switch o := object.(type) {
	case *corev1.ConfigMap:
		return o.Data
	case *corev1.Secret:
		data := make(map[string]string, len(o.Data))
		for k, v := range o.Data {
			data[k] = string(v)
		}
		return data
	}
	return nil
}

// layers are the values that the Application names, in their order.
func (r referring) layers(ctx context.Context) ([]render.ValuesLayer, error) {
	if r.app.Spec.Render == nil || r.app.Spec.Render.Helm == nil {
		return nil, nil
	}
	var out []render.ValuesLayer
	for n, v := range r.app.Spec.Render.Helm.ValuesFrom {
		key := cmp.Or(v.Key, "values.yaml")
		data, err := r.read(ctx, reference{kind: v.Kind, name: v.Name})
		value, there := data[key]
		switch {
		case err != nil && !errors.Is(err, errNoReference):
			return nil, fmt.Errorf("spec.render.helm.valuesFrom[%d]: %w", n, err)
		case there:
			out = append(out, render.ValuesLayer{Name: fmt.Sprintf("%s %s/%s, key %s", v.Kind, r.app.Namespace, v.Name, key),
				Values: value, Target: v.TargetPath, Secret: v.Kind == "Secret"})
		case v.Optional:
		case err != nil:
			return nil, fmt.Errorf("spec.render.helm.valuesFrom[%d]: there is no %s %s in namespace %s; create it, or set optional", n, v.Kind, v.Name, r.app.Namespace)
		default:
			return nil, fmt.Errorf("spec.render.helm.valuesFrom[%d]: %s %s/%s has no key %s; add it, name another key, or set optional", n, v.Kind, r.app.Namespace, v.Name, key)
		}
	}
	return out, nil
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
