package containerd

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// dial connects to CRI. It retries quickly, because it is used while containerd starts; who dials waits with a context.
func (c Config) dial() (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(c.Endpoint(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a unix socket of root
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.3, Jitter: 0.1, MaxDelay: 100 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", c.Socket(), err)
	}
	return conn, nil
}

// answers returns nil once CRI answers, or the context's error.
func (c Config) answers(ctx context.Context) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	service := cri.NewRuntimeServiceClient(conn)
	for {
		_, err = service.Version(ctx, &cri.VersionRequest{})
		// It listens a moment before it has read what it knows of the pods.
		if status.Code(err) != codes.Unavailable || !sleep(ctx, 5*time.Millisecond) {
			return err
		}
	}
}
