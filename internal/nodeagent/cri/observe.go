package cri

import (
	"context"
	"fmt"
	"sort"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
)

// Observe is what the runtime shows of one pod. Either all of it is known or the error says why not.
func (c *Client) Observe(ctx context.Context, uid types.UID) (lifecycle.Runtime, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var out lifecycle.Runtime
	labels := map[string]string{LabelPodUID: string(uid)}
	sandboxes, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: labels}})
	if err != nil {
		return out, fmt.Errorf("list sandboxes of pod %s: %w", uid, err)
	}
	sort.Slice(sandboxes.Items, func(i, j int) bool { return sandboxes.Items[i].CreatedAt > sandboxes.Items[j].CreatedAt })
	for i, s := range sandboxes.Items {
		sb := lifecycle.Sandbox{
			ID: s.Id, Attempt: s.Metadata.GetAttempt(), Created: time.Unix(0, s.CreatedAt),
			Ready: s.State == runtimeapi.PodSandboxState_SANDBOX_READY,
		}
		if i == 0 && sb.Ready {
			if sb.IPs, sb.Ready, err = c.sandboxIPs(ctx, s.Id); err != nil {
				return out, err
			}
		}
		out.Sandboxes = append(out.Sandboxes, sb)
	}
	containers, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: labels}})
	if err != nil {
		return out, fmt.Errorf("list containers of pod %s: %w", uid, err)
	}
	sort.Slice(containers.Containers, func(i, j int) bool { return newer(containers.Containers[i], containers.Containers[j]) })
	for _, item := range containers.Containers {
		one, err := c.container(ctx, item)
		if err != nil {
			return out, err
		}
		if one != nil {
			out.Containers = append(out.Containers, *one)
		}
	}
	return out, nil
}

func newer(a, b *runtimeapi.Container) bool {
	if a.CreatedAt != b.CreatedAt {
		return a.CreatedAt > b.CreatedAt
	}
	return a.Metadata.GetAttempt() > b.Metadata.GetAttempt()
}

func (c *Client) sandboxIPs(ctx context.Context, id string) (ips []string, ready bool, err error) {
	r, err := c.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("ask status of sandbox %s: %w", id, err)
	}
	if n := r.Status.GetNetwork(); n.GetIp() != "" {
		ips = append(ips, n.Ip)
		for _, more := range n.AdditionalIps {
			ips = append(ips, more.Ip)
		}
	}
	return ips, r.Status.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY, nil
}

// container asks for one container; nil if it vanished meanwhile.
func (c *Client) container(ctx context.Context, item *runtimeapi.Container) (*lifecycle.Container, error) {
	r, err := c.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: item.Id})
	if IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask status of container %s: %w", item.Id, err)
	}
	s := r.Status
	out := &lifecycle.Container{
		ID: c.ID(s.Id), Name: s.Labels[LabelContainerName], SandboxID: item.PodSandboxId, Attempt: s.Metadata.GetAttempt(),
		Created: instant(s.CreatedAt), Started: instant(s.StartedAt), Finished: instant(s.FinishedAt),
		ExitCode: s.ExitCode, Reason: s.Reason, Message: s.Message,
		Image: s.Image.GetImage(), ImageID: s.ImageRef, Hash: s.Annotations[AnnotationHash],
		User: user(s.User),
	}
	switch s.State {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		out.State = lifecycle.Created
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		out.State = lifecycle.Running
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		out.State = lifecycle.Exited
		if m := c.terminationMessage(ctx, s); m != "" {
			out.Message = m
		}
	}
	return out, nil
}

func instant(nanos int64) time.Time {
	if nanos <= 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos)
}

func user(u *runtimeapi.ContainerUser) *v1.ContainerUser {
	if u.GetLinux() == nil {
		return nil
	}
	return &v1.ContainerUser{Linux: &v1.LinuxContainerUser{
		UID: u.Linux.Uid, GID: u.Linux.Gid, SupplementalGroups: u.Linux.SupplementalGroups,
	}}
}
