// Package lifecycle owns every transition of a pod on a node.
//
// In goes what is wanted (the pod), what is there (the runtime's sandboxes and containers, probe results), what the
// agent remembers (failures, backoffs, operations under way) and the time. Out comes a Decision: the actions to start
// now, the status to publish, and when to ask again. The package has no clock, no I/O and no goroutine; whoever calls
// Decide carries the actions out, remembers their results and asks again.
//
// The rules are those of Kubernetes' pod lifecycle; where kubelet's words are part of the contract (reasons,
// messages, events) they are kept.
package lifecycle
