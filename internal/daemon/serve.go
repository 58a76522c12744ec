package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync/atomic"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"
	"github.com/gitopsd/gitopsd/internal/controlplane"
	"github.com/gitopsd/gitopsd/internal/controlplane/pki"
	"github.com/gitopsd/gitopsd/internal/intent"
	"github.com/gitopsd/gitopsd/internal/ledger"
	"github.com/gitopsd/gitopsd/internal/network"
	"github.com/gitopsd/gitopsd/internal/nodeagent"
	"github.com/gitopsd/gitopsd/internal/pipeline"
	"github.com/gitopsd/gitopsd/internal/scheduler"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// serve runs what needs the API, until ctx ends or one of the parts fails.
func (i *instance) serve(ctx context.Context, api controlplane.API, runtimeReady <-chan struct{}) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	kube := map[pki.Identity]kubernetes.Interface{}
	for _, id := range []pki.Identity{pki.Admin, pki.Scheduler, pki.NetworkProxy, pki.Node} {
		cfg := api.Client(id)
		cfg.QPS = -1 // the API's own fairness limits us
		client, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			return fmt.Errorf("build client of %s: %w", id, err)
		}
		kube[id] = client
	}
	var ready readiness
	group, ctx := errgroup.WithContext(ctx)
	run := func(name string, f func() error) {
		group.Go(func() error {
			if err := f(); err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	run("telemetry", func() error {
		t, err := telemetryOf(i.Options, api, registry, ready.check)
		if err != nil {
			return err
		}
		return serveTelemetry(ctx, t)
	})
	run("engine", func() error { return i.runEngine(ctx, api, registry) })
	run("scheduler", func() error {
		return scheduler.Run(ctx, scheduler.Config{Client: kube[pki.Scheduler], Logger: i.log})
	})
	if i.NoNode {
		ready.node.Store(true)
		return i.tellReady(group.Wait)
	}
	net := i.network()
	net.Drain = network.NewDrain()
	run("network", func() error { return network.Run(ctx, net, kube[pki.NetworkProxy]) })
	run("node agent", func() error {
		select {
		case <-runtimeReady:
			return nodeagent.Run(ctx, i.nodeAgent(api, kube[pki.Node], net.Drain))
		case <-ctx.Done():
			return nil
		}
	})
	run("node", func() error { return i.awaitNode(ctx, kube[pki.Admin], &ready) })
	return group.Wait()
}

func (o Options) network() network.Config {
	return network.Config{
		NodeName: o.NodeName, Bridge: o.Bridge, Table: o.Table,
		ClusterCIDR: netip.MustParsePrefix(o.PodCIDR), ServiceCIDR: netip.MustParsePrefix(o.ServiceCIDR), // checked by complete
		CNIConfDir: o.cniConfDir(), DataDir: filepath.Join(o.DataDir, "cni"),
	}
}

func (i *instance) nodeAgent(api controlplane.API, client kubernetes.Interface, drain *network.Drain) nodeagent.Config {
	cert, key := api.PKI.Files(pki.NodeServing)
	endpoint := i.RuntimeEndpoint
	if i.runtime != nil {
		endpoint = i.runtime.Endpoint()
	}
	return nodeagent.Config{
		Client: client, NodeName: i.NodeName, NodeIPs: []string{i.AdvertiseAddress},
		RuntimeEndpoint: endpoint, DataDir: i.DataDir, PodLogsDir: filepath.Join(i.DataDir, "pod-logs"),
		CgroupParent: i.CgroupParent, Port: i.AgentPort,
		ServingCertFile: cert, ServingKeyFile: key, ClientCAFile: api.PKI.CAFile(), AllowedClients: []string{pki.AgentClientName},
		Drain: drain.Wait, Log: i.log,
	}
}

// awaitNode says once when this machine's node is Ready: that is when pods can start. A service manager is told too.
func (i *instance) awaitNode(ctx context.Context, kube kubernetes.Interface, ready *readiness) error {
	_, err := watchtools.UntilWithSync(ctx, cache.NewListWatchFromClient(kube.CoreV1().RESTClient(), "nodes", metav1.NamespaceAll,
		fields.OneTermEqualSelector("metadata.name", i.NodeName)), &corev1.Node{}, nil, func(e watch.Event) (bool, error) {
		node, ok := e.Object.(*corev1.Node)
		return ok && e.Type != watch.Deleted && slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}), nil
	})
	if err != nil {
		return nil // ctx ended first
	}
	ready.node.Store(true)
	i.log.Info("node ready", "node", i.NodeName, "after", i.age())
	return i.tellReady(func() error { return nil })
}

// tellReady tells a service manager that this instance is ready, and goes on.
func (i *instance) tellReady(then func() error) error {
	if _, err := sdnotify.SdNotify(true, sdnotify.SdNotifyReady); err != nil {
		i.log.Warn("the service manager could not be told", "err", err)
	}
	return then()
}

// runEngine makes the API know Applications, makes the first one where that was asked for, and runs the pipeline.
func (i *instance) runEngine(ctx context.Context, api controlplane.API, registry *prometheus.Registry) error {
	client := api.Client(pki.Engine)
	if err := pipeline.Install(ctx, client); err != nil {
		return err
	}
	kube, err := kubernetes.NewForConfig(client)
	if err != nil {
		return err
	}
	if err := pipeline.EnsureNamespace(ctx, kube, pipeline.DefaultNamespace); err != nil {
		return err
	}
	if i.root != nil {
		if err := pipeline.EnsureRoot(ctx, client, *i.root, pipeline.DefaultNamespace); err != nil {
			return err
		}
	}
	contents, err := intent.OpenFiles(filepath.Join(i.DataDir, "revisions"))
	if err != nil {
		return err
	}
	account, err := ledger.Open(filepath.Join(i.DataDir, "ledger"), ledger.Options{})
	if err != nil {
		return err
	}
	defer account.Close()
	turn, err := pipeline.TakeTurn(ctx, client, pipeline.DefaultNamespace)
	if err != nil {
		return err
	}
	return engine{client: client, dataDir: i.DataDir, contents: contents, ledger: account, turn: turn, log: i.log, metrics: pipeline.NewMetrics(registry),
		namespace: pipeline.DefaultNamespace, options: i.Sources}.run(ctx)
}

// readiness is true once this machine's node was Ready.
type readiness struct{ node atomic.Bool }

func (r *readiness) check() error {
	if !r.node.Load() {
		return errors.New("the node is not ready yet")
	}
	return nil
}
