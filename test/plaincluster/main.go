// plaincluster runs a Kubernetes API as somebody else would run it: etcd, kube-apiserver and kube-controller-manager, without
// an engine, a scheduler or a node. Tests bring the engine, as the user of an existing cluster does.
//
// It writes <data-dir>/admin.kubeconfig and, when the API answers, <data-dir>/ready; it ends with SIGTERM or SIGINT. It needs no
// root and listens on loopback alone.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gitopsd/gitopsd/internal/controlplane"
	"k8s.io/klog/v2"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "plaincluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	dataDir := flag.String("data-dir", "", "where the cluster lives; required")
	apiPort := flag.Int("api-port", 0, "TCP port of the API; etcd takes the two after it; required")
	services := flag.String("service-cidr", "10.96.0.0/16", "addresses of Services")
	audit := flag.Bool("audit-log", false, "write the API's audit log to <data-dir>/logs/audit.log")
	flag.Parse()
	if *dataDir == "" || *apiPort == 0 {
		return fmt.Errorf("--data-dir and --api-port are needed")
	}
	cfg, err := config(*dataDir, *apiPort, *services, *audit)
	if err != nil {
		return err
	}
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	return controlplane.Run(ctx, cfg, func(ctx context.Context, _ controlplane.API) error {
		kubeconfig := controlplane.AdminKubeconfig(cfg.DataDir)
		if err := os.WriteFile(filepath.Join(cfg.DataDir, "ready"), []byte(kubeconfig+"\n"), 0o600); err != nil {
			return err
		}
		fmt.Println(kubeconfig)
		<-ctx.Done()
		return nil
	})
}

func config(dataDir string, apiPort int, services string, audit bool) (controlplane.Config, error) {
	dir, err := filepath.Abs(dataDir)
	if err != nil {
		return controlplane.Config{}, err
	}
	_, serviceCIDR, err := net.ParseCIDR(services)
	if err != nil {
		return controlplane.Config{}, fmt.Errorf("--service-cidr: %w", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "ready")); err != nil { // of an earlier run
		return controlplane.Config{}, err
	}
	loopback := net.ParseIP("127.0.0.1")
	cfg := controlplane.Config{
		DataDir: dir, RunDir: filepath.Join(dir, "run"), LogDir: filepath.Join(dir, "logs"), Log: slog.New(slog.DiscardHandler),
		BindAddress: loopback, AdvertiseAddress: net.ParseIP("192.0.2.10"), // of TEST-NET-1: nobody connects to it
		APIPort: apiPort, EtcdPort: apiPort + 1, EtcdPeerPort: apiPort + 2, ServiceCIDR: serviceCIDR, PodCIDR: "10.250.0.0/16",
		NodePortRange: "30000-32767", NodeName: "none", NodeAddress: loopback, CertificateLife: 24 * time.Hour,
	}
	if audit {
		cfg.AuditLog = filepath.Join(cfg.LogDir, "audit.log")
	}
	return cfg, nil
}
