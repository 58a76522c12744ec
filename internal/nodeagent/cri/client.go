// Package cri speaks to the container runtime over the Container Runtime Interface (runtime/v1).
//
// In goes a unix socket; out come the two gRPC services, what the runtime shows of one pod (Observe) and which pods
// may have changed (Watch). It decides nothing. A runtime that is away is an error of each call, not of the client:
// the connection comes back by itself within a second.
package cri

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	maxMessage  = 16 << 20
	callTimeout = 10 * time.Second
)

// Client is a connection to one runtime.
type Client struct {
	Runtime runtimeapi.RuntimeServiceClient
	Images  runtimeapi.ImageServiceClient
	conn    *grpc.ClientConn
	scheme  string
}

// Dial prepares the connection; it does not wait for the runtime. The endpoint is a path or unix:///path.
func Dial(endpoint string) (*Client, error) {
	if strings.HasPrefix(endpoint, "/") {
		endpoint = "unix://" + endpoint
	}
	conn, err := grpc.NewClient(endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 3 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("connect container runtime at %s: %w", endpoint, err)
	}
	return &Client{
		Runtime: runtimeapi.NewRuntimeServiceClient(conn),
		Images:  runtimeapi.NewImageServiceClient(conn),
		conn:    conn,
		scheme:  "containerd",
	}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Version asks the runtime who it is; its name becomes the scheme of container IDs.
func (c *Client) Version(ctx context.Context) (*runtimeapi.VersionResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	v, err := c.Runtime.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask runtime version: %w", err)
	}
	if v.RuntimeName != "" {
		c.scheme = v.RuntimeName
	}
	return v, nil
}

// ID is a container's ID as the API shows it: containerd://….
func (c *Client) ID(raw string) string { return c.scheme + "://" + raw }

// RawID is the runtime's own ID.
func RawID(id string) string {
	if _, raw, ok := strings.Cut(id, "://"); ok {
		return raw
	}
	return id
}
