// gitopsd-kubectl is kubectl as a program of its own, which `gitopsd kubectl` starts: linked into gitopsd it would cost
// every start of the daemon and of the command line 23 ms.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
	os.Exit(0)
}
