package node

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sort"
	"time"

	"golang.org/x/sync/errgroup"
	coordv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/apimachinery/lease"
	nodeutil "k8s.io/component-helpers/node/util"
	"k8s.io/utils/clock"
)

// Intervals of kubelet.
const (
	leaseSeconds   = 40
	leaseRenewal   = 10 * time.Second
	statusInterval = 10 * time.Second // the status is computed
	statusReport   = 5 * time.Minute  // and written although nothing changed
	healthInterval = time.Second      // the runtime is asked
	mostImages     = 50
)

// Config is what a Keeper keeps.
type Config struct {
	Client         kubernetes.Interface
	Machine        *Machine
	Name, Hostname string
	IPs            []string
	Port           int32
	Labels         map[string]string
	Taints         []v1.Taint
	Version        string
	DataDir        string
	// RuntimeVersion is "containerd://2.3.7"; empty until known.
	RuntimeVersion func() string
	Health         func(ctx context.Context) (Health, error)
	Images         func(ctx context.Context) []v1.ContainerImage
	OnPodCIDR      func(ctx context.Context, cidrs []string) error
	Event          func(kind, reason, message string)
	Log            *slog.Logger
}

// Keeper keeps one Node object.
type Keeper struct {
	Config
	health    Health
	pressures []*pressure
	reported  time.Time
	images    []v1.ContainerImage
	imagesAt  time.Time
	seen      chan struct{} // the node object changed
}

// NewKeeper returns a keeper; Register, then Run.
func NewKeeper(c Config) *Keeper {
	return &Keeper{Config: c, pressures: pressures(c.DataDir), seen: make(chan struct{}, 1)}
}

// Register has the Node object exist with this node's labels, trying until ctx ends.
func (k *Keeper) Register(ctx context.Context) error {
	pause := 100 * time.Millisecond
	for {
		err := k.register(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		k.Log.Info("node is not registered yet", "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

func (k *Keeper) register(ctx context.Context) error {
	nodes := k.Client.CoreV1().Nodes()
	n, err := nodes.Get(ctx, k.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		n = &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: k.Name, Labels: k.labels()}, Spec: v1.NodeSpec{Taints: k.Taints}}
		k.fill(ctx, n, time.Now())
		if n, err = nodes.Create(ctx, n, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create node %s: %w", k.Name, err)
		}
		k.Machine.see(n)
		return nil
	}
	if err != nil {
		return fmt.Errorf("get node %s: %w", k.Name, err)
	}
	next := n.DeepCopy()
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	maps.Copy(next.Labels, k.labels())
	if !equality.Semantic.DeepEqual(n.Labels, next.Labels) {
		if n, err = nodes.Update(ctx, next, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("update labels of node %s: %w", k.Name, err)
		}
	}
	k.Machine.see(n)
	return nil
}

func (k *Keeper) labels() map[string]string {
	info := k.Machine.info(k.Version, "")
	out := map[string]string{
		v1.LabelHostname: k.Hostname, v1.LabelOSStable: info.OperatingSystem, v1.LabelArchStable: info.Architecture,
	}
	maps.Copy(out, k.Labels)
	return out
}

// Run keeps lease and status, and reports the pod range, until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { k.lease(ctx); return nil })
	g.Go(func() error { k.follow(ctx); return nil })
	g.Go(func() error { k.podCIDR(ctx); return nil })
	g.Go(func() error { k.statusLoop(ctx); return nil })
	return g.Wait()
}

func (k *Keeper) lease(ctx context.Context) {
	owner := func(l *coordv1.Lease) error {
		if n := k.Machine.Node(); n != nil && n.UID != "" {
			l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}}
		}
		return nil
	}
	lease.NewController(clock.RealClock{}, k.Client, k.Name, leaseSeconds, nil, leaseRenewal, k.Name, v1.NamespaceNodeLease, owner).Run(ctx)
}

// follow watches the own Node object.
func (k *Keeper) follow(ctx context.Context) {
	own := fields.OneTermEqualSelector("metadata.name", k.Name).String()
	nodes := k.Client.CoreV1().Nodes()
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = own
			return nodes.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = own
			return nodes.Watch(ctx, o)
		},
	}, k.Client)
	see := func(o any) {
		if n, ok := o.(*v1.Node); ok && n.Name == k.Name {
			k.Machine.see(n)
			select {
			case k.seen <- struct{}{}:
			default:
			}
		}
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw, ObjectType: &v1.Node{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    see,
			UpdateFunc: func(_, o any) { see(o) },
		},
	})
	informer.RunWithContext(ctx)
}

// podCIDR reports the node's pod ranges when they become known or change, until the report is taken.
func (k *Keeper) podCIDR(ctx context.Context) {
	if k.OnPodCIDR == nil {
		return
	}
	told := ""
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.seen:
		case <-retry:
		}
		retry = nil
		n := k.Machine.Node()
		if n == nil || len(n.Spec.PodCIDRs) == 0 || fmt.Sprint(n.Spec.PodCIDRs) == told {
			continue
		}
		if err := k.OnPodCIDR(ctx, n.Spec.PodCIDRs); err != nil {
			k.Log.Warn("pod range cannot be set up", "ranges", n.Spec.PodCIDRs, "error", err)
			retry = time.After(time.Second)
			continue
		}
		told = fmt.Sprint(n.Spec.PodCIDRs)
	}
}

// statusLoop asks the runtime every second and writes the status when it changed, or has not been written for long.
func (k *Keeper) statusLoop(ctx context.Context) {
	tick := time.NewTicker(healthInterval)
	defer tick.Stop()
	var computed time.Time
	ready := v1.ConditionStatus("")
	for {
		if h, err := k.Health(ctx); err == nil {
			k.health = h
		}
		now := time.Now()
		status, _, message := readiness(k.health, now)
		if status != ready || now.Sub(computed) >= statusInterval || message != "" && status != v1.ConditionTrue {
			if err := k.report(ctx, now); err != nil {
				if ctx.Err() == nil {
					k.Log.Debug("node status is not written", "error", err)
				}
			} else {
				if status != ready {
					k.tell(status, message)
				}
				ready, computed = status, now
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (k *Keeper) tell(status v1.ConditionStatus, message string) {
	if status == v1.ConditionTrue {
		k.Event(v1.EventTypeNormal, "NodeReady", fmt.Sprintf("Node %s status is now: NodeReady", k.Name))
		k.Log.Debug("node is ready")
		return
	}
	k.Event(v1.EventTypeNormal, "NodeNotReady", fmt.Sprintf("Node %s status is now: NodeNotReady", k.Name))
	k.Log.Debug("node is not ready", "reason", message)
}

// report writes the status if it differs from what the API has, or is old.
func (k *Keeper) report(ctx context.Context, now time.Time) error {
	old := k.Machine.Node()
	if old == nil {
		return k.register(ctx)
	}
	next := old.DeepCopy()
	changed := k.fill(ctx, next, now)
	if !changed && now.Sub(k.reported) < statusReport {
		return nil
	}
	got, _, err := nodeutil.PatchNodeStatus(k.Client.CoreV1(), types.NodeName(k.Name), old, next)
	if apierrors.IsNotFound(err) {
		return k.register(ctx)
	}
	if err != nil {
		return fmt.Errorf("write status of node %s: %w", k.Name, err)
	}
	k.reported = now
	if got != nil {
		k.Machine.see(got)
	}
	return nil
}

// fill brings a node's status up to date and says whether more than a heartbeat changed.
func (k *Keeper) fill(ctx context.Context, n *v1.Node, now time.Time) bool {
	before := n.Status.DeepCopy()
	n.Status.Capacity, n.Status.Allocatable = k.Machine.Capacity(), k.Machine.Allocatable()
	n.Status.NodeInfo = k.Machine.info(k.Version, k.RuntimeVersion())
	n.Status.DaemonEndpoints.KubeletEndpoint.Port = k.Port
	n.Status.Addresses = nil
	for _, ip := range k.IPs {
		n.Status.Addresses = append(n.Status.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip})
	}
	n.Status.Addresses = append(n.Status.Addresses, v1.NodeAddress{Type: v1.NodeHostName, Address: k.Hostname})
	if now.Sub(k.imagesAt) > time.Minute {
		k.images, k.imagesAt = k.Images(ctx), now
	}
	n.Status.Images = k.images
	var conditions []v1.NodeCondition
	for _, p := range k.pressures {
		conditions = append(conditions, p.condition(now))
	}
	status, reason, message := readiness(k.health, now)
	conditions = append(conditions, v1.NodeCondition{Type: v1.NodeReady, Status: status, Reason: reason, Message: message})
	changed := merge(n, conditions, now)
	after := n.Status.DeepCopy()
	before.Conditions, after.Conditions = nil, nil
	return changed || !equality.Semantic.DeepEqual(before, after)
}

// BiggestImages is the list a Node shows: the biggest images, names in order.
func BiggestImages(images []v1.ContainerImage) []v1.ContainerImage {
	sort.SliceStable(images, func(i, j int) bool { return images[i].SizeBytes > images[j].SizeBytes })
	return images[:min(len(images), mostImages)]
}
