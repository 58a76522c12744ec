package lifecycle

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// Input is all that Decide may look at.
type Input struct {
	Pod     *v1.Pod
	Runtime Runtime
	Memory  *Memory
	Now     time.Time
	// HostIPs are the node's addresses, the primary one first.
	HostIPs []string
}

// State is where a container stands, in CRI's terms.
type State int

const (
	Unknown State = iota
	Created
	Running
	Exited
)

// Runtime is what the container runtime shows of one pod.
type Runtime struct {
	Sandboxes  []Sandbox   // newest first
	Containers []Container // newest first
}

// Sandbox is one pod sandbox.
type Sandbox struct {
	ID      string
	Attempt uint32
	Ready   bool
	Created time.Time
	IPs     []string
}

// Container is one container of the runtime; a restart makes a new one with the next attempt.
type Container struct {
	ID        string // with the runtime's scheme: containerd://…
	Name      string
	SandboxID string
	Attempt   uint32
	State     State
	Created   time.Time
	Started   time.Time
	Finished  time.Time
	ExitCode  int32
	Signal    int32
	Reason    string
	Message   string
	Image     string
	ImageID   string
	Hash      string // SpecHash of the container it was made from
	User      *v1.ContainerUser
}

// Failure is why something did not work, in words for the status.
type Failure struct {
	Reason  string
	Message string
	At      time.Time
	Count   int // consecutive failures, this one included
}

// Backoff is the crash-loop delay of one container.
type Backoff struct {
	Delay   time.Duration
	Updated time.Time
}

// Operation is an action under way.
type Operation struct {
	Action    Action
	Cancelled bool
	Deadline  time.Time // kills: when the runtime sends SIGKILL
}

// Verdict is the last result of a probe.
type Verdict int

const (
	NotProbed Verdict = iota
	Success
	Failed
)

// Probes are the verdicts about one container.
type Probes struct{ Startup, Readiness, Liveness Verdict }

// Memory is what the agent knows of a pod besides the API and the runtime. Its writer is the pod's worker alone;
// Decide reads it. All of it may be lost in a restart.
type Memory struct {
	FirstSeen time.Time
	// Adopted says that the pod was on the node before the agent was.
	Adopted  bool
	Rejected *Failure // admission refused the pod
	Gone     bool     // the API no longer has the pod
	// EndingSince is the Now of the first decision that ended the pod.
	EndingSince time.Time

	VolumesReady bool
	TornDown     bool
	Deleted      bool            // the API was asked to delete the pod
	Forgotten    bool            // nothing of the pod is left on the node
	Stopped      map[string]bool // sandboxes that were stopped, network released

	// Failures are the last failed attempts, by Action.Key.
	Failures map[string]Failure
	Backoffs map[string]Backoff   // by container name
	Probes   map[string]Probes    // by container ID
	Busy     map[string]Operation // by Action.Key

	// Last is the status decided last; its transition times are kept.
	Last *v1.PodStatus
}

// NewMemory returns the memory of a pod seen first at now.
func NewMemory(now time.Time) *Memory {
	return &Memory{
		FirstSeen: now,
		Stopped:   map[string]bool{},
		Failures:  map[string]Failure{},
		Backoffs:  map[string]Backoff{},
		Probes:    map[string]Probes{},
		Busy:      map[string]Operation{},
	}
}

// latest returns the newest container of that name in any sandbox.
func (r Runtime) latest(name string) *Container {
	for i := range r.Containers {
		if r.Containers[i].Name == name {
			return &r.Containers[i]
		}
	}
	return nil
}

// previous returns the one before latest.
func (r Runtime) previous(name string) *Container {
	seen := false
	for i := range r.Containers {
		if r.Containers[i].Name != name {
			continue
		}
		if seen {
			return &r.Containers[i]
		}
		seen = true
	}
	return nil
}

// in returns the newest container of that name in one sandbox.
func (r Runtime) in(sandbox, name string) *Container {
	c := r.latest(name)
	if c == nil || c.SandboxID != sandbox {
		return nil
	}
	return c
}

// alive says that a container may hold a process.
func (c Container) alive() bool { return c.State == Running || c.State == Unknown }

func (r Runtime) anyAlive() bool {
	for _, c := range r.Containers {
		if c.alive() {
			return true
		}
	}
	return false
}
