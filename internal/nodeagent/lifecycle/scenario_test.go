package lifecycle

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// TestScenarios plays the stories of testdata. Commands:
//
//	pod                      the spec in YAML: a new pod, nothing in the runtime
//	api STATUS-YAML          what the API knows of the status
//	decide                   prints the actions and the status
//	play                     decides and lets everything succeed at once, until nothing is left to do
//	begin                    decides; what it says is under way from then on
//	exit NAME code=N         the container's process ends
//	fail KEY reason=R msg=M  an action failed
//	probe NAME liveness=…    success or failed; also readiness, startup
//	sandbox-dies, image NAME=…, delete grace=N, gone, advance D, restart-agent, reject, unknown NAME, settle
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &scenario{t: t}
		datadriven.RunTest(t, path, s.run)
	})
}

type scenario struct {
	t     *testing.T
	in    Input
	start time.Time
	ids   int
}

func (s *scenario) run(t *testing.T, d *datadriven.TestData) string {
	s.t = t
	arg := func(key string) string {
		for _, a := range d.CmdArgs {
			if a.Key == key && len(a.Vals) > 0 {
				return a.Vals[0]
			}
		}
		return ""
	}
	name := ""
	if len(d.CmdArgs) > 0 {
		name = d.CmdArgs[0].Key
	}
	switch d.Cmd {
	case "pod":
		s.newPod(d.Input)
	case "api":
		s.must(yaml.UnmarshalStrict([]byte(d.Input), &s.in.Pod.Status))
	case "decide":
		return s.print(Decide(s.in))
	case "play":
		return s.play()
	case "begin":
		return s.begin()
	case "settle":
		s.settle()
	case "exit":
		code, _ := strconv.Atoi(arg("code"))
		s.exit(s.in.Runtime.latest(name), int32(code), arg("reason"))
	case "unknown":
		s.in.Runtime.latest(name).State = Unknown
	case "fail":
		key := strings.ReplaceAll(name, "/", " ")
		f := s.in.Memory.Failures[key]
		s.in.Memory.Failures[key] = Failure{Reason: arg("reason"), Message: arg("msg"), At: s.in.Now, Count: f.Count + 1}
		delete(s.in.Memory.Busy, key)
	case "probe":
		s.probe(s.in.Runtime.latest(name).ID, arg)
	case "sandbox-dies":
		s.in.Runtime.Sandboxes[0].Ready = false
	case "image":
		ContainerSpec(s.in.Pod, name).Image = arg("to")
	case "delete":
		g, _ := strconv.ParseInt(arg("grace"), 10, 64)
		now := metav1.NewTime(s.in.Now)
		s.in.Pod.DeletionTimestamp, s.in.Pod.DeletionGracePeriodSeconds = &now, &g
	case "gone":
		s.in.Memory.Gone = true
	case "reject":
		s.in.Memory.Rejected = &Failure{Reason: arg("reason"), Message: arg("msg")}
	case "advance":
		by, err := time.ParseDuration(name)
		s.must(err)
		s.in.Now = s.in.Now.Add(by)
	case "restart-agent":
		s.in.Pod.Status = Decide(s.in).Status
		s.in.Memory = NewMemory(s.in.Now)
	default:
		t.Fatalf("unknown command %q", d.Cmd)
	}
	return ""
}

func (s *scenario) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scenario) newPod(spec string) {
	s.start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "u1", Generation: 1}}
	s.must(yaml.UnmarshalStrict([]byte(spec), &pod.Spec))
	s.in = Input{Pod: pod, Memory: NewMemory(s.start), Now: s.start, HostIPs: []string{"192.0.2.1"}}
	s.ids = 0
}

func (s *scenario) exit(c *Container, code int32, reason string) {
	c.State, c.ExitCode, c.Finished, c.Reason = Exited, code, s.in.Now, reason
}

func (s *scenario) probe(id string, arg func(string) string) {
	p := s.in.Memory.Probes[id]
	verdict := func(v *Verdict, word string) {
		switch word {
		case "success":
			*v = Success
		case "failed":
			*v = Failed
		}
	}
	verdict(&p.Startup, arg("startup"))
	verdict(&p.Readiness, arg("readiness"))
	verdict(&p.Liveness, arg("liveness"))
	s.in.Memory.Probes[id] = p
}

// begin marks what was decided as under way.
func (s *scenario) begin() string {
	d := Decide(s.in)
	s.remember(d)
	for _, a := range d.Actions {
		if a.Kind == Cancel {
			op := s.in.Memory.Busy[a.Operation]
			op.Cancelled = true
			s.in.Memory.Busy[a.Operation] = op
			continue
		}
		s.in.Memory.Busy[a.Key()] = Operation{Action: a, Deadline: s.in.Now.Add(a.Grace)}
		if a.Kind == StartContainer {
			s.in.Memory.Backoffs[a.Container] = a.Backoff
		}
	}
	return s.print(d)
}

// settle lets what is under way end as it should.
func (s *scenario) settle() {
	for _, key := range sortedKeys(s.in.Memory.Busy) {
		op := s.in.Memory.Busy[key]
		delete(s.in.Memory.Busy, key)
		if !op.Cancelled {
			s.apply(op.Action)
		}
	}
}

func (s *scenario) remember(d Decision) {
	st := d.Status
	s.in.Memory.Last = &st
	if d.Ending && s.in.Memory.EndingSince.IsZero() {
		s.in.Memory.EndingSince = s.in.Now
	}
}

// play prints the actions of each round until there are none.
func (s *scenario) play() string {
	var b strings.Builder
	for range 20 {
		d := Decide(s.in)
		s.remember(d)
		if len(d.Actions) == 0 {
			return b.String() + s.print(d)
		}
		for _, a := range d.Actions {
			fmt.Fprintf(&b, "do %s\n", a)
			s.apply(a)
		}
	}
	return b.String() + "goes on for ever\n"
}

func (s *scenario) apply(a Action) {
	m, r := s.in.Memory, &s.in.Runtime
	s.ids++
	delete(m.Failures, a.Key())
	switch a.Kind {
	case MountVolumes:
		m.VolumesReady = true
	case CreateSandbox:
		sb := Sandbox{ID: fmt.Sprintf("s%d", a.Attempt), Attempt: a.Attempt, Ready: true, IPs: []string{fmt.Sprintf("10.42.0.%d", 2+a.Attempt)}}
		r.Sandboxes = append([]Sandbox{sb}, r.Sandboxes...)
	case StopSandbox:
		m.Stopped[a.ID] = true
		for i := range r.Sandboxes {
			if r.Sandboxes[i].ID == a.ID {
				r.Sandboxes[i].Ready = false
			}
		}
	case StartContainer:
		m.Backoffs[a.Container] = a.Backoff
		c := Container{ID: fmt.Sprintf("%s-%d", a.Container, a.Attempt), Name: a.Container, SandboxID: a.SandboxID, Attempt: a.Attempt,
			State: Running, Created: s.in.Now, Started: s.in.Now, Hash: SpecHash(ContainerSpec(s.in.Pod, a.Container))}
		r.Containers = append([]Container{c}, r.Containers...)
	case KillContainer:
		for i := range r.Containers {
			if r.Containers[i].ID == a.ID {
				s.exit(&r.Containers[i], 143, "")
			}
		}
	case TearDown:
		m.TornDown = true
	case DeletePod:
		m.Deleted = true
	case Forget:
		m.Forgotten = true
		*r = Runtime{}
	}
}

// print shows a decision: actions, then the status in a few lines.
func (s *scenario) print(d Decision) string {
	var b strings.Builder
	for _, a := range d.Actions {
		fmt.Fprintf(&b, "%s\n", a)
	}
	fmt.Fprintf(&b, "phase %s", d.Status.Phase)
	if d.Status.Reason != "" {
		fmt.Fprintf(&b, " %s: %s", d.Status.Reason, d.Status.Message)
	}
	b.WriteString("\n")
	for _, c := range append(append([]v1.ContainerStatus{}, d.Status.InitContainerStatuses...), append(d.Status.ContainerStatuses, d.Status.EphemeralContainerStatuses...)...) {
		fmt.Fprintf(&b, "  %s %s", c.Name, printState(c.State))
		if c.LastTerminationState.Terminated != nil {
			fmt.Fprintf(&b, " last=%s", printState(c.LastTerminationState))
		}
		if c.RestartCount > 0 {
			fmt.Fprintf(&b, " restarts=%d", c.RestartCount)
		}
		if c.Ready {
			b.WriteString(" ready")
		}
		b.WriteString("\n")
	}
	var no []string
	for _, c := range d.Status.Conditions {
		if c.Status != v1.ConditionTrue {
			no = append(no, strings.TrimSpace(string(c.Type)+" "+c.Message))
		}
	}
	if len(no) > 0 {
		fmt.Fprintf(&b, "  not %s\n", strings.Join(no, "; "))
	}
	if !d.Wake.IsZero() {
		fmt.Fprintf(&b, "again in %s\n", d.Wake.Sub(s.in.Now))
	}
	return b.String()
}

func printState(s v1.ContainerState) string {
	switch {
	case s.Running != nil:
		return "running"
	case s.Terminated != nil:
		return fmt.Sprintf("terminated(%s %d)", s.Terminated.Reason, s.Terminated.ExitCode)
	case s.Waiting != nil:
		if s.Waiting.Message != "" {
			return fmt.Sprintf("waiting(%s: %s)", s.Waiting.Reason, s.Waiting.Message)
		}
		return fmt.Sprintf("waiting(%s)", s.Waiting.Reason)
	}
	return "unknown"
}
