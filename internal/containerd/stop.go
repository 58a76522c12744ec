package containerd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// stopsAtOnce bounds how many pods are stopped at the same time.
const stopsAtOnce = 16

// Stop ends every pod and then containerd: containers get SIGTERM and grace to end by themselves, networks are given back through
// CNI. Images, logs and what containers wrote stay. When containerd cannot be made to answer, the pods' processes are killed
// instead. Stopping what does not run is no error.
func Stop(ctx context.Context, c Config, grace time.Duration) error {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return err
	}
	running, err := c.find()
	if err != nil {
		return err
	}
	if running == nil {
		shims, err := c.shims()
		closeAll(shims)
		if err != nil || len(shims) == 0 {
			return err
		}
		p, err := Start(ctx, c) // only containerd gives networks back
		if err != nil {
			c.Logger.Warn("containerd does not start; killing its pods", "error", err)
			return c.killPods(ctx)
		}
		running = p.proc
	}
	defer running.close()
	if err := c.stopPods(ctx, grace); err != nil {
		c.Logger.Warn("pods did not stop in good order; killing them", "error", err)
		if err := running.end(ctx, endGrace); err != nil {
			return fmt.Errorf("end containerd: %w", err)
		}
		return c.killPods(ctx)
	}
	if err := running.end(ctx, endGrace); err != nil {
		return fmt.Errorf("end containerd: %w", err)
	}
	return nil
}

func (c Config) stopPods(ctx context.Context, grace time.Duration) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	service := cri.NewRuntimeServiceClient(conn)
	list, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	sandboxes, err := service.ListPodSandbox(list, &cri.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	containers, err := service.ListContainers(list, &cri.ListContainersRequest{
		Filter: &cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}},
	})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	running := map[string][]string{}
	for _, ctr := range containers.Containers {
		running[ctr.PodSandboxId] = append(running[ctr.PodSandboxId], ctr.Id)
	}
	var group errgroup.Group
	group.SetLimit(stopsAtOnce)
	for _, sb := range sandboxes.Items {
		group.Go(func() error { return stopPod(ctx, service, sb, running[sb.Id], grace) })
	}
	return group.Wait()
}

func stopPod(ctx context.Context, service cri.RuntimeServiceClient, sb *cri.PodSandbox, containers []string, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, grace+readyWait)
	defer cancel()
	var group errgroup.Group
	for _, id := range containers {
		group.Go(func() error {
			_, err := service.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: int64(grace.Round(time.Second) / time.Second)})
			return err
		})
	}
	err := group.Wait()
	_, stopErr := service.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: sb.Id})
	if err = errors.Join(err, stopErr); err != nil {
		return fmt.Errorf("stop pod %s/%s: %w", sb.Metadata.GetNamespace(), sb.Metadata.GetName(), err)
	}
	return nil
}

// killPods ends the processes of all pods and their shims without containerd's help.
func (c Config) killPods(ctx context.Context) error {
	trees, err := c.cgroupTrees()
	if err != nil {
		return err
	}
	if err := killTrees(ctx, trees); err != nil { // while their shims still reap them
		return err
	}
	shims, err := c.shims()
	defer closeAll(shims)
	if err != nil {
		return err
	}
	for _, s := range shims {
		if err := s.end(ctx, 0); err != nil {
			return fmt.Errorf("end shim %d: %w", s.pid, err)
		}
	}
	return nil
}

func closeAll(ps []*proc) {
	for _, p := range ps {
		p.close()
	}
}
