package lifecycle

import (
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Kind names what an action does.
type Kind string

const (
	MountVolumes   Kind = "mount-volumes"
	CreateSandbox  Kind = "create-sandbox"
	StopSandbox    Kind = "stop-sandbox"
	StartContainer Kind = "start"
	KillContainer  Kind = "kill"
	Cancel         Kind = "cancel"
	TearDown       Kind = "tear-down" // unmount and remove volumes, remove the cgroup
	DeletePod      Kind = "delete-pod"
	Forget         Kind = "forget" // remove what the runtime and the disk still hold
)

// KillReason tells why a container is killed; empty when the whole pod ends.
type KillReason string

const (
	KillLiveness KillReason = "LivenessProbe"
	KillStartup  KillReason = "StartupProbe"
	KillChanged  KillReason = "DefinitionChanged"
	KillUnknown  KillReason = "Unknown"
	KillSandbox  KillReason = "SandboxChanged"
)

// Action is one thing to start now. Actions of one decision may run side by side.
type Action struct {
	Kind      Kind
	Container string // name, for start and kill
	ID        string // container or sandbox
	Attempt   uint32 // of the sandbox or container to make
	SandboxID string // where a container is started
	Grace     time.Duration
	Reason    KillReason
	Message   string
	// Backoff is what to remember for the container once it is started.
	Backoff Backoff
	// Restart says that the container ran before.
	Restart bool
	// Operation is what Cancel cancels.
	Operation string
}

// Key names the target: at most one operation per key is under way, and failures are remembered by it.
func (a Action) Key() string {
	switch a.Kind {
	case StartContainer:
		return StartKey(a.Container)
	case KillContainer, StopSandbox:
		return string(a.Kind) + " " + a.ID
	case Cancel:
		return "cancel " + a.Operation
	default:
		return string(a.Kind)
	}
}

// StartKey is the key of starting the container of that name.
func StartKey(name string) string { return string(StartContainer) + " " + name }

// String is the action's printed form: log line and golden file.
func (a Action) String() string {
	var b strings.Builder
	b.WriteString(string(a.Kind))
	switch a.Kind {
	case CreateSandbox:
		fmt.Fprintf(&b, " attempt=%d", a.Attempt)
	case StopSandbox:
		b.WriteString(" " + a.ID)
	case StartContainer:
		fmt.Fprintf(&b, " %s attempt=%d", a.Container, a.Attempt)
	case KillContainer:
		fmt.Fprintf(&b, " %s %s grace=%s", a.Container, a.ID, a.Grace)
		if a.Reason != "" {
			fmt.Fprintf(&b, " reason=%s", a.Reason)
		}
	case Cancel:
		b.WriteString(" " + a.Operation)
	}
	return b.String()
}

// Decision is what to do now.
type Decision struct {
	Actions []Action // in the order of their importance
	Status  v1.PodStatus
	// Ending says that the pod shall not run any more.
	Ending bool
	// Wake is when the decision changes without an event; zero if never.
	Wake time.Time
}
