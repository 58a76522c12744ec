// Command gitopsd-node holds the small programs a node starts for every pod, as one static file with several names
// (hard links): containerd's runc shim, the OCI runtime and the CNI plugin. The name it is called by says which it is.
//
// One file, because they share most of their code and one page cache; apart from containerd, because a shim runs
// every containerd plugin that is linked; apart from gitopsd, because a program that links everything costs 0.1 s and
// tens of megabytes at each start.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task/plugin" // the task service the shim serves
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters the container's namespaces before Go's runtime has threads

	"github.com/gitopsd/gitopsd/cmd/gitopsd-node/oci"
	"github.com/gitopsd/gitopsd/internal/network/cni"
)

// A container's first process is this program once more, called with `init` by libcontainer. It never reaches main.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		runtime.GOMAXPROCS(1)
		runtime.LockOSThread()
		libcontainer.Init()
	}
}

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "containerd-shim-runc-v2":
		shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runc.v2"))
	case "runc":
		os.Exit(oci.Main(os.Args[1:]))
	case cni.PluginType:
		cni.Main()
	default:
		fmt.Fprintf(os.Stderr, "gitopsd-node: called as %q; its names are containerd-shim-runc-v2, runc and gitopsd-bridge\n", name)
		os.Exit(2)
	}
}
