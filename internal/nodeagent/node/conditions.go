package node

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Thresholds of pressure, and how long a pressure counts after it was seen last.
const (
	leastMemory   = 100 << 20
	leastDisk     = 5 // percent of bytes and of inodes
	mostPIDs      = 90
	pressureHolds = 5 * time.Minute
	// runtimePatience is how long the runtime may be away before the node is not ready: it may just be restarting.
	runtimePatience = 30 * time.Second
)

// Health is what the runtime said last.
type Health struct {
	Answered time.Time // last answer; zero: never
	Runtime  string    // why the runtime is not ready; empty: ready
	Network  string    // why the network is not ready; empty: ready
}

// readiness is the Ready condition's status, reason and message. It is pure.
func readiness(h Health, now time.Time) (v1.ConditionStatus, string, string) {
	var why []string
	switch {
	case h.Answered.IsZero():
		why = append(why, "container runtime status check may not have completed yet")
	case now.Sub(h.Answered) > runtimePatience:
		why = append(why, "container runtime is down")
	default:
		if h.Runtime != "" {
			why = append(why, "container runtime not ready: "+h.Runtime)
		}
		if h.Network != "" {
			why = append(why, "container runtime network not ready: "+h.Network)
		}
	}
	if len(why) == 0 {
		return v1.ConditionTrue, "KubeletReady", "kubelet is posting ready status"
	}
	message := why[0]
	if len(why) > 1 {
		message = "[" + strings.Join(why, ", ") + "]"
	}
	return v1.ConditionFalse, "KubeletNotReady", message
}

// pressure tells of a resource that ran low, and goes on telling for a while.
type pressure struct {
	kind    v1.NodeConditionType
	yes, no [2]string // reason, message
	low     func() bool
	seen    time.Time
}

func pressures(dataDir string) []*pressure {
	return []*pressure{
		{kind: v1.NodeMemoryPressure,
			yes: [2]string{"KubeletHasInsufficientMemory", "kubelet has insufficient memory available"},
			no:  [2]string{"KubeletHasSufficientMemory", "kubelet has sufficient memory available"},
			low: func() bool { n, err := meminfo("MemAvailable"); return err == nil && n < leastMemory }},
		{kind: v1.NodeDiskPressure,
			yes: [2]string{"KubeletHasDiskPressure", "kubelet has disk pressure"},
			no:  [2]string{"KubeletHasNoDiskPressure", "kubelet has no disk pressure"},
			low: func() bool { return diskLow(dataDir) }},
		{kind: v1.NodePIDPressure,
			yes: [2]string{"KubeletHasInsufficientPID", "kubelet has insufficient PID available"},
			no:  [2]string{"KubeletHasSufficientPID", "kubelet has sufficient PID available"},
			low: pidsLow},
	}
}

func (p *pressure) condition(now time.Time) v1.NodeCondition {
	if p.low() {
		p.seen = now
	}
	if !p.seen.IsZero() && now.Sub(p.seen) < pressureHolds {
		return v1.NodeCondition{Type: p.kind, Status: v1.ConditionTrue, Reason: p.yes[0], Message: p.yes[1]}
	}
	return v1.NodeCondition{Type: p.kind, Status: v1.ConditionFalse, Reason: p.no[0], Message: p.no[1]}
}

func diskLow(dir string) bool {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil || fs.Blocks == 0 {
		return false
	}
	if fs.Bavail*100/fs.Blocks < leastDisk {
		return true
	}
	return fs.Files > 0 && fs.Ffree*100/fs.Files < leastDisk
}

func pidsLow() bool {
	most, err := number("/proc/sys/kernel/pid_max")
	b, readErr := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(b))
	if err != nil || readErr != nil || len(f) < 4 {
		return false
	}
	_, all, _ := strings.Cut(f[3], "/")
	n, err := strconv.ParseInt(all, 10, 64)
	return err == nil && n*100/most > mostPIDs
}

// merge puts conditions into a node: the time of transition moves with the status only. It says whether one changed
// in more than its heartbeat.
func merge(n *v1.Node, conditions []v1.NodeCondition, now time.Time) (changed bool) {
	at := metav1.NewTime(now).Rfc3339Copy()
	for _, c := range conditions {
		c.LastHeartbeatTime, c.LastTransitionTime = at, at
		found := false
		for i := range n.Status.Conditions {
			old := &n.Status.Conditions[i]
			if old.Type != c.Type {
				continue
			}
			found = true
			if old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			changed = changed || old.Status != c.Status || old.Reason != c.Reason || old.Message != c.Message
			*old = c
		}
		if !found {
			n.Status.Conditions = append(n.Status.Conditions, c)
			changed = true
		}
	}
	return changed
}
