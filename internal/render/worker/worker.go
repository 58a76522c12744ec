// Package worker is the inside of the program gitopsd-render: it shuts itself into a sandbox, greets its parent
// and renders job after job. It opens no file and no connection, starts no program, and says nothing but frames on
// stdout. When its parent is gone it ends.
package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/render/engine"
	"github.com/gitopsd/gitopsd/internal/render/wire"
)

// maxStack turns an endless recursion into a quick end instead of a gigabyte.
const maxStack = 64 << 20

// Run serves jobs from in until it ends. All errors but the end of the parent are returned.
func Run(in io.Reader, out io.Writer) error {
	debug.SetMaxStack(maxStack)
	http.DefaultTransport = offline{} // Kustomize downloads with it; refused with a clear error, sandbox or not
	layers, gaps := confine()
	s := &server{conn: wire.NewConn(in, out), frames: make(chan wire.Frame)}
	failed := make(chan error, 1)
	go func() { failed <- s.receive() }()
	if err := s.conn.Send(wire.Hello, wire.Greeting{Layers: layers, Gaps: gaps}); err != nil {
		return fmt.Errorf("greet parent: %w", err)
	}
	const quiet = time.Second
	rest := time.NewTimer(quiet)
	for {
		select {
		case <-rest.C:
			debug.FreeOSMemory() // the next job may not come for long
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read from parent: %w", err)
		case f := <-s.frames:
			if err := s.job(f); err != nil {
				return err
			}
			rest.Reset(quiet)
		}
	}
}

// offline is a network that is not there.
type offline struct{}

func (offline) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("a render reaches no network")
}

// server is one conversation with the parent.
type server struct {
	conn   *wire.Conn
	frames chan wire.Frame
}

// receive reads all the time, so that a job that never ends does not outlive the parent.
func (s *server) receive() error {
	for {
		f, err := s.conn.Read()
		if err != nil {
			if errors.Is(err, io.EOF) {
				os.Exit(0)
			}
			return err
		}
		s.frames <- f
	}
}

func (s *server) job(f wire.Frame) error {
	var task wire.Task
	if f.Type != wire.Job {
		return fmt.Errorf("%w: %c instead of a job", wire.ErrFrame, f.Type)
	}
	if err := f.Decode(&task); err != nil {
		return err
	}
	var o render.Options
	if err := json.Unmarshal(task.Options, &o); err != nil {
		return fmt.Errorf("decode options: %w", err)
	}
	repo := &remoteFS{server: s, replies: map[wire.Question]answer{}}
	out, err := engine.Render(repo, task.Path, o, repo.lookup)
	// A worker that held somebody's keys serves nobody else.
	end := wire.End{Kind: string(out.Kind), Charts: out.Charts, Tainted: out.Tainted || o.Decrypt != nil}
	if err == nil && out.Release != nil {
		end.Release, err = json.Marshal(out.Release)
	}
	if err != nil {
		end.Error = failure(err)
	} else if err := s.send(out.Objects); err != nil {
		return err
	}
	return s.conn.Send(wire.Done, end)
}

func (s *server) send(objects []render.Raw) error {
	for _, o := range objects {
		if err := s.conn.Send(wire.Object, wire.Piece{Origin: o.Origin, Hooks: o.Hooks, YAML: len(o.YAML)}, o.YAML, o.JSON); err != nil {
			return fmt.Errorf("send object: %w", err)
		}
	}
	return nil
}

func failure(err error) *wire.Failure {
	var e *render.Error
	if !errors.As(err, &e) {
		return &wire.Failure{Class: render.ClassName(render.ErrInvalid), Text: shorten(err.Error())}
	}
	text := e.Text
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return &wire.Failure{Class: render.ClassName(e.Class), File: e.File, Line: e.Line, Object: e.Object, Text: shorten(text), Next: e.Next}
}

// shorten keeps the beginning and the end of a long text: chains of errors say first where and last why.
func shorten(text string) string {
	const head, tail = 300, 500
	if len(text) <= head+tail {
		return text
	}
	return strings.ToValidUTF8(text[:head], "") + " … " + strings.ToValidUTF8(text[len(text)-tail:], "")
}
