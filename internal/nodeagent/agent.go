package nodeagent

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/gitopsd/gitopsd/internal/nodeagent/cgroup"
	"github.com/gitopsd/gitopsd/internal/nodeagent/cri"
	"github.com/gitopsd/gitopsd/internal/nodeagent/image"
	"github.com/gitopsd/gitopsd/internal/nodeagent/node"
	"github.com/gitopsd/gitopsd/internal/nodeagent/objects"
	"github.com/gitopsd/gitopsd/internal/nodeagent/podspec"
	"github.com/gitopsd/gitopsd/internal/nodeagent/token"
	"github.com/gitopsd/gitopsd/internal/nodeagent/volume"
)

const (
	pullsAtOnce  = 5
	pullDeadline = time.Hour // a pull without progress is ended by the runtime much earlier
)

// agent is the parts of a running node agent.
type agent struct {
	cfg      Config
	node     podspec.Node
	machine  *node.Machine
	cri      *cri.Client
	version  atomic.Pointer[string] // containerd://2.3.7
	network  atomic.Pointer[string] // why the pod network is not ready; empty: it is
	cgroups  *cgroup.Tree           // nil: left alone
	objects  *objects.Cache
	tokens   *token.Source
	volumes  *volume.Host
	puller   *image.Puller
	images   *image.Collector
	probes   *probes
	events   *events
	statuses *statuses
	workers  *workers
	services corelisters.ServiceLister
}

// Run is the node agent: it registers the node, takes its pods over and keeps them until ctx ends. Containers go on
// running after that. It returns when all that it started has ended.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.complete(); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	a, err := newAgent(ctx, cfg)
	if err != nil {
		return err
	}
	defer a.close()
	if cfg.Port > 0 {
		g.Go(func() error { return a.serve(ctx) })
	}
	g.Go(func() error { return a.statuses.run(ctx) })
	g.Go(func() error { return a.start(ctx, g) })
	err = g.Wait()
	a.workers.wait()
	a.probes.Wait()
	a.objects.Wait()
	return err
}

func newAgent(ctx context.Context, cfg Config) (*agent, error) {
	for _, dir := range []string{cfg.DataDir, cfg.DataDir + "/pods", cfg.PodLogsDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make data folder: %w", err)
		}
	}
	shared, err := cfg.shared()
	if err != nil {
		return nil, err
	}
	machine, err := node.NewMachine(cfg.DataDir, cfg.MaxPods, cfg.Reserved)
	if err != nil {
		return nil, err
	}
	client, err := cri.Dial(cfg.RuntimeEndpoint)
	if err != nil {
		return nil, err
	}
	a := &agent{cfg: cfg, node: shared, machine: machine, cri: client, tokens: token.NewSource(cfg.Client), statuses: newStatuses(cfg.Client)}
	if !cfg.WithoutCgroups {
		a.cgroups = cgroup.NewTree(cfg.CgroupParent, max(cfg.PodPids, 0))
		if err := a.cgroups.Init(); err != nil {
			return nil, err
		}
	}
	a.events = newEvents(ctx, cfg.Client, cfg.NodeName)
	a.workers = newWorkers(ctx, a)
	a.objects = objects.New(ctx, cfg.Client, func(uid types.UID) {
		if w := a.workers.get(uid); w != nil {
			w.reread()
		}
	})
	a.volumes = volume.NewHost(cfg.DataDir+"/pods", a.objects, a.tokens, claims{cfg.Client})
	a.images = image.NewCollector(client.Images, client.Runtime)
	a.puller = image.NewPuller(client.Images, pullsAtOnce, pullDeadline, a.images.Used, a.events.container)
	a.probes = newProbes(ctx, a)
	return a, nil
}

func (a *agent) close() {
	a.events.close()
	if err := a.cri.Close(); err != nil {
		a.cfg.Log.Debug("connection to the runtime did not close", "error", err)
	}
}

// start brings the node up in its order: the runtime, the node, then its pods.
func (a *agent) start(ctx context.Context, g *errgroup.Group) error {
	if err := a.awaitRuntime(ctx); err != nil {
		return ignoreEnd(ctx, err)
	}
	keeper := a.keeper()
	if err := keeper.Register(ctx); err != nil {
		return ignoreEnd(ctx, err)
	}
	g.Go(func() error { return keeper.Run(ctx) })
	a.events.about(v1.EventTypeNormal, "Starting", "Starting kubelet.")
	if err := a.watchPods(ctx, g); err != nil {
		return ignoreEnd(ctx, err)
	}
	for a.workers.adopt(ctx) != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
	a.workers.sweep()
	g.Go(func() error { return a.cri.Watch(ctx, a.cfg.Relist, a.workers.look) })
	g.Go(func() error { return a.keepHouse(ctx) })
	return nil
}

func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// awaitRuntime returns once the runtime has said who it is.
func (a *agent) awaitRuntime(ctx context.Context) error {
	for told := false; ; {
		v, err := a.cri.Version(ctx)
		if err == nil {
			name := v.RuntimeName + "://" + v.RuntimeVersion
			a.version.Store(&name)
			return nil
		}
		if !told {
			a.cfg.Log.Info("waiting for the container runtime", "endpoint", a.cfg.RuntimeEndpoint, "error", err)
			told = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// watchPods follows the services and this node's pods, and returns when both were listed.
func (a *agent) watchPods(ctx context.Context, g *errgroup.Group) error {
	shared := informers.NewSharedInformerFactoryWithOptions(a.cfg.Client, 0, informers.WithTransform(slim))
	services := shared.Core().V1().Services()
	a.services = services.Lister()
	svc := services.Informer()
	g.Go(func() error { svc.RunWithContext(ctx); return nil })
	if !cache.WaitForCacheSync(ctx.Done(), svc.HasSynced) {
		return ctx.Err()
	}
	pods := cache.NewSharedInformer(a.listPods(), &v1.Pod{}, 0)
	if err := pods.SetTransform(slim); err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	handler, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { a.workers.set(o.(*v1.Pod)) },
		UpdateFunc: func(old, o any) { a.podChanged(old.(*v1.Pod), o.(*v1.Pod)) },
		DeleteFunc: a.podGone,
	})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	g.Go(func() error { pods.RunWithContext(ctx); return nil })
	if !cache.WaitForCacheSync(ctx.Done(), handler.HasSynced) {
		return ctx.Err()
	}
	return nil
}

// listPods lists and watches the pods bound to this node, which is all that a node may see.
func (a *agent) listPods() cache.ListerWatcher {
	mine := fields.OneTermEqualSelector("spec.nodeName", a.cfg.NodeName).String()
	pods := a.cfg.Client.CoreV1().Pods(v1.NamespaceAll)
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = mine
			return pods.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = mine
			return pods.Watch(ctx, o)
		},
	}, a.cfg.Client)
}

func (a *agent) podChanged(old, pod *v1.Pod) {
	if old.UID != pod.UID {
		a.workers.drop(old.UID)
	}
	a.workers.set(pod)
}

func (a *agent) podGone(o any) {
	if t, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = t.Obj
	}
	if pod, ok := o.(*v1.Pod); ok {
		a.workers.drop(pod.UID)
	}
}

// slim drops what nobody here reads.
func slim(o any) (any, error) {
	if m, ok := o.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	return o, nil
}

func (a *agent) listServices() []*v1.Service {
	list, err := a.services.List(labels.Everything())
	if err != nil {
		return nil
	}
	return list
}

func (a *agent) keeper() *node.Keeper {
	return node.NewKeeper(node.Config{
		Client: a.cfg.Client, Machine: a.machine, Name: a.cfg.NodeName, Hostname: a.cfg.Hostname, IPs: a.cfg.NodeIPs,
		Port: int32(max(a.cfg.Port, 0)), Labels: a.cfg.Labels, Taints: a.cfg.Taints, Version: a.cfg.Version, DataDir: a.cfg.DataDir,
		RuntimeVersion: func() string { return *a.version.Load() },
		Health:         a.health, Images: a.nodeImages, OnPodCIDR: a.cfg.OnPodCIDR, Event: a.events.about, Log: a.cfg.Log,
	})
}

// health asks the runtime whether it and its network are ready.
func (a *agent) health(ctx context.Context) (node.Health, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := a.cri.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return node.Health{}, fmt.Errorf("ask runtime status: %w", err)
	}
	h := node.Health{Answered: time.Now()}
	for _, c := range r.Status.GetConditions() {
		text := fmt.Sprintf("%s=%t reason:%s message:%s", c.Type, c.Status, c.Reason, c.Message)
		switch {
		case c.Type == runtimeapi.RuntimeReady && !c.Status:
			h.Runtime = text
		case c.Type == runtimeapi.NetworkReady && !c.Status:
			h.Network = text
		}
	}
	a.network.Store(&h.Network)
	return h, nil
}

func (a *agent) nodeImages(ctx context.Context) []v1.ContainerImage {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := a.cri.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil
	}
	var out []v1.ContainerImage
	for _, im := range r.Images {
		names := append(append([]string{}, im.RepoDigests...), im.RepoTags...)
		out = append(out, v1.ContainerImage{Names: names[:min(len(names), 5)], SizeBytes: int64(im.Size)})
	}
	return node.BiggestImages(out)
}
