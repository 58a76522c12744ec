// Package quiet keeps the queues of Kubernetes' controllers from waking twice a second, each of some ninety, to set two of their metrics.
//
// A queue whose provider of metrics is client-go's own for none does not begin that. Only the first provider that is set counts, and that of none has
// no exported name: this package sets it to itself before Kubernetes' packages set theirs. By the order in which Go initializes packages (those whose imports are
// done, sorted by path) that is when this package, with this one import, has its turn.
package quiet

import (
	_ "unsafe" // for go:linkname

	"k8s.io/client-go/util/workqueue"
)

//go:linkname none k8s.io/client-go/util/workqueue.globalMetricsProvider
var none workqueue.MetricsProvider

func init() { workqueue.SetProvider(none) }
