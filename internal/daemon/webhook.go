package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/webhook"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// WebhookSecret is the Secret of the engine's namespace that holds what senders sign with.
const WebhookSecret = "gitopsd-webhook"

// WebhookOptions say where webhooks are heard: nowhere when Address is empty.
type WebhookOptions struct {
	Address     string `json:"address,omitempty"` // ADDRESS:PORT
	Certificate string `json:"certificate,omitempty"`
	Key         string `json:"key,omitempty"`
}

func (o WebhookOptions) check() error {
	if o.Address == "" {
		if o.Certificate+o.Key != "" {
			return errors.New("--webhook-tls-cert and --webhook-tls-key are about webhooks; say where they are heard with --webhook-address")
		}
		return nil
	}
	if _, _, err := net.SplitHostPort(o.Address); err != nil {
		return fmt.Errorf("--webhook-address %q is no ADDRESS:PORT", o.Address)
	}
	if (o.Certificate == "") != (o.Key == "") {
		return errors.New("--webhook-tls-cert and --webhook-tls-key belong together; give both")
	}
	return nil
}

// hearWebhooks listens until ctx ends.
func (e engine) hearWebhooks(ctx context.Context, look func(repo string) int) error {
	o := e.options.Webhook
	if o.Address == "" {
		return nil
	}
	kube, err := kubernetes.NewForConfig(e.client)
	if err != nil {
		return err
	}
	listener, err := e.listen(ctx, o.Address)
	if err != nil {
		return nil //nolint:nilerr // ctx has ended
	}
	secrets := &remembered{read: func(ctx context.Context) (map[string][]byte, error) {
		secret, err := kube.CoreV1().Secrets(e.namespace).Get(ctx, WebhookSecret, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read Secret %s/%s: %w", e.namespace, WebhookSecret, err)
		}
		return secret.Data, nil
	}}
	server := &http.Server{Handler: webhook.Handler(webhook.Config{Secrets: secrets.get, Look: look, Heard: e.metrics.Webhook, Log: e.log}),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 32 << 10}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	e.log.Info("webhooks are heard", "address", listener.Addr().String(), "tls", o.Certificate != "")
	if o.Certificate != "" {
		err = server.ServeTLS(listener, o.Certificate, o.Key)
	} else {
		err = server.Serve(listener)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("hear webhooks: %w", err)
}

// listen takes the address as soon as it is free: what has it may be an engine that is about to end. Nothing but speed depends on webhooks.
func (e engine) listen(ctx context.Context, address string) (net.Listener, error) {
	for {
		listener, err := net.Listen("tcp", address)
		if err == nil {
			return listener, nil
		}
		e.log.Warn("webhooks are not heard", "err", fmt.Errorf("--webhook-address: %w", err), "again", listenAgain)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(listenAgain):
		}
	}
}

const listenAgain = 5 * time.Second

// remembered keeps what was read for some seconds: who sends much is not to have the API asked as often.
type remembered struct {
	read func(context.Context) (map[string][]byte, error)

	mu   sync.Mutex
	data map[string][]byte
	at   time.Time
}

const remembrance = 5 * time.Second

func (r *remembered) get(ctx context.Context) (map[string][]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) < remembrance {
		return r.data, nil
	}
	data, err := r.read(ctx)
	if err == nil {
		r.data, r.at = data, time.Now()
	}
	return data, err
}
