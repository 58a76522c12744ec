// Command gitopsd-bridge is the CNI plugin of a node: it connects a pod to the bridge. Containerd starts it for every pod that comes or
// goes.
package main

import "github.com/gitopsd/gitopsd/internal/network/cni"

func main() { cni.Main() }
