// Package hollow is a container runtime without containers: the CRI services over a unix socket, with everything in
// memory. Pods on it get addresses, run, end, log and answer probes as they are told to; no process, mount or image
// is real. Tests drive it, and simulated nodes run on it by the thousand.
//
// It keeps the rules that an agent relies on: names with an attempt are unique, a container needs a ready sandbox,
// stopping a sandbox ends its containers, the dead can be removed and the living are killed first.
package hollow

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Runtime is one hollow runtime.
type Runtime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	// OnExec answers commands run in containers, by name of container; nil: they succeed and say nothing.
	OnExec func(container string, command []string) (output string, code int32)
	// OnPull says whether an image can be pulled; nil: every one can.
	OnPull func(ctx context.Context, image string, auth *runtimeapi.AuthConfig) error
	// OnStop says with which code a container ends on SIGTERM and whether it does; nil: 143, at once.
	OnStop func(container string) (code int32, obeys bool)
	// OnStream names the address of an exec, attach or port-forward; nil: there are none.
	OnStream func(kind string, exec *runtimeapi.ExecRequest, attach *runtimeapi.AttachRequest, forward *runtimeapi.PortForwardRequest) (string, error)
	// Subnet numbers the pods: 10.<Subnet>.x.y.
	Subnet byte

	mu         sync.Mutex
	sandboxes  map[string]*sandbox
	containers map[string]*container
	images     map[string]*runtimeapi.Image
	watchers   map[chan *runtimeapi.ContainerEventResponse]bool
	next       int
	notReady   string
	calls      []string
}

type sandbox struct {
	id      string
	config  *runtimeapi.PodSandboxConfig
	created time.Time
	ready   bool
	ip      string
}

type container struct {
	id, sandbox string
	config      *runtimeapi.ContainerConfig
	status      *runtimeapi.ContainerStatus
}

// New returns an empty runtime.
func New() *Runtime {
	return &Runtime{
		Subnet:     42,
		sandboxes:  map[string]*sandbox{},
		containers: map[string]*container{},
		images:     map[string]*runtimeapi.Image{},
		watchers:   map[chan *runtimeapi.ContainerEventResponse]bool{},
	}
}

// Serve answers on a unix socket until ctx ends.
func (r *Runtime) Serve(ctx context.Context, socket string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("listen as hollow runtime: %w", err)
	}
	s := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(s, r)
	runtimeapi.RegisterImageServiceServer(s, r)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		s.Stop()
	}()
	err = s.Serve(l)
	if ctx.Err() != nil {
		<-stopped
		return nil
	}
	return fmt.Errorf("serve hollow runtime: %w", errors.Join(err, ctx.Err()))
}

// Version says who this is.
func (r *Runtime) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "hollow", RuntimeVersion: "1.0.0", RuntimeApiVersion: "v1"}, nil
}

// Status says that all is well, or what SetNotReady said.
func (r *Runtime) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: r.notReady == ""}
	if r.notReady != "" {
		network.Reason, network.Message = "NetworkPluginNotReady", r.notReady
	}
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true}, network,
	}}}, nil
}

// SetNotReady has the network not ready for a reason; empty: ready.
func (r *Runtime) SetNotReady(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notReady = reason
}

// Calls lists what was asked for that changes something, in order.
func (r *Runtime) Calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string{}, r.calls...)
}

func (r *Runtime) id(kind string) string {
	r.next++
	return fmt.Sprintf("%s%d", kind, r.next)
}

// RunPodSandbox makes a sandbox with an address of its own.
func (r *Runtime) RunPodSandbox(_ context.Context, q *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := q.Config.GetMetadata()
	for _, s := range r.sandboxes {
		if o := s.config.Metadata; o.Uid == m.GetUid() && o.Attempt == m.GetAttempt() {
			return nil, status.Errorf(codes.AlreadyExists, "sandbox %s attempt %d exists", m.Name, m.Attempt)
		}
	}
	s := &sandbox{id: r.id("sandbox"), config: q.Config, created: r.now(), ready: true}
	if q.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() != runtimeapi.NamespaceMode_NODE {
		s.ip = fmt.Sprintf("10.%d.%d.%d", r.Subnet, r.next/250, 2+r.next%250)
	}
	r.sandboxes[s.id] = s
	r.calls = append(r.calls, fmt.Sprintf("run sandbox %s attempt %d", m.Name, m.Attempt))
	r.tell(s, "")
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: s.id}, nil
}

// now is the time, never twice the same, so that newer things sort after older ones.
func (r *Runtime) now() time.Time { return time.Now().Add(time.Duration(r.next)) }

// StopPodSandbox ends a sandbox and what runs in it.
func (r *Runtime) StopPodSandbox(_ context.Context, q *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[q.PodSandboxId]
	if s == nil {
		return nil, status.Errorf(codes.NotFound, "no sandbox %s", q.PodSandboxId)
	}
	for _, c := range r.containers {
		if c.sandbox == s.id && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			r.end(c, 137, "Error")
		}
	}
	s.ready, s.ip = false, ""
	r.calls = append(r.calls, "stop sandbox "+s.config.Metadata.Name)
	r.tell(s, "")
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox removes a sandbox and its containers.
func (r *Runtime) RemovePodSandbox(_ context.Context, q *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, c := range r.containers {
		if c.sandbox == q.PodSandboxId {
			delete(r.containers, id)
		}
	}
	delete(r.sandboxes, q.PodSandboxId)
	r.calls = append(r.calls, "remove sandbox")
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// PodSandboxStatus shows one sandbox.
func (r *Runtime) PodSandboxStatus(_ context.Context, q *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[q.PodSandboxId]
	if s == nil {
		return nil, status.Errorf(codes.NotFound, "no sandbox %s", q.PodSandboxId)
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: s.status()}, nil
}

func (s *sandbox) status() *runtimeapi.PodSandboxStatus {
	return &runtimeapi.PodSandboxStatus{
		Id: s.id, Metadata: s.config.Metadata, State: s.state(), CreatedAt: s.created.UnixNano(),
		Network: &runtimeapi.PodSandboxNetworkStatus{Ip: s.ip}, Labels: s.config.Labels, Annotations: s.config.Annotations,
	}
}

func (s *sandbox) state() runtimeapi.PodSandboxState {
	if s.ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

// ListPodSandbox lists by labels.
func (r *Runtime) ListPodSandbox(_ context.Context, q *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListPodSandboxResponse{}
	for _, s := range r.sandboxes {
		if matches(s.config.Labels, q.Filter.GetLabelSelector()) {
			out.Items = append(out.Items, &runtimeapi.PodSandbox{
				Id: s.id, Metadata: s.config.Metadata, State: s.state(), CreatedAt: s.created.UnixNano(), Labels: s.config.Labels,
			})
		}
	}
	return out, nil
}

func matches(labels, selector map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}
