package network

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/gitopsd/gitopsd/internal/network/cni"
)

const (
	// gather is how long changes are gathered before they are written together, at least and at most.
	gather       = 20 * time.Millisecond
	mostGathered = 3 * time.Second
	retryPeriod  = time.Second
)

// Run is the network of a node until ctx ends: it waits for the node's podCIDR, when c has none, makes the node ready, and keeps the rules
// equal to Services, EndpointSlices and host ports. At its end the rules stay, so that pods go on.
func Run(ctx context.Context, c Config, client kubernetes.Interface) error {
	c = c.withDefaults()
	if !c.PodCIDR.IsValid() {
		cidr, err := awaitPodCIDR(ctx, client, c.NodeName)
		if err != nil {
			return quiet(ctx, err)
		}
		c.PodCIDR = cidr
	}
	if err := EnsureNode(c); err != nil {
		return err
	}
	t, err := newTable(c.Table)
	if err != nil {
		return err
	}
	p := &proxy{Config: c, table: t, changed: make(chan struct{}, 1), reported: map[string]bool{}}
	return quiet(ctx, p.run(ctx, client))
}

// quiet drops an error that is only the end of ctx.
func quiet(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// awaitPodCIDR waits until the node has been given its share of the pods' addresses.
func awaitPodCIDR(ctx context.Context, client kubernetes.Interface, node string) (netip.Prefix, error) {
	found := make(chan string, 1)
	take := func(obj any) {
		if n, ok := obj.(*corev1.Node); ok && n.Name == node && n.Spec.PodCIDR != "" {
			select {
			case found <- n.Spec.PodCIDR:
			default:
			}
		}
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = "metadata.name=" + node }))
	_, err := factory.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: take, UpdateFunc: func(_, obj any) { take(obj) },
	})
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("watch node %s: %w", node, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	factory.Start(ctx.Done())
	defer factory.Shutdown() // after cancel
	defer cancel()
	select {
	case s := <-found:
		cidr, err := netip.ParsePrefix(s)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("read podCIDR of node %s: %w", node, err)
		}
		return cidr, nil
	case <-ctx.Done():
		return netip.Prefix{}, ctx.Err()
	}
}

// proxy is the loop that makes the table follow what is watched.
type proxy struct {
	Config
	table    *table
	changed  chan struct{} // has one element when something has changed
	services func() ([]*corev1.Service, error)
	slices   func() ([]*discoveryv1.EndpointSlice, error)

	took  time.Duration // by the last write
	ended time.Time     // the last write

	flows      flows           // after the last write
	droppersAt uint32          // generation of all tables when firewalls were last looked for
	reported   map[string]bool // warnings that were given
	failure    string          // last error of the table, reported once
}

func (p *proxy) touch(any) {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *proxy) run(ctx context.Context, client kubernetes.Interface) error {
	watcher, err := p.watchHostPorts()
	if err != nil {
		return err
	}
	defer watcher.Close()
	ctx, cancel := context.WithCancel(ctx)
	factory, synced, err := p.inform(client)
	if err != nil {
		cancel()
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown() // after cancel
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return ctx.Err()
	}
	defer p.Drain.stop()
	check := time.NewTicker(p.checkPeriod)
	defer check.Stop()
	retry := time.NewTimer(0) // the first write
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events:
			p.touch(nil)
			continue
		case err := <-watcher.Errors:
			p.warn("watch host ports: %v", err)
			p.touch(nil) // an event may be lost
			continue
		case <-p.changed:
			if !p.gather(ctx) {
				return nil
			}
		case <-check.C:
			if p.undisturbed() {
				continue
			}
		case <-retry.C:
		}
		began := time.Now()
		if !p.sync() {
			retry.Reset(retryPeriod)
		}
		p.ended = time.Now()
		p.took = p.ended.Sub(began)
	}
}

// gather waits while changes gather; a pod that comes to its end meanwhile shortens that. It returns false at the end of ctx.
func (p *proxy) gather(ctx context.Context) bool {
	began := time.Now()
	for {
		t := time.NewTimer(gathering(p.took, began.Sub(p.ended), p.Drain.hurried()) - time.Since(began))
		select {
		case <-t.C:
			return true
		case <-p.Drain.came:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return false
		}
	}
}

// gathering is how long changes are gathered before all rules are thought over again, when that took so long the last time, and ended so long ago: with
// thousands of Services that come one by one it is not to take more than a twentieth of a core, or a fifth while somebody waits for it, and one change
// after a quiet time waits for nothing.
func gathering(took, ago time.Duration, hurried bool) time.Duration {
	rest := 19 * took
	if hurried {
		rest = 4 * took
	}
	return max(gather, min(rest, mostGathered)-ago)
}

// inform sets up the watches of Services and EndpointSlices. What the rules do not need is not kept in memory.
func (p *proxy) inform(client kubernetes.Interface) (informers.SharedInformerFactory, []cache.InformerSynced, error) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim))
	svc, eps := factory.Core().V1().Services(), factory.Discovery().V1().EndpointSlices()
	p.services = func() ([]*corev1.Service, error) { return svc.Lister().List(labels.Everything()) }
	p.slices = func() ([]*discoveryv1.EndpointSlice, error) { return eps.Lister().List(labels.Everything()) }
	var synced []cache.InformerSynced
	for _, informer := range []cache.SharedIndexInformer{svc.Informer(), eps.Informer()} {
		reg, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: p.touch, UpdateFunc: func(_, obj any) { p.touch(obj) }, DeleteFunc: p.touch,
		})
		if err != nil {
			return nil, nil, fmt.Errorf("watch services: %w", err)
		}
		synced = append(synced, reg.HasSynced)
	}
	return factory, synced, nil
}

func trim(obj any) (any, error) {
	if m, ok := obj.(metav1.Object); ok {
		m.SetManagedFields(nil)
		if a := m.GetAnnotations(); len(a) > 0 {
			m.SetAnnotations(nil)
		}
	}
	return obj, nil
}

func (p *proxy) watchHostPorts() (*fsnotify.Watcher, error) {
	dir := cni.HostPortDir(p.DataDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("watch host ports: %w", err)
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch host ports: %w", err)
	}
	if err := w.Add(dir); err != nil {
		w.Close()
		return nil, fmt.Errorf("watch host ports: %w", err)
	}
	return w, nil
}

// undisturbed looks after what others may have changed, and tells whether the table is as we left it.
func (p *proxy) undisturbed() bool {
	if err := EnsureNode(p.Config); err != nil {
		p.fail(err)
	}
	found, err := p.table.look()
	if err != nil {
		p.fail(err)
		return true // try again at the next check
	}
	if found == changed {
		p.Logger.Warn("somebody changed the network rules; writing them again", "table", p.Table)
	}
	p.reportDroppers()
	return found == asLeft
}

// sync makes the table what the watched state asks for. It reports whether that is done.
func (p *proxy) sync() bool {
	state, err := p.state()
	if err != nil {
		return p.fail(err)
	}
	changed, err := p.table.apply(state.Rules())
	if err != nil {
		return p.fail(err)
	}
	// Only now that pods cannot come in by it.
	if err := write(filepath.Join("/proc/sys/net/ipv4/conf", p.Bridge, "route_localnet"), "1"); err != nil {
		return p.fail(err)
	}
	if f := state.flows(); changed && !f.equal(p.flows) {
		if err := f.forget(); err != nil {
			return p.fail(err)
		}
		p.flows = f
	}
	p.failure = ""
	p.Drain.wrote(state, p.leadsTo)
	return true
}

func (p *proxy) state() (State, error) {
	s, err := p.watched()
	if err != nil {
		return State{}, err
	}
	s.HostPorts, err = cni.ReadHostPorts(p.DataDir)
	if err != nil {
		return State{}, fmt.Errorf("read host ports: %w", err)
	}
	return s, nil
}

// watched is the part of the state that comes from the API.
func (p *proxy) watched() (State, error) {
	services, err := p.services()
	if err != nil {
		return State{}, fmt.Errorf("list services: %w", err)
	}
	sl, err := p.slices()
	if err != nil {
		return State{}, fmt.Errorf("list endpoint slices: %w", err)
	}
	return State{Config: p.Config, Services: services, Slices: sl}, nil
}

// leadsTo says whether the next rules will lead to a pod.
func (p *proxy) leadsTo(pod types.UID) bool {
	s, err := p.watched()
	return err == nil && s.leadsTo(pod)
}

// fail reports an error once, not at every try.
func (p *proxy) fail(err error) bool {
	if err.Error() != p.failure {
		p.Logger.Error("keep network rules", "error", err)
	}
	p.failure = err.Error()
	return false
}

func (p *proxy) warn(format string, args ...any) {
	if line := fmt.Sprintf(format, args...); !p.reported[line] {
		p.reported[line] = true
		p.Logger.Warn(line)
	}
}

// reportDroppers says once for each chain of others that it may drop what pods send. It looks again when some table has changed.
func (p *proxy) reportDroppers() {
	gen, err := p.table.generation()
	if err != nil || gen == p.droppersAt {
		return
	}
	found, err := droppers(p.Table)
	if err != nil {
		p.warn("look for firewalls: %v", err)
		return
	}
	p.droppersAt = gen
	for _, d := range found {
		if d.forward {
			p.warn("packets of pods may be dropped by another firewall (%s): let it accept what it forwards from and to %s (interface %s)", d, p.ClusterCIDR, p.Bridge)
		} else {
			p.warn("what pods send to this node, as to the API, may be dropped by another firewall (%s): let it accept what comes from %s (interface %s)",
				d, p.ClusterCIDR, p.Bridge)
		}
	}
}

func (f flows) equal(g flows) bool {
	same := func(a, b map[netip.AddrPort]bool) bool { return maps.Equal(a, b) }
	return maps.EqualFunc(f.services, g.services, same) && maps.EqualFunc(f.nodePorts, g.nodePorts, same)
}

// write sets a kernel setting, unless it has the value already.
func write(path, value string) error {
	have, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(have)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s: %w", path, err)
	}
	return nil
}
