package model

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/pipeline"
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

const (
	application = "app"
	// somebody is the field manager of changes by hand.
	somebody = "somebody"
	// theirs is an object that is there before the Application, with the value theirs.
	theirs = "cm/theirs"
)

// driver does the steps of one history in one namespace of an API, fake or real.
type driver struct {
	namespace string
	client    *rest.Config
	api       dynamic.Interface
	repo      *repo
	contents  pipeline.Contents
	ledger    pipeline.Ledger
	trace     *trace
	began     func(engine string, turn apply.Turn)
	runLate   func() // makes pods of the image "late" ready
	timeout   time.Duration

	engine  *engine
	engines int
	asked   int // requests by annotation
}

// engine is one life of the engine.
type engine struct {
	gate   *gate
	cancel context.CancelFunc
	done   chan struct{}
}

func (d *driver) start() {
	d.engines++
	ctx, cancel := context.WithCancel(context.Background())
	e := &engine{gate: &gate{id: strconv.Itoa(d.engines), namespace: d.namespace, trace: d.trace}, cancel: cancel, done: make(chan struct{})}
	e.gate.died = cancel
	cfg := rest.CopyConfig(d.client)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		gate := e.gate
		return roundTripper(func(req *http.Request) (*http.Response, error) { return gate.through(next, req) })
	})
	d.engine = e
	d.trace.add("engine %s starts", e.gate.id)
	go func() {
		defer close(e.done)
		turn, err := pipeline.TakeTurn(ctx, d.client, d.namespace)
		if err != nil {
			d.trace.add("engine %s has no turn: %v", e.gate.id, err)
			return
		}
		if d.began != nil {
			d.began(e.gate.id, turn)
		}
		err = pipeline.Run(ctx, pipeline.Config{Client: cfg, Sources: d.repo, Renderer: d.repo,
			Contents: contents{e.gate, d.contents}, Ledger: account{e.gate, d.ledger}, Turn: turn,
			Log: slog.New(slog.NewTextHandler(d.trace, nil)), Metrics: pipeline.NewMetrics(prometheus.NewRegistry())})
		d.trace.add("engine %s ended: %v", e.gate.id, err)
	}()
}

// end kills the engine. What it was about to do does not happen.
func (e *engine) end() {
	e.gate.kill()
	e.gate.proceed()
	e.cancel()
	<-e.done
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// prepare makes the namespace, somebody's object in it, and the Application.
func (d *driver) prepare(ctx context.Context, p Policy) error {
	if err := d.connect(); err != nil {
		return err
	}
	ns := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": d.namespace}}}
	if _, err := d.api.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create namespace: %w", err)
	}
	if err := d.createTheirs(ctx); err != nil {
		return err
	}
	app := &v1alpha1.Application{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Application"}, ObjectMeta: metav1.ObjectMeta{Namespace: d.namespace, Name: application}}
	heal, prune := !p.NoHeal, !p.NoPrune
	app.Spec.Source.Repo = "model"
	app.Spec.Destination.Namespace = d.namespace
	app.Spec.Sync = v1alpha1.SyncPolicy{Heal: &heal, Prune: &prune, Timeout: &metav1.Duration{Duration: d.timeout}, OnFailure: v1alpha1.Rollback}
	if p.Hold {
		app.Spec.Sync.OnFailure = v1alpha1.Hold
	}
	u, err := runtime.DefaultUnstructuredConverter.ToUnstructured(app)
	if err != nil {
		return err
	}
	delete(u, "status")
	_, err = d.resource("applications").Create(ctx, &unstructured.Unstructured{Object: u}, metav1.CreateOptions{})
	return err
}

func (d *driver) connect() (err error) {
	d.api, err = dynamic.NewForConfig(d.client)
	return err
}

func (d *driver) createTheirs(ctx context.Context) error {
	_, err := d.of(theirs).Create(ctx, objectOf(theirs, "theirs"), metav1.CreateOptions{FieldManager: somebody})
	return err
}

func (d *driver) resource(plural string) dynamic.ResourceInterface {
	gvr := v1alpha1.GroupVersion.WithResource(plural)
	for _, r := range resources {
		if r.plural == plural {
			gvr = schema.FromAPIVersionAndKind(r.apiVersion, r.kind).GroupVersion().WithResource(plural)
		}
	}
	return d.api.Resource(gvr).Namespace(d.namespace)
}

func (d *driver) of(object string) dynamic.ResourceInterface {
	kind, _, _ := strings.Cut(object, "/")
	return d.resource(resources[kind].plural)
}

// status is the Application's.
func (d *driver) application(ctx context.Context) (*v1alpha1.Application, error) {
	u, err := d.resource("applications").Get(ctx, application, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	app := &v1alpha1.Application{}
	return app, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, app)
}

// do makes a step happen. That what it is about is not there is no error: histories are made at random.
func (d *driver) do(ctx context.Context, s Step) error {
	d.trace.add("step %s %s %v", s.Do, s.Object, s.Objects)
	if s.Do != Restart && s.Do != TakeOver {
		d.engine.gate.arm(s.Fault)
	}
	switch s.Do {
	case Commit, Broken:
		d.repo.commit(s.Objects, s.Do == Broken)
	case Suspend:
		return d.annotate(ctx, map[string]any{v1alpha1.AnnotationSuspend: "true"})
	case Resume:
		return d.annotate(ctx, map[string]any{v1alpha1.AnnotationSuspend: nil, v1alpha1.AnnotationPin: nil})
	case Retry:
		d.asked++
		asked := fmt.Sprint("request ", d.asked)
		return d.annotate(ctx, map[string]any{v1alpha1.AnnotationSync: asked, v1alpha1.AnnotationRetry: asked})
	case Consent:
		return d.annotate(ctx, map[string]any{v1alpha1.AnnotationAllowPrune: d.repo.newest().name})
	case Pin:
		return d.pin(ctx, s.Back)
	case Run:
		d.runLate()
	case Restart:
		d.engine.end()
		d.start()
		d.engine.gate.arm(s.Fault)
	case TakeOver:
		d.takeOver(s.Fault)
	case Change, Delete, Add, Detain, Release:
		return d.byHand(ctx, s)
	}
	return nil
}

// takeOver starts a second engine while the first is stopped, and lets the first go on for a moment when the second has worked.
func (d *driver) takeOver(f *Fault) {
	old := d.engine
	if old.gate.stopped() {
		old.gate.giveUp()
		d.start()
		d.engine.gate.arm(f)
		time.Sleep(Rest)
		old.gate.proceed()
		time.Sleep(time.Second)
	} else {
		defer d.start()
	}
	old.end()
}

func (d *driver) annotate(ctx context.Context, annotations map[string]any) error {
	return d.merge(ctx, d.resource("applications"), application, map[string]any{"metadata": map[string]any{"annotations": annotations}})
}

// merge patches an object as somebody; that it is not there is no error.
func (d *driver) merge(ctx context.Context, r dynamic.ResourceInterface, name string, patch map[string]any) error {
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = r.Patch(ctx, name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: somebody})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// pin is what gitopsd rollback does: to a revision of the history, from the newest.
func (d *driver) pin(ctx context.Context, back int) error {
	app, err := d.application(ctx)
	if err != nil {
		return err
	}
	h := app.Status.History
	if len(h) == 0 || app.Status.ObservedCommit == "" {
		return nil
	}
	r := h[min(back, len(h)-1)]
	return d.annotate(ctx, map[string]any{v1alpha1.AnnotationPin: r.Digest + "@" + app.Status.ObservedCommit})
}

// byHand is what somebody does with an object.
func (d *driver) byHand(ctx context.Context, s Step) error {
	if s.Do == Release {
		for kind := range resources {
			list, err := d.resource(resources[kind].plural).List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			for _, u := range list.Items {
				if len(u.GetFinalizers()) > 0 {
					if err := d.merge(ctx, d.resource(resources[kind].plural), u.GetName(), map[string]any{"metadata": map[string]any{"finalizers": nil}}); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
	kind, name, _ := strings.Cut(s.Object, "/")
	patch := map[string]any{"metadata": map[string]any{"labels": map[string]any{"added": "by-hand"}}}
	switch {
	case s.Do == Delete:
		err := d.of(s.Object).Delete(ctx, name, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	case s.Do == Detain:
		patch = map[string]any{"metadata": map[string]any{"finalizers": []string{"example.org/detained"}}}
	case s.Do == Add:
	case kind == "cm":
		patch = map[string]any{"data": map[string]any{"k": "by-hand"}}
	case kind == "secret":
		patch = map[string]any{"data": map[string]any{"k": "aGFuZA=="}}
	case kind == "svc":
		patch = map[string]any{"spec": map[string]any{"selector": map[string]any{"app": "by-hand"}}}
	case kind == "deploy":
		patch = map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"name": "c", "image": "good:by-hand"}}}}}}
	}
	return d.merge(ctx, d.of(s.Object), name, patch)
}

// mend ends all faults and what somebody did by hand, and lets the last good commit come under a new engine.
func (d *driver) mend(ctx context.Context) error {
	good := Objects{"cm/last": "good"}
	for key, value := range d.repo.lastGood() {
		good[key] = value
	}
	d.engine.end()
	for _, s := range []Step{{Do: Release}, {Do: Resume}, {Do: Run}, {Do: Commit, Objects: good}, {Do: Consent}} {
		if err := d.do(ctx, s); err != nil {
			return fmt.Errorf("%s at the end: %w", s.Do, err)
		}
	}
	d.start()
	return nil
}

// Write makes a trace the place of a log.
func (t *trace) Write(p []byte) (int, error) {
	t.add("log %s", strings.TrimSpace(string(p)))
	return len(p), nil
}
