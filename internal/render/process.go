package render

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gitopsd/gitopsd/internal/redact"
	"github.com/gitopsd/gitopsd/internal/render/wire"
)

var (
	errRetired    = errors.New("the worker is retired")
	errNeverBegan = errors.New("the worker was gone before the job")
)

// process is one worker and the pipes to it.
type process struct {
	pool *Pool
	cmd  *exec.Cmd
	conn *wire.Conn
	pipe []io.Closer
	said *lastWords // stderr
	box  Sandbox
	done chan struct{} // closed when the process is gone

	mu     sync.Mutex
	killed error // why, if it was us

	jobs    int
	tainted bool
	resting *time.Timer // of the pool
}

// start starts a worker and waits for its greeting.
func (p *Pool) start() (*process, error) {
	w := &process{pool: p, said: &lastWords{}, done: make(chan struct{})}
	started := make(chan error)
	p.procs.Go(func() { w.live(started) })
	if err := <-started; err != nil {
		return nil, err
	}
	alarm := time.AfterFunc(30*time.Second, func() { w.kill(errors.New("it did not greet")) })
	defer alarm.Stop()
	frame, err := w.conn.Read()
	var hello wire.Greeting
	if err == nil && frame.Type == wire.Hello {
		err = frame.Decode(&hello)
	}
	if err != nil {
		w.kill(errRetired)
		<-w.done
		return nil, fmt.Errorf("greet: %w %s", err, w.said)
	}
	w.box.Layers = append(w.box.Layers, hello.Layers...)
	w.box.Gaps = append(w.box.Gaps, hello.Gaps...)
	return w, nil
}

// live is the life of the process, on a thread of its own: the kernel sends the signal of PDEATHSIG when the
// thread that started the process ends, and Go ends threads when it likes to, but not one that is locked.
func (w *process) live(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := w.launch()
	started <- err
	if err != nil {
		return
	}
	_ = w.cmd.Wait() // how it ended is told by killed, the state and stderr
	close(w.done)
	for _, c := range w.pipe {
		c.Close()
	}
}

// launch tries with namespaces first, and without where they are not permitted.
func (w *process) launch() error {
	type attempt struct {
		layer string
		attr  *syscall.SysProcAttr
	}
	const apart = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID
	attempts := []attempt{{"own network, mount, IPC, UTS and PID namespaces", &syscall.SysProcAttr{Cloneflags: apart}}}
	if os.Geteuid() != 0 {
		attempts = []attempt{{"own user, network, mount, IPC, UTS and PID namespaces", &syscall.SysProcAttr{
			Cloneflags:  apart | syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 65534, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 65534, HostID: os.Getgid(), Size: 1}},
		}}}
	}
	attempts = append(attempts, attempt{"", &syscall.SysProcAttr{}})
	var refused error
	for _, a := range attempts {
		a.attr.Pdeathsig = syscall.SIGKILL
		a.attr.Setsid = true
		err := w.exec(a.attr)
		if err == nil {
			if a.layer == "" {
				w.box.Gaps = append(w.box.Gaps, fmt.Sprintf("namespaces (%v)", refused))
			} else {
				w.box.Layers = append(w.box.Layers, a.layer)
			}
			return nil
		}
		refused = err
		if !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EACCES) {
			return err
		}
	}
	return refused
}

func (w *process) exec(attr *syscall.SysProcAttr) error {
	limits := w.pool.cfg.Limits
	cmd := exec.Command(w.pool.cfg.Program)
	cmd.SysProcAttr = attr
	cmd.Dir = "/"
	// The whole environment: nothing of the parent's, which may hold secrets, and no HOME to look for files in.
	cmd.Env = []string{fmt.Sprintf("GOMEMLIMIT=%d", limits.Memory*3/4), "GOMAXPROCS=2", "GOTRACEBACK=none",
		fmt.Sprintf("GITOPSD_RENDER_DATA=%d", limits.Memory+(1<<30))}
	cmd.Stderr = w.said
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	w.cmd, w.conn, w.pipe = cmd, wire.NewConn(stdout, stdin), []io.Closer{stdin}
	return nil
}

// kill ends the worker; why is what its job fails with.
func (w *process) kill(why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.killed == nil {
		w.killed = why
	}
	_ = w.cmd.Process.Kill()
}

func (w *process) reason() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.killed
}

// reusable reports whether the worker may have another job.
func (w *process) reusable() bool {
	select {
	case <-w.done:
		return false
	default:
	}
	return w.reason() == nil && !w.tainted && w.jobs < w.pool.cfg.Reuse &&
		resident(w.cmd.Process.Pid) < w.pool.cfg.Limits.Memory/2 && cpuTime(w.cmd.Process.Pid) < maxCPU/2
}

// render has the worker do one job. Whatever goes wrong in the worker costs this job and the worker only.
func (w *process) render(ctx context.Context, req Request) (*Result, error) {
	limits := w.pool.cfg.Limits
	w.jobs++
	w.said.reset()
	defer w.watchMemory(req.Path)()
	overtime := time.AfterFunc(limits.Time, func() {
		w.kill(&Error{Class: ErrLimit, File: req.Path, Text: "the render took longer than " + limits.Time.String(), Next: "look for a loop in templates, or split it into several Applications"})
	})
	defer overtime.Stop()
	stop := context.AfterFunc(ctx, func() { w.kill(ctx.Err()) })
	defer stop()
	closed := context.AfterFunc(w.pool.ctx, func() { w.kill(&Error{Class: ErrInternal, Text: "the pool is closed"}) })
	defer closed()

	j := &job{conn: w.conn, path: req.Path, limits: limits, files: &files{ctx: ctx, fsys: req.FS, lookup: req.Lookup, inputs: Inputs{}, limits: limits}}
	end, err := j.run(req)
	switch {
	case errors.Is(err, errNeverBegan) && w.reason() == nil:
		w.kill(errRetired)
		return nil, err
	case err != nil:
		return nil, w.blame(req.Path, err)
	}
	w.tainted = w.tainted || end.Tainted
	result, err := j.result(end)
	if err == nil && result.Charts {
		result.Revision = req.Helm.Revision
	}
	return result, err
}

// blame finds out why a conversation broke off.
func (w *process) blame(path string, err error) error {
	var ours *Error
	broken := errors.As(err, &ours) // the parent hung up
	if broken {
		w.kill(ours)
	} else {
		w.kill(errRetired)
	}
	<-w.done
	why := w.reason()
	switch {
	case errors.As(why, &ours):
		return ours
	case why != nil && !errors.Is(why, errRetired):
		return why
	case strings.Contains(w.said.String(), "stack exceeds") || strings.Contains(w.said.String(), "stack overflow"):
		return &Error{Class: ErrLimit, File: path, Text: "the files nest too deeply", Next: "look for a template or a file that includes itself"}
	case strings.Contains(w.said.String(), "out of memory") || strings.Contains(w.said.String(), "cannot allocate memory"):
		return memoryError(path, w.pool.cfg.Limits.Memory)
	}
	first, _, _ := strings.Cut(w.said.String(), "\n")
	w.pool.cfg.Logger.Warn("render worker died", "path", path, "state", w.cmd.ProcessState.String(), "stderr", redact.String(first))
	return &Error{Class: ErrInternal, File: path, Text: fmt.Sprintf("the render worker died (%s)", w.cmd.ProcessState), Next: "look at the log of gitopsd"}
}

func memoryError(path string, limit int64) *Error {
	return &Error{Class: ErrLimit, File: path, Text: fmt.Sprintf("the render needs more than %d MiB of memory", limit>>20), Next: "look for a loop in templates, or split it into several Applications"}
}

// job is one conversation.
type job struct {
	conn   *wire.Conn
	path   string
	limits Limits
	files  *files
	raw    []Raw
	output int64
	memory int64 // that the objects will take
}

func (j *job) run(req Request) (wire.End, error) {
	options, err := json.Marshal(req.Options)
	if err != nil {
		return wire.End{}, &Error{Class: ErrInvalid, Text: "the options cannot be encoded: " + err.Error()}
	}
	if err := j.conn.Send(wire.Job, wire.Task{Path: req.Path, Options: options}); err != nil {
		return wire.End{}, errNeverBegan
	}
	for begun := false; ; begun = true {
		frame, err := j.conn.Read()
		switch {
		case err != nil && !begun && errors.Is(err, io.EOF):
			return wire.End{}, errNeverBegan
		case err != nil:
			return wire.End{}, err
		}
		switch frame.Type {
		case wire.Ask:
			err = j.answer(frame)
		case wire.Object:
			err = j.object(frame)
		case wire.Done:
			var end wire.End
			return end, errors.Join(frame.Decode(&end))
		default:
			err = wire.ErrFrame
		}
		if err != nil {
			return wire.End{}, err
		}
	}
}

func (j *job) answer(frame wire.Frame) error {
	var q wire.Question
	if err := frame.Decode(&q); err != nil {
		return err
	}
	reply, body, err := j.files.answer(q)
	if err != nil {
		return err
	}
	return j.conn.Send(wire.Answer, reply, body)
}

func (j *job) object(frame wire.Frame) error {
	var p wire.Piece
	if err := frame.Decode(&p); err != nil {
		return err
	}
	if p.YAML < 0 || p.YAML > len(frame.Body) {
		return wire.ErrFrame
	}
	j.output += int64(len(frame.Body))
	if j.output > j.limits.Output || len(j.raw) >= j.limits.Objects {
		return &Error{Class: ErrLimit, File: j.path, Text: fmt.Sprintf("the render makes more than %d MiB or %d objects", j.limits.Output>>20, j.limits.Objects), Next: "split it into several Applications"}
	}
	content := frame.Body[p.YAML:]
	if len(content) > mostOfOne {
		return &Error{Class: ErrLimit, File: fileOf(p.Origin), Line: lineOf(p.Origin), Text: fmt.Sprintf("one object has more than %d MiB, which no API takes", mostOfOne>>20), Next: "split it"}
	}
	if j.memory += weigh(content); j.memory > j.limits.Decoded {
		return &Error{Class: ErrLimit, File: j.path, Text: fmt.Sprintf("the objects have so many values that they take more than %d MiB of memory", j.limits.Decoded>>20), Next: "split it into several Applications"}
	}
	j.raw = append(j.raw, Raw{YAML: frame.Body[:p.YAML:p.YAML], JSON: content, Origin: p.Origin, Hooks: p.Hooks})
	return nil
}

func (j *job) result(end wire.End) (*Result, error) {
	if e := end.Error; e != nil {
		if j.files.failed != nil { // what the files said is closer to the cause
			return nil, j.files.failed
		}
		_, absent := j.files.inputs.Charts()
		return nil, &Error{Class: ClassOf(e.Class), File: e.File, Line: e.Line, Object: e.Object, Text: e.Text, Next: e.Next, Needs: absent}
	}
	objects, err := Arrange(j.raw)
	if err != nil {
		return nil, err
	}
	result := &Result{Kind: Kind(end.Kind), Objects: objects, Inputs: j.files.inputs, Charts: end.Charts}
	if end.Release != nil {
		if err := json.Unmarshal(end.Release, &result.Release); err != nil {
			return nil, &Error{Class: ErrInternal, Text: "the worker sends a release that cannot be read"}
		}
	}
	return result, nil
}

// lastWords keeps the end of what a worker writes to stderr during a job: a Go program that dies says why.
type lastWords struct {
	mu   sync.Mutex
	text []byte
}

func (l *lastWords) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	const longest = 2000
	l.text = append(l.text, p...)
	if over := len(l.text) - longest; over > 0 {
		l.text = append([]byte(nil), l.text[over:]...)
	}
	return len(p), nil
}

func (l *lastWords) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = nil
}

func (l *lastWords) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(string(l.text))
}
