// Package server is the node's door: logs, exec, attach, port-forward, the list of pods and metrics, for the API server
// and for nobody else. Every request, /healthz included, needs a client certificate of the cluster's CA and a name that
// is allowed. Certificates are read again when their files change.
package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gitopsd/gitopsd/internal/nodeagent/cri"
	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
)

// administrators may do everything, as in the API.
const administrators = "system:masters"

// Pods is what the server needs to know of the node's pods.
type Pods interface {
	Find(namespace, name string) (*v1.Pod, lifecycle.Runtime, bool)
	List() []*v1.Pod
}

// Config is what a Server serves, and to whom.
type Config struct {
	Address                     string
	Port                        int
	CertFile, KeyFile, ClientCA string
	Allowed                     []string // common names
	Pods                        Pods
	CRI                         *cri.Client
	LogDir                      func(*v1.Pod) string
	NodeName                    string
	Metrics                     http.Handler
	Log                         *slog.Logger
}

// Server answers requests.
type Server struct {
	Config
	certs reloader
	stats *statsCache
}

// New returns a server; Run serves.
func New(c Config) *Server {
	return &Server{Config: c, certs: reloader{cert: c.CertFile, key: c.KeyFile, ca: c.ClientCA}, stats: &statsCache{}}
}

// Run listens and serves until ctx ends; streams end with it.
func (s *Server) Run(ctx context.Context) error {
	if _, err := s.certs.config(); err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(s.Address, strconv.Itoa(s.Port)))
	if err != nil {
		return fmt.Errorf("listen for the API server: %w", err)
	}
	streams, end := context.WithCancel(context.Background())
	defer end()
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       90 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return streams },
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
		// HTTP/1.1 only: SPDY and WebSocket upgrades need it.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	listener := tls.NewListener(l, &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.certs.config() },
	})
	done := make(chan error, 1)
	go func() { done <- srv.Serve(listener) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		end()
		quick, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if srv.Shutdown(quick) != nil {
			_ = srv.Close()
		}
		err = <-done
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the API server: %w", err)
}

// Handler is the routes behind the check of who asks.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	mux.HandleFunc("GET /pods", s.pods)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.logs)
	for _, path := range []string{"/exec/{namespace}/{pod}/{container}", "/exec/{namespace}/{pod}/{uid}/{container}"} {
		mux.HandleFunc(path, s.exec)
	}
	for _, path := range []string{"/attach/{namespace}/{pod}/{container}", "/attach/{namespace}/{pod}/{uid}/{container}"} {
		mux.HandleFunc(path, s.attach)
	}
	for _, path := range []string{"/portForward/{namespace}/{pod}", "/portForward/{namespace}/{pod}/{uid}"} {
		mux.HandleFunc(path, s.portForward)
	}
	mux.HandleFunc("GET /stats/summary", s.summary)
	mux.HandleFunc("GET /metrics/resource", s.resourceMetrics)
	if s.Metrics != nil {
		mux.Handle("GET /metrics", s.Metrics)
	}
	return s.authorize(mux)
}

// authorize lets in who is named, by a certificate that TLS has verified.
func (s *Server) authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		who := r.TLS.VerifiedChains[0][0].Subject
		if !slices.Contains(s.Allowed, who.CommonName) && !slices.Contains(who.Organization, administrators) {
			http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes)", who.CommonName, r.Method), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) {
	list := v1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}}
	for _, p := range s.Pods.List() {
		list.Items = append(list.Items, *p)
	}
	writeJSON(w, list)
}

func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

// reloader reads certificates again when their files have changed.
type reloader struct {
	cert, key, ca string

	mu     sync.Mutex
	stamp  string
	loaded *tls.Config
}

// config is the TLS configuration of this moment. Files that are half written leave the one before in force.
func (r *reloader) config() (*tls.Config, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	stamp := ""
	for _, f := range []string{r.cert, r.key, r.ca} {
		if info, err := os.Stat(f); err == nil {
			stamp += fmt.Sprint(info.ModTime().UnixNano(), info.Size(), " ")
		}
	}
	if r.loaded != nil && stamp == r.stamp {
		return r.loaded, nil
	}
	next, err := r.load()
	if err != nil {
		if r.loaded != nil {
			return r.loaded, nil
		}
		return nil, err
	}
	r.loaded, r.stamp = next, stamp
	return next, nil
}

func (r *reloader) load() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(r.cert, r.key)
	if err != nil {
		return nil, fmt.Errorf("load serving certificate: %w", err)
	}
	pem, err := os.ReadFile(r.ca)
	if err != nil {
		return nil, fmt.Errorf("load client CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load client CA: no certificate in %s", r.ca)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, NextProtos: []string{"http/1.1"},
	}, nil
}
