// Command gitopsd-runc is the OCI runtime of a node: runc's library behind the commands that containerd's shim calls. It is unpacked as
// `runc`.
//
// It holds nothing else, because a pod costs a dozen starts of it: one program for shim, runtime and CNI plugin, told apart by name, took
// 4.4 ms of processor time for each start instead of 2.0.
package main

import (
	"os"
	"runtime"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters the container's namespaces before Go's runtime has threads

	"github.com/gitopsd/gitopsd/cmd/gitopsd-runc/oci"
)

// A container's first process is this program once more, called with `init` by libcontainer. It never reaches main.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		runtime.GOMAXPROCS(1)
		runtime.LockOSThread()
		libcontainer.Init()
	}
}

func main() { os.Exit(oci.Main(os.Args[1:])) }
