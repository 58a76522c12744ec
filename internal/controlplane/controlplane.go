// Package controlplane turns a data directory into a running Kubernetes API: etcd, kube-apiserver and
// kube-controller-manager as goroutines of this process, with their certificates, keys and an admin kubeconfig.
//
// In goes a Config; out comes an API that answers, and rest.Configs for the identities that gitopsd's own parts act
// under. Run owns everything it starts: it returns when the context ends or a part fails, and ends the parts in the
// order in which nothing is lost (controllers, API, store).
//
// It refuses to run two control planes in one process (the libraries keep global state) and to listen anywhere
// without authentication. It knows nothing of nodes, containers or Git.
package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/gitopsd/gitopsd/internal/controlplane/inprocess"
	"github.com/gitopsd/gitopsd/internal/controlplane/pki"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
)

// Config says where a control plane lives and what it is called by. Every field is required unless it says otherwise.
type Config struct {
	DataDir          string        // holds pki/, etcd/ and admin.kubeconfig
	RunDir           string        // holds etcd's sockets; a short path, gone after a reboot
	BindAddress      net.IP        // where the API listens; may be 0.0.0.0
	AdvertiseAddress net.IP        // how pods and agents reach the API; never loopback
	APIPort          int           // TCP
	EtcdPort         int           // clients of etcd other than the API, on loopback
	EtcdPeerPort     int           // etcd's own port, on loopback; nothing but etcd uses it
	ServiceCIDR      *net.IPNet    // ClusterIPs come from here; its first address is the API's
	PodCIDR          string        // nodes get /24 parts of it
	NodePortRange    string        // for example 30000-32767
	NodeName         string        // the node that this machine is; its certificates are issued too
	NodeAddress      net.IP        // how the API reaches this machine's agent
	ExtraNames       []string      // more names and addresses for the API's certificate; may be empty
	CertificateLife  time.Duration // how long issued certificates are valid; renewed when a third of it is left
	AuditLog         string        // file for the API's audit log; empty: none
	LogDir           string        // where etcd writes its log
	Log              *slog.Logger
}

// API is a running control plane as its clients see it.
type API struct {
	URL    string // on an address that this machine reaches
	PKI    *pki.PKI
	Server string // the advertised URL: what kubeconfigs for others contain

	inside *inprocess.Server
}

// Client returns the configuration of a client in this process that acts as the given identity. Its requests reach the API's handlers without network,
// TLS and HTTP/2; docs/design/in-process.md says why and what that leaves as it is.
func (a API) Client(id pki.Identity) *rest.Config {
	name, groups := a.PKI.Subject(id)
	return &rest.Config{
		Host:      a.URL,
		Transport: a.inside.Transport(&user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}),
		UserAgent: "gitopsd",
	}
}

// errStopped ends the context of a part whose turn to stop has come.
var errStopped = errors.New("control plane stops")

// Run starts the control plane and calls serve once the API answers. When serve returns, the context ends, or a part
// fails, everything is stopped in order and the first error is returned; nil when the context simply ended.
func Run(ctx context.Context, cfg Config, serve func(context.Context, API) error) error {
	keys, err := openPKI(cfg)
	if err != nil {
		return err
	}
	api := API{URL: "https://" + net.JoinHostPort(localAddress(cfg.BindAddress), strconv.Itoa(cfg.APIPort)), PKI: keys,
		Server: serverURL(cfg), inside: &inprocess.Server{}}
	if err := writeKubeconfigs(cfg, api); err != nil {
		return err
	}

	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	store, err := startEtcd(cfg, keys)
	if err != nil {
		return err
	}
	defer store.close()

	// Components outlive ctx: they are stopped one after another below, so they get contexts of their own.
	server := startPart(fail, "kube-apiserver", func(ctx context.Context) error { return runAPIServer(ctx, cfg, keys, store, api.inside) })
	defer server.stop()
	if err := waitReady(ctx, api); err != nil {
		return cause(ctx, err)
	}
	controllers := startPart(fail, "kube-controller-manager", func(ctx context.Context) error { return runControllerManager(ctx, cfg, api) })
	defer controllers.stop()
	renewal := startPart(fail, "certificate renewal", func(ctx context.Context) error { return keepFresh(ctx, cfg, keys) })
	defer renewal.stop()
	go func() {
		select {
		case err := <-store.failed():
			fail(fmt.Errorf("etcd: %w", err))
		case <-ctx.Done():
		}
	}()

	return cause(ctx, serve(ctx, api))
}

// cause prefers the reason why the context ended over the error that this led to. An end that was asked for is no error.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		if errors.Is(c, context.Canceled) {
			return nil
		}
		return c
	}
	return err
}

// part is one goroutine of the control plane with a context of its own.
type part struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

func startPart(fail context.CancelCauseFunc, name string, run func(context.Context) error) *part {
	ctx, cancel := context.WithCancelCause(context.Background())
	p := &part{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		err := run(ctx)
		if context.Cause(ctx) == nil {
			if err == nil {
				err = errors.New("ended by itself")
			}
			fail(fmt.Errorf("%s: %w", name, err))
		}
	}()
	return p
}

// stop asks the part to end and waits until it has.
func (p *part) stop() {
	p.cancel(errStopped)
	<-p.done
}

// waitReady returns when /readyz of the API answers 200 to the admin, over the network.
func waitReady(ctx context.Context, api API) error {
	cert, key := api.PKI.Files(pki.Admin)
	transport, err := rest.TransportFor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{CAFile: api.PKI.CAFile(), CertFile: cert, KeyFile: key}})
	if err != nil {
		return fmt.Errorf("build client of the API: %w", err)
	}
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, api.URL+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// serverURL is the address of the API that kubeconfigs for people and other machines contain.
func serverURL(cfg Config) string {
	ip := cfg.AdvertiseAddress
	if !cfg.BindAddress.IsUnspecified() {
		ip = cfg.BindAddress
	}
	return "https://" + net.JoinHostPort(ip.String(), strconv.Itoa(cfg.APIPort))
}

// localAddress is the address under which a listener on ip is reached from this machine.
func localAddress(ip net.IP) string {
	if ip.IsUnspecified() {
		return "127.0.0.1"
	}
	return ip.String()
}
