package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

const (
	readyWait    = 60 * time.Second // containerd loads its shims before it answers
	endGrace     = 10 * time.Second
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 10 * time.Second
	steady       = time.Minute      // a containerd that lived this long starts over with the first backoff
	checkPeriod  = 30 * time.Second // how often a running containerd is asked whether it still answers, and how long it may take
	checkLimit   = 3                // missed answers in a row
)

// Process is a running containerd.
type Process struct {
	Config
	proc    *proc // of Start and then of Run alone
	pid     atomic.Int64
	adopted bool
}

// Adopted tells whether Start found containerd running.
func (p *Process) Adopted() bool { return p.adopted }

// Pid is the process's number now; after a restart by Run it is another one. It may be called while Run runs.
func (p *Process) Pid() int { return int(p.pid.Load()) }

// Start makes containerd run and answer, with the pause image at hand. One that runs with the same programs and configuration is
// adopted; another one is ended first, which its pods do not notice. Cancelling ctx later does not end containerd.
func Start(ctx context.Context, c Config) (*Process, error) {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return nil, err
	}
	if err := c.Programs.Check(bundle.Containerd, bundle.Shim, bundle.Runtime, bundle.Pause); err != nil {
		return nil, err
	}
	p := &Process{Config: c}
	if err := p.launch(ctx); err != nil {
		return nil, err
	}
	if err := p.ensurePause(ctx); err != nil {
		p.proc.close()
		return nil, err
	}
	return p, nil
}

// launch adopts or starts containerd and waits until it answers.
func (p *Process) launch(ctx context.Context) error {
	text, err := p.render()
	if err != nil {
		return err
	}
	running, err := p.find()
	if err != nil {
		return err
	}
	if running != nil && !p.current(running, text) {
		p.Logger.Info("restarting containerd: its program or configuration changed", "pid", running.pid)
		err := running.end(ctx, endGrace)
		running.close()
		if err != nil {
			return fmt.Errorf("end outdated containerd: %w", err)
		}
		running = nil
	}
	p.adopted = running != nil
	if running == nil {
		// Only now: as long as config.toml has the old text, a restart that is cut off is taken up again.
		if err := p.prepare(text); err != nil {
			return fmt.Errorf("prepare containerd: %w", err)
		}
		if running, err = p.spawn(); err != nil {
			return fmt.Errorf("start containerd: %w", err)
		}
	}
	p.proc = running
	p.pid.Store(int64(running.pid))
	if err := p.awaitReady(ctx); err != nil {
		if ctx.Err() == nil {
			_ = running.end(ctx, endGrace) // not one to be adopted later
		}
		running.close()
		return err
	}
	return nil
}

// current tells whether a running containerd has our programs and the configuration text.
func (p *Process) current(running *proc, text string) bool {
	have, err := os.ReadFile(p.configFile())
	if err != nil || string(have) != text {
		return false
	}
	link, err := os.Readlink(p.binDir())
	if err != nil || link != p.Programs.Dir {
		return false
	}
	program, err := filepath.EvalSymlinks(p.Programs.Path(bundle.Containerd))
	return err == nil && running.exe == program
}

// spawn starts containerd in a session of its own, with its output in the log file: neither a signal to our terminal nor a pipe
// that nobody reads any more may end it.
func (p *Process) spawn() (*proc, error) {
	if err := rotate(p.LogFile); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(p.LogFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(p.Programs.Path(bundle.Containerd), "--config", p.configFile())
	cmd.Dir = "/"
	cmd.Env = p.environment()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	held, err := openProc(cmd.Process.Pid) // not yet reaped, so the number is still its own
	_ = cmd.Process.Release()
	return held, err
}

// environment is what containerd and its shims get: nothing of ours but the way to the registries.
func (p *Process) environment() []string {
	env := []string{
		"PATH=" + p.binDir() + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"TMPDIR=" + filepath.Join(p.StateDir, "tmp"),
		"CONTAINERD_DISABLE_PIGZ=1", // host programs are not ours to run
	}
	for _, kv := range os.Environ() {
		switch name, _, _ := strings.Cut(kv, "="); strings.ToUpper(name) {
		case "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR":
			env = append(env, kv)
		}
	}
	return env
}

// awaitReady returns once CRI answers, or with the reason from the log when containerd ended instead.
func (p *Process) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		err := p.proc.wait(ctx)
		cancel()
		ended <- err
	}()
	err := p.answers(ctx)
	cancel()
	if end := <-ended; end == nil {
		return fmt.Errorf("start containerd: it ended: %s", lastLine(p.LogFile))
	}
	if err != nil {
		return fmt.Errorf("wait for containerd: %w (see %s)", err, p.LogFile)
	}
	return nil
}

// Run supervises containerd until ctx ends: one that died or does not answer any more is started again. It leaves containerd running.
func (p *Process) Run(ctx context.Context) error {
	defer func() { p.proc.close() }()
	backoff := firstBackoff
	for {
		began := time.Now()
		err := p.watch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > steady {
			backoff = firstBackoff
		}
		p.Logger.Warn("containerd ended, starting it again; its pods go on", "reason", err, "in", backoff)
		for {
			if !sleep(ctx, backoff) {
				return nil
			}
			backoff = min(2*backoff, lastBackoff)
			err := p.relaunch(ctx)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return nil
			}
			p.Logger.Error("start containerd again", "error", err, "in", backoff)
		}
	}
}

func (p *Process) relaunch(ctx context.Context) error {
	old := p.proc
	if err := p.launch(ctx); err != nil {
		p.proc = old
		return err
	}
	old.close()
	return nil
}

// watch returns why containerd has ended, or the context's error. It looks after the log's size and kills a containerd that does not answer.
func (p *Process) watch(ctx context.Context) error {
	for missed := 0; ; {
		turn, cancel := context.WithTimeout(ctx, p.checkPeriod)
		err := p.proc.wait(turn)
		cancel()
		switch {
		case err == nil:
			return errors.New(lastLine(p.LogFile))
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		}
		if err := truncate(p.LogFile); err != nil {
			p.Logger.Warn("bound containerd's log", "error", err)
		}
		check, cancel := context.WithTimeout(ctx, p.checkPeriod)
		err = p.answers(check)
		cancel()
		if err == nil {
			missed = 0
			continue
		}
		if missed++; missed >= checkLimit && ctx.Err() == nil {
			if err := p.proc.signal(unix.SIGKILL); err != nil {
				return fmt.Errorf("kill silent containerd: %w", err)
			}
			if err := p.proc.wait(ctx); err != nil {
				return err
			}
			return fmt.Errorf("no answer in %d checks: %w", missed, err)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
