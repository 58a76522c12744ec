package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/review"
	"github.com/gitopsd/gitopsd/internal/source"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
)

// workers is how many Applications are worked on at once.
const workers = 16

// Sources gives commits.
type Sources interface {
	Subscribe(spec source.Spec, interval time.Duration, hear func(source.Event)) (cancel func(), err error)
	Snapshot(ctx context.Context, spec source.Spec) (source.Snapshot, error)
	At(spec source.Spec, commit string) (source.Snapshot, error)
}

// Renderer turns files into objects.
type Renderer interface {
	Render(ctx context.Context, req render.Request) (*render.Result, error)
}

// Contents keeps, for each Application, what revisions and objects were.
type Contents interface {
	Put(owner string, content []byte) (name string, err error)
	Get(owner, name string) ([]byte, error)
	Keep(owner string, named map[string]bool) error
	Drop(owner string) error
}

// Config says what an Engine works with.
type Config struct {
	Client *rest.Config // an identity that may do everything Applications ask for, and impersonate
	// Beside runs with the engine, with its client of the group gitopsd.io and its watch of Applications, which has cache.NamespaceIndex; nil: nothing does.
	Beside   func(ctx context.Context, api rest.Interface, apps cache.SharedIndexInformer) error
	Sources  Sources
	Renderer Renderer
	Charts   Charts // nil: what files ask for and do not hold is not fetched
	Contents Contents
	Ledger   Ledger
	// Announce tells the forge what became of a commit.
	Announce func(context.Context, review.Forge, review.Status) error
	Turn     apply.Turn // zero for an engine that has the cluster for itself
	// RequireAccount refuses Applications that name no service account: the engine does nothing with rights of its own.
	RequireAccount bool
	// Namespace is the engine's own: its Applications may read folders of this machine.
	Namespace  string
	AllowFiles bool // all others may too
	Log        *slog.Logger
	Metrics    *Metrics
}

// Engine makes Applications true.
type Engine struct {
	cfg      Config
	kube     kubernetes.Interface
	mapper   *mapper
	apps     *applications
	live     *live
	readers  *readers
	wishes   *wishes
	queue    workqueue.TypedRateLimitingInterface[types.NamespacedName]
	refs     *references // nil in a Preview
	recorder record.EventRecorder
	end      context.CancelCauseFunc // ends the engine; nil in a Preview, which writes nothing

	asks sync.WaitGroup // questions to repositories, and words to forges, that run beside the pipeline

	environment environment

	mu   sync.Mutex
	work map[types.NamespacedName]*work
	dyn  map[string]dynamic.Interface // by impersonated user; "" is the engine itself
}

// Run works until ctx ends, or until another process has taken over: apply.ErrFenced.
func Run(ctx context.Context, cfg Config) error {
	e, err := newEngine(cfg)
	if err != nil {
		return err
	}
	ctx, e.end = context.WithCancelCause(ctx)
	defer e.end(nil)
	err = e.run(ctx)
	if cause := context.Cause(ctx); errors.Is(cause, apply.ErrFenced) {
		return cause
	}
	return err
}

func (e *Engine) run(ctx context.Context) error {
	if err := e.apps.follow(e.queue.Add); err != nil {
		return fmt.Errorf("watch Applications: %w", err)
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	e.recorder = newRecorder(broadcaster, e.kube)
	defer broadcaster.Shutdown()

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		<-ctx.Done()
		e.queue.ShutDown()
		return nil
	})
	e.live = newLive(ctx, e)
	defer e.live.wait()
	e.refs = newReferences(ctx, e)
	defer e.refs.all.Wait()
	defer e.asks.Wait()
	defer e.unsubscribeAll()
	group.Go(func() error { e.apps.informer.RunWithContext(ctx); return nil })
	if beside := e.cfg.Beside; beside != nil {
		group.Go(func() error { return beside(ctx, e.apps.client, e.apps.informer) })
	}
	if !cache.WaitForCacheSync(ctx.Done(), e.apps.synced) {
		return group.Wait()
	}
	for range workers {
		group.Go(func() error {
			for e.next(ctx) {
			}
			return nil
		})
	}
	return group.Wait()
}

func newEngine(cfg Config) (*Engine, error) {
	cfg.Client = unlimited(cfg.Client)
	kube, err := kubernetes.NewForConfig(cfg.Client)
	if err != nil {
		return nil, fmt.Errorf("build client of the engine: %w", err)
	}
	apps, err := newApplications(cfg.Client)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		cfg: cfg, kube: kube, apps: apps,
		mapper: newMapper(kube),
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](time.Second, time.Minute),
			workqueue.TypedRateLimitingQueueConfig[types.NamespacedName]{Name: "applications"}),
		readers: newReaders(), wishes: newWishes(), work: map[types.NamespacedName]*work{}, dyn: map[string]dynamic.Interface{},
	}
	_, err = e.dynamicAs("")
	return e, err
}

// unlimited is a client's configuration without a limit of its own: the API's fairness limits us.
func unlimited(cfg *rest.Config) *rest.Config {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.Burst = -1, 0
	return cfg
}

// next takes one Application from the queue; false when the engine stops.
func (e *Engine) next(ctx context.Context) bool {
	key, stop := e.queue.Get()
	if stop {
		return false
	}
	defer e.queue.Done(key)
	outcome := e.reconcile(ctx, key)
	if ctx.Err() != nil {
		return true
	}
	switch after := outcome.requeueAfter(); after {
	case never:
		e.queue.Forget(key)
		if at := e.workOf(key).wake; !at.IsZero() {
			e.queue.AddAfter(key, time.Until(at))
		}
	case backoff:
		e.queue.AddRateLimited(key)
	default:
		e.queue.Forget(key)
		e.queue.AddAfter(key, after)
	}
	return true
}

// work is what the engine remembers of an Application between two looks. All of it can be found out again.
type work struct {
	mu           sync.Mutex // one reconcile at a time is the queue's promise; this guards heard and asked
	subscription subscription
	heard        source.Event
	known        *apply.Known
	rendered     rendered
	charts       fetchedCharts
	placed       placed
	first        int64                 // the number that the first revision has
	last         candidate             // the applied revision
	wake         time.Time             // when to look again though nothing happens; zero: never
	declared     declared              // rules of the spec, as they were compiled
	written      *v1alpha1.Application // as it was after the last write of its status
	untold       *v1alpha1.Application // as the last look left it, when that was not worth a write yet
	untoldSince  time.Time
	owns         string        // the open intent that this process began, or has taken over
	started      time.Time     // of the last sync that wrote
	leftSince    time.Time     // since when something is about to go that the applied revision does not name
	unswept      bool          // contents may be kept that nothing names once the status is written
	said         string        // the last failure that was logged
	asking       string        // the sync request that is being honoured; guarded by mu
	asked        string        // the last one that was; guarded by mu
	answered     string        // the last one that this look answers
	announcing   bool          // a word to the forge is under way; guarded by mu
	announced    review.Status // the last one that it took; guarded by mu
}

// placed is what was rendered, as the API is asked for it.
type placed struct {
	of        []apply.Object
	namespace string
	candidate candidate // without a commit
}

func (e *Engine) workOf(key types.NamespacedName) *work {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := e.work[key]
	if w == nil {
		w = &work{known: apply.NewKnown()}
		e.work[key] = w
	}
	return w
}

// forget drops what is remembered of an Application that is gone.
func (e *Engine) forget(key types.NamespacedName) {
	e.mu.Lock()
	w := e.work[key]
	delete(e.work, key)
	e.mu.Unlock()
	if w != nil {
		w.subscription.end()
	}
	e.readers.drop(key)
	e.refs.name(key, nil)
	e.wishes.forget(key)
	e.cfg.Metrics.forget(key)
	e.live.end(e.apps.actsAs)
	if err := e.cfg.Contents.Drop(ownerOf(&v1alpha1.Application{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}})); err != nil {
		e.cfg.Log.Warn("revisions of a deleted Application could not be removed", "app", key, "err", err)
	}
}

// applied remembers the objects of the applied revision.
func (w *work) applied(c candidate) { w.last = c }

func (e *Engine) unsubscribeAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range e.work {
		w.subscription.end()
	}
}

// dynamicAs returns a client that acts as user, or as the engine when user is empty.
func (e *Engine) dynamicAs(user string) (dynamic.Interface, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if d := e.dyn[user]; d != nil {
		return d, nil
	}
	cfg := rest.CopyConfig(e.cfg.Client)
	cfg.Impersonate.UserName = user
	d, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("build client for %q: %w", user, err)
	}
	e.dyn[user] = d
	return d, nil
}

// kubeAs is dynamicAs for the kinds that Kubernetes itself defines.
func (e *Engine) kubeAs(user string) (kubernetes.Interface, error) {
	if user == "" {
		return e.kube, nil
	}
	cfg := rest.CopyConfig(e.cfg.Client)
	cfg.Impersonate.UserName = user
	return kubernetes.NewForConfig(cfg)
}

// userOf is the account that an Application acts as, "" for the engine itself.
func userOf(app *v1alpha1.Application) string {
	if sa := app.Spec.Destination.ServiceAccountName; sa != "" {
		return "system:serviceaccount:" + app.Namespace + ":" + sa
	}
	return ""
}

func (e *Engine) refuseWithoutAccount(app *v1alpha1.Application) error {
	if e.cfg.RequireAccount && userOf(app) == "" {
		return errors.New("spec.destination.serviceAccountName is needed here: this engine does nothing with rights of its own; name an account of namespace " + app.Namespace)
	}
	return nil
}

// target is the API as an Application may use it.
func (e *Engine) target(app *v1alpha1.Application) (apply.Target, error) {
	if err := e.refuseWithoutAccount(app); err != nil {
		return apply.Target{}, err
	}
	ignored, err := ignoredOf(app)
	if err != nil {
		return apply.Target{}, err
	}
	d, err := e.dynamicAs(userOf(app))
	if err != nil {
		return apply.Target{}, err
	}
	asks := d
	if !e.cfg.RequireAccount { // who may change a Deployment may often not list autoscalers
		asks, err = e.dynamicAs("")
	}
	target := apply.Target{Dynamic: d, RefuseStrangers: app.Spec.Sync.Adopt == v1alpha1.AdoptRefuse, Ignored: ignored, Scaled: apply.NewScaled(asks), Mapper: e.mapper, Label: v1alpha1.LabelApplication, Owner: ownerOf(app),
		Kinds: e.kube.Discovery().ServerPreferredNamespacedResources, Manager: v1alpha1.FieldManager, OwnerName: e.apps.ownerName, Vital: vital(e.cfg.Namespace), Turn: apply.Turn{Epoch: e.cfg.Turn.Epoch, Check: e.checkTurn},
		Maker: apply.Maker{Application: string(app.UID)}}
	if e.wishes != nil { // a Preview has none
		target.Takes, target.Spoken = e.takes, e.spoken(app)
	}
	return target, err
}
