// Command gitopsd-shim is containerd's runc shim, the parent of a pod's containers: they outlive containerd and gitopsd because of it. It
// is unpacked as `containerd-shim-runc-v2`, the name by which containerd looks for it.
//
// It is apart from containerd because a shim runs every containerd plugin that is linked, and from gitopsd because one runs for every pod.
package main

import (
	"context"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task/plugin" // the task service the shim serves
	"github.com/containerd/containerd/v2/pkg/shim"
)

func main() {
	shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runc.v2"))
}
