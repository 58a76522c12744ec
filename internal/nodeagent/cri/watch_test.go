package cri_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/gitopsd/gitopsd/internal/nodeagent/cri"
	"github.com/gitopsd/gitopsd/internal/nodeagent/hollow"
	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
)

// stand is a hollow runtime that can be taken away and put back.
type stand struct {
	t      *testing.T
	socket string
	r      *hollow.Runtime
	stop   func()
}

func (s *stand) serve() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.r.Serve(ctx, s.socket) }()
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
}

func TestWatchAndObserve(t *testing.T) {
	s := &stand{t: t, socket: filepath.Join(t.TempDir(), "s"), r: hollow.New()}
	s.serve()
	c, err := cri.Dial(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, err = c.Version(ctx); err != nil; _, err = c.Version(ctx) {
	}
	changed := make(chan types.UID, 100)
	watched := make(chan error, 1)
	go func() { watched <- c.Watch(ctx, 100*time.Millisecond, func(uid types.UID) { changed <- uid }) }()
	await := func(what string) {
		t.Helper()
		select {
		case uid := <-changed:
			if uid != "u1" {
				t.Errorf("%s: told of %s", what, uid)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s was not told", what)
		}
	}
	labels := map[string]string{cri.LabelPodUID: "u1", cri.LabelPodName: "web", cri.LabelPodNamespace: "shop", cri.LabelContainerName: "c", cri.LabelNode: "n1"}
	sandbox, err := c.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Uid: "u1"}, Labels: labels}})
	if err != nil {
		t.Fatal(err)
	}
	await("a new sandbox")
	made, err := c.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox.PodSandboxId, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c", Attempt: 3}, Image: &runtimeapi.ImageSpec{Image: "i"}, Labels: labels}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		t.Fatal(err)
	}
	await("a new container")
	seen, err := c.Observe(ctx, "u1")
	if err != nil || len(seen.Sandboxes) != 1 || len(seen.Containers) != 1 || !seen.Sandboxes[0].Ready || len(seen.Sandboxes[0].IPs) != 1 {
		t.Fatalf("observed %+v, %v", seen, err)
	}
	if got := seen.Containers[0]; got.ID != "hollow://"+made.ContainerId || got.Attempt != 3 || got.State != lifecycle.Running || got.SandboxID != sandbox.PodSandboxId {
		t.Errorf("observed %+v", got)
	}
	pods, err := c.Pods(ctx, "n1")
	if err != nil || pods["u1"].Name != "web" || len(pods["u1"].Containers) != 1 {
		t.Errorf("pods are %v, %v", pods, err)
	}
	if others, _ := c.Pods(ctx, "n2"); len(others) > 0 {
		t.Errorf("pods of another node: %v", others)
	}

	s.stop()
	if _, err := c.Observe(ctx, "u1"); !cri.IsUnavailable(err) {
		t.Errorf("a runtime that is away: %v", err)
	}
	for len(changed) > 0 {
		<-changed
	}
	s.r.Exit("c", 1) // while nobody listens
	s.serve()
	await("an end that nobody heard of")
	cancel()
	if err := <-watched; err != nil {
		t.Error(err)
	}
	s.stop()
}
