package quiet_test

import (
	"runtime"
	"strings"
	"testing"

	_ "github.com/gitopsd/gitopsd/internal/controlplane/quiet"
	"k8s.io/client-go/util/workqueue"
	_ "k8s.io/component-base/metrics/prometheus/workqueue" // has queues measured
)

// A queue with a name has no goroutine of its own.
func TestQueuesAreQuiet(t *testing.T) {
	q := workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[string]{Name: "queue"})
	defer q.ShutDown()
	all := make([]byte, 1<<20)
	if all = all[:runtime.Stack(all, true)]; strings.Contains(string(all), "updateUnfinishedWork") {
		t.Errorf("the queue wakes for its metrics:\n%s", all)
	}
}
