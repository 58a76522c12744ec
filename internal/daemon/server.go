package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/intent"
	"github.com/gitopsd/gitopsd/internal/ledger"
	"github.com/gitopsd/gitopsd/internal/pipeline"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/cert"
)

// ServerOptions are everything that can be said about an engine on a cluster that is somebody else's.
type ServerOptions struct {
	DataDir        string // mirrors of repositories, unpacked programs, logs; nothing that cannot be made again
	Kubeconfig     string // the cluster; empty: the one whose pod this is
	Namespace      string // where the engine keeps its contents, its ledger and its lease
	InstallCRD     bool   // and the namespace
	RequireAccount bool   // every Application has to name a service account
	Root           RootSource
	Sources        SourceOptions
	MetricsAddress string
	LeaseDuration  time.Duration // another process takes over when the leader has not been heard of for so long
}

// DefaultServerOptions are those of `gitopsd server --kubeconfig` without further flags.
func DefaultServerOptions() ServerOptions {
	o := DefaultOptions()
	return ServerOptions{DataDir: o.DataDir, InstallCRD: true, MetricsAddress: fmt.Sprintf("127.0.0.1:%d", o.MetricsPort), LeaseDuration: 15 * time.Second, Sources: o.Sources}
}

// podNamespace is where Kubernetes tells a pod its namespace.
const podNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func (o *ServerOptions) complete() (err error) {
	if o.DataDir, err = filepath.Abs(o.DataDir); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	if o.Kubeconfig != "" {
		if o.Kubeconfig, err = filepath.Abs(o.Kubeconfig); err != nil {
			return fmt.Errorf("--kubeconfig: %w", err)
		}
	}
	if o.Namespace == "" {
		o.Namespace = pipeline.DefaultNamespace
		if b, err := os.ReadFile(podNamespace); err == nil && o.Kubeconfig == "" {
			o.Namespace = strings.TrimSpace(string(b))
		}
	}
	if _, _, err := net.SplitHostPort(o.MetricsAddress); err != nil {
		return fmt.Errorf("--metrics-address %q is no ADDRESS:PORT", o.MetricsAddress)
	}
	if o.LeaseDuration < 2*time.Second {
		return fmt.Errorf("--lease-duration %s is too short; at least 2s", o.LeaseDuration)
	}
	return o.Sources.complete()
}

func (o *ServerOptions) client() (*rest.Config, error) {
	if o.Kubeconfig != "" {
		cfg, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("--kubeconfig: %w", err)
		}
		return cfg, nil
	}
	cfg, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("--in-cluster: this is no pod with a service account: %w; name a cluster with --kubeconfig", err)
	}
	return cfg, nil
}

// Serve runs an engine against a cluster that is there already, until ctx ends. Of several processes one leads; the others wait for their turn.
func Serve(ctx context.Context, o ServerOptions, logs io.Writer) error {
	log := newLogger(logs, slog.LevelInfo)
	if err := o.complete(); err != nil {
		return err
	}
	root, err := o.Root.load()
	if err != nil {
		return err
	}
	client, err := o.client()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	lock, err := acquire(o.DataDir)
	if err != nil {
		return err
	}
	defer lock.release()
	if err := (&Options{DataDir: o.DataDir, EngineOnly: true, Kubeconfig: o.Kubeconfig, Namespace: o.Namespace}).save(); err != nil {
		return fmt.Errorf("keep options in %s: %w", o.DataDir, err)
	}
	components, err := logComponents(filepath.Join(o.DataDir, "logs"))
	if err != nil {
		return err
	}
	defer components.Close()
	s, err := newServer(o, root, client, log)
	if err != nil {
		return err
	}
	return s.run(ctx)
}

// server is a running engine on somebody's cluster.
type server struct {
	ServerOptions
	root     *rootApplication
	client   *rest.Config
	kube     kubernetes.Interface
	log      *slog.Logger
	registry *prometheus.Registry
	metrics  *pipeline.Metrics
}

func newServer(o ServerOptions, root *rootApplication, client *rest.Config, log *slog.Logger) (*server, error) {
	client.QPS, client.UserAgent = -1, "gitopsd" // the API's own fairness limits us
	kube, err := kubernetes.NewForConfig(client)
	if err != nil {
		return nil, fmt.Errorf("build client of the cluster: %w", err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &server{o, root, client, kube, log, registry, pipeline.NewMetrics(registry)}, nil
}

func (s *server) run(ctx context.Context) error {
	version, err := s.kube.Discovery().ServerVersion()
	if err != nil {
		return fmt.Errorf("reach the cluster at %s: %w", s.client.Host, err)
	}
	s.log.Info("cluster reached", "url", s.client.Host, "version", version.GitVersion)
	if s.InstallCRD {
		if err := pipeline.EnsureNamespace(ctx, s.kube, s.Namespace); err != nil {
			return err
		}
		if err := pipeline.Install(ctx, s.client); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { limitMemory(ctx); return nil })
	group.Go(func() error { return s.serveTelemetry(ctx) })
	group.Go(func() error {
		if err := s.elect(ctx, s.lead); err != nil {
			return err
		}
		return errEnd
	})
	if err := group.Wait(); err != nil && !errors.Is(err, errEnd) {
		return err
	}
	s.log.Info("ended")
	return nil
}

// lead runs the engine while this process leads. Its turn is taken first: what a leader before it still writes is refused from then on.
func (s *server) lead(ctx context.Context) error {
	turn, err := pipeline.TakeTurn(ctx, s.client, s.Namespace)
	if err != nil {
		return err
	}
	s.log.Info("leading", "turn", turn.Epoch)
	if s.root != nil {
		if err := pipeline.EnsureRoot(ctx, s.client, *s.root, s.Namespace); err != nil {
			return err
		}
	}
	contents, account, err := s.stores(turn)
	if err != nil {
		return err
	}
	defer account.Close()
	return engine{client: s.client, dataDir: s.DataDir, contents: contents, ledger: account, turn: turn, log: s.log, metrics: s.metrics,
		requireAccount: s.RequireAccount, namespace: s.Namespace, options: s.Sources}.run(ctx)
}

func (s *server) stores(turn apply.Turn) (*intent.Secrets, *ledger.Ledger, error) {
	names, err := metadata.NewForConfig(s.client)
	if err != nil {
		return nil, nil, err
	}
	secrets := s.kube.CoreV1().Secrets(s.Namespace)
	contents, err := intent.OpenSecrets(secrets, names.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(s.Namespace), turn.Epoch)
	if err != nil {
		return nil, nil, err
	}
	account, err := ledger.OpenCluster(secrets, turn.Epoch, ledger.Options{})
	return contents, account, err
}

// serveTelemetry answers who has a token of the cluster and the right to read the path. The certificate is made anew at each start.
func (s *server) serveTelemetry(ctx context.Context) error {
	host, _, _ := net.SplitHostPort(s.MetricsAddress) // checked by complete
	certPEM, keyPEM, err := cert.GenerateSelfSignedCertKey(host, nil, nil)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return err
	}
	return serveTelemetry(ctx, telemetry{address: s.MetricsAddress, client: s.client, registry: s.registry, ready: func() error { return nil },
		certificate: func() (tls.Certificate, error) { return pair, nil }})
}
