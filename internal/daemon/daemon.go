package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/gitopsd/gitopsd/internal/containerd"
	"github.com/gitopsd/gitopsd/internal/controlplane"
	"golang.org/x/sync/errgroup"
)

// Run runs an instance until ctx ends. Containers keep running when it returns; Down stops them.
func Run(ctx context.Context, o Options, logs io.Writer) error {
	log := newLogger(logs, slog.LevelInfo)
	if err := o.complete(); err != nil {
		return err
	}
	root, err := o.Root.load()
	if err != nil {
		return err
	}
	if !o.NoNode {
		if err := needRoot(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	lock, err := acquire(o.DataDir)
	if err != nil {
		return err
	}
	defer lock.release()
	if err := preflight(o); err != nil {
		return err
	}
	if err := o.save(); err != nil {
		return fmt.Errorf("keep options in %s: %w", o.DataDir, err)
	}
	components, err := logComponents(o.logDir())
	if err != nil {
		return err
	}
	defer components.Close()
	return run(ctx, &instance{Options: o, root: root, log: log, started: time.Now()})
}

// instance is a running daemon.
type instance struct {
	Options
	root    *rootApplication
	log     *slog.Logger
	started time.Time
	runtime *containerd.Process // nil with a runtime of the host's
}

// run starts the container runtime and the control plane side by side, then what needs both, and stops them in the
// opposite order.
func run(ctx context.Context, i *instance) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { limitMemory(ctx); return nil })
	runtimeReady := make(chan struct{})
	group.Go(func() error { return i.runRuntime(ctx, runtimeReady) })
	group.Go(func() error {
		err := controlplane.Run(ctx, i.controlPlane(), func(ctx context.Context, api controlplane.API) error {
			i.log.Info("API ready", "url", api.Server, "after", i.age())
			return i.serve(ctx, api, runtimeReady)
		})
		if err == nil {
			err = errEnd // the other side ends too
		}
		return err
	})
	if err := group.Wait(); err != nil && !errors.Is(err, errEnd) {
		return err
	}
	i.log.Info("ended; containers keep running", "stop them with", "gitopsd down --data-dir "+i.DataDir)
	return nil
}

var errEnd = errors.New("the daemon ends")

func (i *instance) age() time.Duration { return time.Since(i.started).Round(10 * time.Millisecond) }

// runRuntime starts or adopts containerd and supervises it until ctx ends. It is left running.
func (i *instance) runRuntime(ctx context.Context, ready chan<- struct{}) error {
	if i.RuntimeEndpoint != "" || i.NoNode {
		close(ready)
		<-ctx.Done()
		return nil
	}
	cfg, err := i.runtimeConfig()
	if err != nil {
		return err
	}
	cfg.Logger = i.log
	process, err := containerd.Start(ctx, cfg)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("start the container runtime: %w", err)
	}
	i.runtime = process
	close(ready)
	return process.Run(ctx)
}

func (o Options) logDir() string { return filepath.Join(o.DataDir, "logs") }

func (i *instance) controlPlane() controlplane.Config {
	_, services, _ := net.ParseCIDR(i.ServiceCIDR) // checked by complete
	c := controlplane.Config{
		DataDir: i.DataDir, RunDir: i.RunDir, LogDir: i.logDir(), Log: i.log,
		BindAddress: net.ParseIP(i.BindAddress), AdvertiseAddress: net.ParseIP(i.AdvertiseAddress),
		APIPort: i.APIPort, EtcdPort: i.EtcdPort, EtcdPeerPort: i.EtcdPeerPort,
		ServiceCIDR: services, PodCIDR: i.PodCIDR, NodePortRange: i.NodePortRange,
		NodeName: i.NodeName, NodeAddress: net.ParseIP(i.AdvertiseAddress),
		ExtraNames: i.ExtraNames, CertificateLife: i.CertificateLife,
	}
	if i.AuditLog {
		c.AuditLog = filepath.Join(i.logDir(), "audit.log")
	}
	return c
}

// AdminKubeconfig is the kubeconfig for people of the instance in dataDir; of an engine on somebody else's cluster the one that it was
// started with.
func AdminKubeconfig(dataDir string) string {
	if o, err := LoadOptions(dataDir); err == nil && o.EngineOnly && o.Kubeconfig != "" {
		return o.Kubeconfig
	}
	return controlplane.AdminKubeconfig(dataDir)
}
