package render

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Limits bounds what one render may cost. Zero fields take the defaults.
type Limits struct {
	Time      time.Duration // by the wall clock; 60 s
	Memory    int64         // resident bytes of a worker; 512 MiB
	Output    int64         // bytes of all objects, YAML and JSON together; 32 MiB
	Decoded   int64         // bytes that the objects take in our memory, as weigh reckons; 128 MiB
	Objects   int           // 10,000
	Input     int64         // bytes of all files; 256 MiB
	Questions int           // about files; 200,000
}

func (l Limits) withDefaults() Limits {
	if l.Time <= 0 {
		l.Time = time.Minute
	}
	if l.Memory <= 0 {
		l.Memory = 512 << 20
	}
	if l.Output <= 0 {
		l.Output = 32 << 20
	}
	if l.Decoded <= 0 {
		l.Decoded = 128 << 20
	}
	if l.Objects <= 0 {
		l.Objects = 10_000
	}
	if l.Input <= 0 {
		l.Input = 256 << 20
	}
	if l.Questions <= 0 {
		l.Questions = 200_000
	}
	return l
}

// PoolConfig is what a Pool needs to know.
type PoolConfig struct {
	Program string // the program gitopsd-render
	Workers int    // how many render at once; 0: one for each processor, at most 4
	Limits  Limits
	Reuse   int           // jobs after which a worker is replaced; 0: 200
	Idle    time.Duration // after which a worker that has nothing to do ends; 0: 5 min
	Logger  *slog.Logger  // nil: silent
}

// Pool renders in worker processes. They are started when needed, live for many jobs, and are replaced when
// they were killed, grew, or did enough. It is safe for concurrent use.
type Pool struct {
	cfg    PoolConfig
	slots  chan struct{} // a place for each worker that may render
	ctx    context.Context
	cancel context.CancelFunc
	procs  sync.WaitGroup

	mu   sync.Mutex
	idle []*process // the one used last at the end
	box  Sandbox
}

// Sandbox says what holds around the workers of this machine.
type Sandbox struct {
	Layers []string // what is in force
	Gaps   []string // what is not, and why
}

// String is one line for logs and status.
func (s Sandbox) String() string {
	text := strings.Join(s.Layers, ", ")
	if len(s.Gaps) > 0 {
		text += "; without " + strings.Join(s.Gaps, ", ")
	}
	return text
}

// NewPool checks that the program is there. No worker is started yet.
func NewPool(cfg PoolConfig) (*Pool, error) {
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Workers <= 0 {
		cfg.Workers = min(runtime.NumCPU(), 4)
	}
	if cfg.Reuse <= 0 {
		cfg.Reuse = 200
	}
	if cfg.Idle <= 0 {
		cfg.Idle = 5 * time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	info, err := os.Stat(cfg.Program)
	if err != nil {
		return nil, fmt.Errorf("find render worker: %w", err)
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return nil, fmt.Errorf("find render worker: %s is no program", cfg.Program)
	}
	p := &Pool{cfg: cfg, slots: make(chan struct{}, cfg.Workers)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// Close ends all workers, also those that render, and waits for them.
func (p *Pool) Close() {
	p.cancel()
	p.mu.Lock()
	for _, w := range p.idle {
		w.kill(errors.New("the pool is closed"))
	}
	p.idle = nil
	p.mu.Unlock()
	p.procs.Wait()
}

// Sandbox describes what held around the worker that was started last; empty before the first.
func (p *Pool) Sandbox() Sandbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.box
}

// Render renders in a worker and waits for a free one if all are busy. Every error is an *Error, except that
// of ctx.
func (p *Pool) Render(ctx context.Context, req Request) (*Result, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.ctx.Done():
		return nil, &Error{Class: ErrInternal, Text: "the pool is closed"}
	}
	defer func() { <-p.slots }()
	for { // a worker that died while it was idle says nothing about the job
		w, fresh, err := p.take()
		if err != nil {
			return nil, &Error{Class: ErrInternal, Text: "the render worker does not start: " + err.Error(), Next: "look at the log of gitopsd"}
		}
		result, err := w.render(ctx, req)
		p.put(w)
		if err == nil || fresh || !errors.Is(err, errNeverBegan) {
			return result, err
		}
	}
}

// take returns an idle worker or starts one.
func (p *Pool) take() (w *process, fresh bool, err error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		w = p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		w.resting.Stop()
		return w, false, nil
	}
	p.mu.Unlock()
	w, err = p.start()
	if err != nil {
		return nil, false, err
	}
	p.mu.Lock()
	p.box = w.box
	p.mu.Unlock()
	return w, true, nil
}

// put keeps a worker for the next job if it may have one.
func (p *Pool) put(w *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil || !w.reusable() {
		w.kill(errRetired)
		return
	}
	p.idle = append(p.idle, w)
	w.resting = time.AfterFunc(p.cfg.Idle, func() { p.retire(w) })
}

// retire ends a worker that is still idle.
func (p *Pool) retire(w *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.idle {
		if other == w {
			p.idle = append(p.idle[:i:i], p.idle[i+1:]...)
			w.kill(errRetired)
			return
		}
	}
}
