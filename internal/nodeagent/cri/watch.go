package cri

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pod names a pod that the runtime holds something of.
type Pod struct {
	UID             types.UID
	Namespace, Name string
	Containers      []string // names, for a pod that nobody else remembers
}

// Watch reports pods that may have changed, until ctx ends: at once by the runtime's events where it sends them, and
// by comparing lists every so often, because events can be lost. A report is a hint, never a fact.
func (c *Client) Watch(ctx context.Context, every time.Duration, changed func(types.UID)) error {
	relist := make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.streamEvents(ctx, changed, relist) })
	g.Go(func() error {
		seen := map[types.UID]string{}
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			if now, err := c.fingerprints(ctx); err == nil {
				report(seen, now, changed)
				seen = now
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			case <-relist:
			}
		}
	})
	return g.Wait()
}

func report(seen, now map[types.UID]string, changed func(types.UID)) {
	for uid, f := range now {
		if seen[uid] != f {
			changed(uid)
		}
	}
	for uid := range maps.Keys(seen) {
		if _, still := now[uid]; !still {
			changed(uid)
		}
	}
}

// streamEvents follows the event stream and takes it up again when it breaks, with a fresh list in between.
func (c *Client) streamEvents(ctx context.Context, changed func(types.UID), relist chan<- struct{}) error {
	for ctx.Err() == nil {
		stream, err := c.Runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
		for err == nil {
			var e *runtimeapi.ContainerEventResponse
			if e, err = stream.Recv(); err == nil {
				if uid := eventPod(e); uid != "" {
					changed(uid)
				}
			}
		}
		select {
		case relist <- struct{}{}:
		default:
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}

func eventPod(e *runtimeapi.ContainerEventResponse) types.UID {
	if uid := e.PodSandboxStatus.GetMetadata().GetUid(); uid != "" {
		return types.UID(uid)
	}
	for _, s := range e.ContainersStatuses {
		if uid := s.Labels[LabelPodUID]; uid != "" {
			return types.UID(uid)
		}
	}
	return ""
}

// fingerprints sums up each pod's sandboxes and containers.
func (c *Client) fingerprints(ctx context.Context) (map[types.UID]string, error) {
	sandboxes, containers, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	parts := map[types.UID][]string{}
	for _, s := range sandboxes {
		uid := types.UID(s.Labels[LabelPodUID])
		parts[uid] = append(parts[uid], fmt.Sprintf("%s=%d", s.Id, s.State))
	}
	for _, s := range containers {
		uid := types.UID(s.Labels[LabelPodUID])
		parts[uid] = append(parts[uid], fmt.Sprintf("%s=%d", s.Id, s.State))
	}
	out := map[types.UID]string{}
	for uid, p := range parts {
		slices.Sort(p)
		out[uid] = strings.Join(p, " ")
	}
	delete(out, "")
	return out, nil
}

func (c *Client) list(ctx context.Context) ([]*runtimeapi.PodSandbox, []*runtimeapi.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	sandboxes, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, nil, fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, nil, fmt.Errorf("list containers: %w", err)
	}
	return sandboxes.Items, containers.Containers, nil
}

// Pods lists the pods of a node that the runtime holds sandboxes of.
func (c *Client) Pods(ctx context.Context, node string) (map[types.UID]Pod, error) {
	sandboxes, containers, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	out := map[types.UID]Pod{}
	for _, s := range sandboxes {
		if uid := types.UID(s.Labels[LabelPodUID]); uid != "" && s.Labels[LabelNode] == node {
			out[uid] = Pod{UID: uid, Namespace: s.Labels[LabelPodNamespace], Name: s.Labels[LabelPodName]}
		}
	}
	for _, ct := range containers {
		if p, ok := out[types.UID(ct.Labels[LabelPodUID])]; ok {
			p.Containers = append(p.Containers, ct.Labels[LabelContainerName])
			out[p.UID] = p
		}
	}
	return out, nil
}
