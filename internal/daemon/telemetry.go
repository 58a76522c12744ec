package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"github.com/gitopsd/gitopsd/internal/controlplane"
	"github.com/gitopsd/gitopsd/internal/controlplane/pki"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// gate asks the API who calls and whether that caller may read a path, as Kubernetes' own components do: by client
// certificate or bearer token, with RBAC rules for nonResourceURLs.
type gate struct {
	authn authenticator.Request
	authz authorizer.Authorizer
	next  http.Handler
}

func newGate(t telemetry, next http.Handler) (*gate, error) {
	kube, err := kubernetes.NewForConfig(t.client)
	if err != nil {
		return nil, err
	}
	backoff := &wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 3}
	authn, _, err := authenticatorfactory.DelegatingAuthenticatorConfig{
		TokenAccessReviewClient: kube.AuthenticationV1(), TokenAccessReviewTimeout: 10 * time.Second,
		WebhookRetryBackoff: backoff, CacheTTL: 10 * time.Second, ClientCertificateCAContentProvider: t.clientCA,
	}.New()
	if err != nil {
		return nil, err
	}
	authz, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: kube.AuthorizationV1(), WebhookRetryBackoff: backoff,
		AllowCacheTTL: 10 * time.Second, DenyCacheTTL: 10 * time.Second,
	}.New()
	return &gate{authn, authz, next}, err
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	who, ok, err := g.authn.AuthenticateRequest(r)
	if err != nil || !ok {
		http.Error(w, "a client certificate or bearer token of this cluster is needed", http.StatusUnauthorized)
		return
	}
	decision, _, err := g.authz.Authorize(r.Context(), authorizer.AttributesRecord{User: who.User, Verb: "get", Path: r.URL.Path})
	if err != nil || decision != authorizer.DecisionAllow {
		http.Error(w, fmt.Sprintf("%s may not get %s", who.User.GetName(), r.URL.Path), http.StatusForbidden)
		return
	}
	g.next.ServeHTTP(w, r)
}

// profiles answers /debug/pprof, where Go's own tools look for it.
func profiles(mux *http.ServeMux) {
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
}

// telemetry is where /metrics, /healthz and /readyz are answered, and to whom.
type telemetry struct {
	address     string
	client      *rest.Config                          // asks the API who calls
	clientCA    dynamiccertificates.CAContentProvider // of client certificates; nil: tokens only
	certificate func() (tls.Certificate, error)       // asked each time: it is renewed
	registry    *prometheus.Registry
	ready       func() error
}

// telemetryOf is what an instance with a control plane of its own answers, on loopback.
func telemetryOf(o Options, api controlplane.API, registry *prometheus.Registry, ready func() error) (telemetry, error) {
	cert, key := api.PKI.Files(pki.NodeServing)
	ca, err := dynamiccertificates.NewDynamicCAContentFromFile("client-ca", api.PKI.CAFile())
	return telemetry{address: net.JoinHostPort("127.0.0.1", strconv.Itoa(o.MetricsPort)), client: api.Client(pki.Engine), clientCA: ca,
		certificate: func() (tls.Certificate, error) { return tls.LoadX509KeyPair(cert, key) }, registry: registry, ready: ready}, err
}

// serveTelemetry answers until ctx ends; /debug/pprof too.
func serveTelemetry(ctx context.Context, t telemetry) error {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := t.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
	})
	profiles(mux)
	handler, err := newGate(t, mux)
	if err != nil {
		return fmt.Errorf("prepare authentication of /metrics: %w", err)
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx },
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				c, err := t.certificate()
				return &c, err
			}},
	}
	listener, err := net.Listen("tcp", t.address)
	if err != nil {
		return fmt.Errorf("listen for /metrics: %w", err)
	}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve /metrics: %w", err)
	}
	return nil
}
