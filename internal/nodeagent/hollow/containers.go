package hollow

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CreateContainer makes a container in a ready sandbox.
func (r *Runtime) CreateContainer(_ context.Context, q *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[q.PodSandboxId]
	if s == nil || !s.ready {
		return nil, status.Errorf(codes.NotFound, "no ready sandbox %s", q.PodSandboxId)
	}
	m := q.Config.Metadata
	for _, c := range r.containers {
		if c.sandbox == s.id && c.config.Metadata.Name == m.Name && c.config.Metadata.Attempt == m.Attempt {
			return nil, status.Errorf(codes.AlreadyExists, "container %s attempt %d exists", m.Name, m.Attempt)
		}
	}
	c := &container{id: r.id("container"), sandbox: s.id, config: q.Config}
	c.status = &runtimeapi.ContainerStatus{
		Id: c.id, Metadata: m, State: runtimeapi.ContainerState_CONTAINER_CREATED, CreatedAt: r.now().UnixNano(),
		Image: &runtimeapi.ImageSpec{Image: q.Config.Image.UserSpecifiedImage}, ImageRef: q.Config.Image.Image, ImageId: q.Config.Image.Image,
		Labels: q.Config.Labels, Annotations: q.Config.Annotations, Mounts: q.Config.Mounts,
		LogPath: filepath.Join(s.config.LogDirectory, q.Config.LogPath),
	}
	r.containers[c.id] = c
	return &runtimeapi.CreateContainerResponse{ContainerId: c.id}, nil
}

// StartContainer has it run, and log one line if its log folder exists.
func (r *Runtime) StartContainer(_ context.Context, q *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[q.ContainerId]
	if c == nil || c.status.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		return nil, status.Errorf(codes.NotFound, "no created container %s", q.ContainerId)
	}
	now := r.now()
	c.status.State, c.status.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, now.UnixNano()
	line := fmt.Sprintf("%s stdout F %s attempt %d\n", now.UTC().Format(time.RFC3339Nano), c.config.Metadata.Name, c.config.Metadata.Attempt)
	_ = os.WriteFile(c.status.LogPath, []byte(line), 0o640)
	r.calls = append(r.calls, fmt.Sprintf("start %s attempt %d", c.config.Metadata.Name, c.config.Metadata.Attempt))
	r.tell(r.sandboxes[c.sandbox], c.id)
	return &runtimeapi.StartContainerResponse{}, nil
}

// StopContainer ends it: on SIGTERM if it obeys, else when its time is over.
func (r *Runtime) StopContainer(ctx context.Context, q *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	r.mu.Lock()
	c := r.containers[q.ContainerId]
	if c == nil {
		r.mu.Unlock()
		return nil, status.Errorf(codes.NotFound, "no container %s", q.ContainerId)
	}
	code, obeys := int32(143), true
	if r.OnStop != nil {
		code, obeys = r.OnStop(c.config.Metadata.Name)
	}
	r.calls = append(r.calls, fmt.Sprintf("stop %s", c.config.Metadata.Name))
	r.mu.Unlock()
	if !obeys {
		code = 137
		select {
		case <-time.After(time.Duration(q.Timeout) * time.Second):
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
		r.end(c, code, "Error")
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

// end has a container exit; mu is held.
func (r *Runtime) end(c *container, code int32, reason string) {
	if code == 0 {
		reason = "Completed"
	}
	c.status.State, c.status.ExitCode, c.status.Reason = runtimeapi.ContainerState_CONTAINER_EXITED, code, reason
	c.status.FinishedAt = time.Now().UnixNano()
	r.tell(r.sandboxes[c.sandbox], c.id)
}

// RemoveContainer removes it, killing it first.
func (r *Runtime) RemoveContainer(_ context.Context, q *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.containers, q.ContainerId)
	return &runtimeapi.RemoveContainerResponse{}, nil
}

// ListContainers lists by labels.
func (r *Runtime) ListContainers(_ context.Context, q *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListContainersResponse{}
	for _, c := range r.containers {
		if matches(c.config.Labels, q.Filter.GetLabelSelector()) {
			out.Containers = append(out.Containers, &runtimeapi.Container{
				Id: c.id, PodSandboxId: c.sandbox, Metadata: c.config.Metadata, Image: c.status.Image, ImageRef: c.status.ImageRef,
				ImageId: c.status.ImageId, State: c.status.State, CreatedAt: c.status.CreatedAt, Labels: c.config.Labels,
			})
		}
	}
	return out, nil
}

// ContainerStatus shows one container.
func (r *Runtime) ContainerStatus(_ context.Context, q *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[q.ContainerId]
	if c == nil {
		return nil, status.Errorf(codes.NotFound, "no container %s", q.ContainerId)
	}
	return &runtimeapi.ContainerStatusResponse{Status: c.copy()}, nil
}

// copy is the status as of now; what gRPC encodes later must not change under it.
func (c *container) copy() *runtimeapi.ContainerStatus {
	s := c.status
	return &runtimeapi.ContainerStatus{
		Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, StartedAt: s.StartedAt, FinishedAt: s.FinishedAt,
		ExitCode: s.ExitCode, Reason: s.Reason, Message: s.Message, Image: s.Image, ImageRef: s.ImageRef, ImageId: s.ImageId,
		Labels: s.Labels, Annotations: s.Annotations, Mounts: s.Mounts, LogPath: s.LogPath,
	}
}

// ExecSync answers by OnExec.
func (r *Runtime) ExecSync(_ context.Context, q *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	r.mu.Lock()
	c := r.containers[q.ContainerId]
	running := c != nil && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING
	r.mu.Unlock()
	if !running {
		return nil, status.Errorf(codes.NotFound, "no running container %s", q.ContainerId)
	}
	if r.OnExec == nil {
		return &runtimeapi.ExecSyncResponse{}, nil
	}
	output, code := r.OnExec(c.config.Metadata.Name, q.Cmd)
	return &runtimeapi.ExecSyncResponse{Stdout: []byte(output), ExitCode: code}, nil
}

// ReopenContainerLog starts a new log file.
func (r *Runtime) ReopenContainerLog(_ context.Context, q *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[q.ContainerId]
	if c == nil {
		return nil, status.Errorf(codes.NotFound, "no container %s", q.ContainerId)
	}
	if err := os.WriteFile(c.status.LogPath, nil, 0o640); err != nil {
		return nil, status.Errorf(codes.Internal, "open log: %v", err)
	}
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}

// ListContainerStats says the same of every running container: a tenth of a core and a megabyte.
func (r *Runtime) ListContainerStats(context.Context, *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListContainerStatsResponse{}
	now := time.Now().UnixNano()
	for _, c := range r.containers {
		if c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			continue
		}
		out.Stats = append(out.Stats, &runtimeapi.ContainerStats{
			Attributes: &runtimeapi.ContainerAttributes{Id: c.id, Metadata: c.config.Metadata, Labels: c.config.Labels},
			Cpu:        &runtimeapi.CpuUsage{Timestamp: now, UsageCoreNanoSeconds: &runtimeapi.UInt64Value{Value: uint64(now-c.status.StartedAt) / 10}},
			Memory:     &runtimeapi.MemoryUsage{Timestamp: now, WorkingSetBytes: &runtimeapi.UInt64Value{Value: 1 << 20}},
		})
	}
	return out, nil
}

// Exec answers with the stream's address.
func (r *Runtime) Exec(_ context.Context, q *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if r.OnStream == nil {
		return nil, errNoStreams
	}
	u, err := r.OnStream("exec", q, nil, nil)
	return &runtimeapi.ExecResponse{Url: u}, err
}

// Attach answers with the stream's address.
func (r *Runtime) Attach(_ context.Context, q *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if r.OnStream == nil {
		return nil, errNoStreams
	}
	u, err := r.OnStream("attach", nil, q, nil)
	return &runtimeapi.AttachResponse{Url: u}, err
}

// PortForward answers with the stream's address.
func (r *Runtime) PortForward(_ context.Context, q *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if r.OnStream == nil {
		return nil, errNoStreams
	}
	u, err := r.OnStream("port-forward", nil, nil, q)
	return &runtimeapi.PortForwardResponse{Url: u}, err
}

var errNoStreams = status.Error(codes.Unavailable, "hollow runtime has no streams")
