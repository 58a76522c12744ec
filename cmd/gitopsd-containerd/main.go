// Command gitopsd-containerd is containerd with the built-in plugins that a gitopsd node needs, as one static program.
//
// It is a program apart from the shim: a shim runs every containerd plugin that is linked, and fails with the
// built-in ones. What is left out on purpose: every snapshotter but overlayfs and native, NRI's external plugins,
// tracing, erofs, image verification and the restart monitor (the node agent restarts containers, nobody else).
package main

import (
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/cmd/containerd/command"
)

func main() {
	if err := command.App().Run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "containerd:", err)
		os.Exit(1)
	}
}
