// Package inprocess brings requests of this process to an http.Handler of this process, past the network, TLS and HTTP/2 that everybody else's go through.
//
// In goes a Handler; out comes an http.RoundTripper for each caller, by whose name the handler knows it. What net/http promises both
// sides holds: answers come whole or as a stream, what nobody reads is written no further, an end on one side ends the other, and a
// handler's panic is a broken answer. It knows nothing of Kubernetes.
package inprocess

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
)

// unread is how much of an answer waits for its reader, in bytes, before the handler has to: about what a connection's buffers hold.
const unread = 1 << 20

// errNotServing is what requests meet before the handler is there and after it has gone.
var errNotServing = errors.New("nothing serves in this process")

// Server hands requests to a handler while it serves.
type Server struct {
	serving atomic.Pointer[served]
}

type served struct {
	ctx     context.Context
	handler http.Handler
	crew    crew
}

// Serve hands requests to the handler until ctx ends, which ends those that are open too.
func (s *Server) Serve(ctx context.Context, handler http.Handler) {
	s.serving.Store(&served{ctx, handler, make(crew)})
}

// Transport sends requests as this caller, which nobody else can pretend to be: it travels in the context of the request.
func (s *Server) Transport(caller any) http.RoundTripper { return transport{s, caller} }

type callerKey struct{}

// Caller is whose transport has sent the request with this context; nil for one from elsewhere.
func Caller(ctx context.Context) any { return ctx.Value(callerKey{}) }

type transport struct {
	server *Server
	caller any
}

// RoundTrip returns when the handler has ended, has flushed, or has written more than can wait.
func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	s := t.server.serving.Load()
	if s == nil || s.ctx.Err() != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, fmt.Errorf("%s %s: %w", req.Method, req.URL.Path, errNotServing)
	}
	// Of the client's context the handler gets the end and nothing else, as over a network.
	ctx, cancel := context.WithCancelCause(context.WithValue(s.ctx, callerKey{}, t.caller))
	a := &answer{ctx: ctx, cancel: cancel, header: http.Header{}, head: req.Method == http.MethodHead, ready: make(chan struct{})}
	a.moved.L = &a.mu
	clientEnds := context.AfterFunc(req.Context(), func() { a.abandon(context.Cause(req.Context())) })
	serverEnds := context.AfterFunc(ctx, func() { a.abandon(context.Cause(ctx)) })
	s.crew.do(func() {
		a.serve(s.handler, incoming(ctx, req))
		clientEnds()
		serverEnds()
		cancel(context.Canceled)
	})
	<-a.ready
	return a.response(req)
}

// incoming is the request as a server would have read it.
func incoming(ctx context.Context, req *http.Request) *http.Request {
	body, host := req.Body, req.Host
	if body == nil {
		body = http.NoBody
	}
	if host == "" {
		host = req.URL.Host
	}
	in := &http.Request{
		Method: req.Method, URL: &url.URL{Path: req.URL.Path, RawPath: req.URL.RawPath, RawQuery: req.URL.RawQuery}, RequestURI: req.URL.RequestURI(),
		Proto: "HTTP/2.0", ProtoMajor: 2, Header: req.Header.Clone(), Body: body, ContentLength: req.ContentLength,
		Host: host, RemoteAddr: "127.0.0.1:0",
	}
	return in.WithContext(ctx)
}

// answer is what a handler writes and a client reads.
type answer struct {
	ctx    context.Context // the handler's
	cancel context.CancelCauseFunc
	header http.Header
	head   bool          // the client wants no body
	ready  chan struct{} // closed when the client may have the response

	mu     sync.Mutex
	moved  sync.Cond // something was written, read or ended
	status int       // 0: not written yet
	sent   http.Header
	body   bytes.Buffer
	out    bool  // ready is closed
	over   bool  // the handler has ended
	err    error // why the body ends before its time
}

func (a *answer) serve(handler http.Handler, req *http.Request) {
	defer func() {
		broken := recover()
		req.Body.Close()
		a.mu.Lock()
		defer a.mu.Unlock()
		switch {
		case a.err != nil:
		case broken != nil:
			a.err = fmt.Errorf("the answer to %s %s broke off: %w", req.Method, req.URL.Path, cause(broken))
		case a.ctx.Err() != nil: // the server has ended, and the handler because of it: who knows what is missing
			a.err = context.Cause(a.ctx)
		}
		a.begin(http.StatusOK)
		a.over = true
		a.hand()
	}()
	handler.ServeHTTP(a, req)
}

// cause is a panic as its client may know of it.
func cause(broken any) error {
	if broken == http.ErrAbortHandler {
		return io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%v", broken)
}

func (a *answer) response(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return nil, a.err
	}
	length := int64(-1)
	if a.over {
		length = int64(a.body.Len())
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", a.status, http.StatusText(a.status)), StatusCode: a.status, Proto: "HTTP/2.0", ProtoMajor: 2,
		Header: a.sent, Body: (*body)(a), ContentLength: length, Request: req,
	}, nil
}

// abandon ends the answer before its time, for its reader and for the handler.
func (a *answer) abandon(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.err = err
	}
	a.cancel(err)
	a.hand()
}

// begin notes the status and the header, once.
func (a *answer) begin(status int) {
	if a.status == 0 {
		a.status, a.sent = status, a.header.Clone()
	}
}

// hand lets the client have what there is.
func (a *answer) hand() {
	if !a.out {
		a.out = true
		close(a.ready)
	}
	a.moved.Broadcast()
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if status < 200 {
		return // what is only informative
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.begin(status)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.begin(http.StatusOK)
	for a.err == nil && a.body.Len() > unread {
		a.hand()
		a.moved.Wait()
	}
	if a.err != nil {
		return 0, a.err
	}
	if a.head {
		return len(p), nil
	}
	if a.out {
		a.moved.Broadcast()
	}
	return a.body.Write(p)
}

// Flush implements http.Flusher.
func (a *answer) Flush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.begin(http.StatusOK)
	a.hand()
}

// CloseNotify implements http.CloseNotifier, by which Kubernetes' handlers know that an answer can be a stream.
func (a *answer) CloseNotify() <-chan bool {
	gone := make(chan bool, 1)
	context.AfterFunc(a.ctx, func() { gone <- true })
	return gone
}

// body is the answer as its reader sees it.
type body answer

func (b *body) Read(p []byte) (int, error) {
	a := (*answer)(b)
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.body.Len() == 0 && !a.over && a.err == nil {
		a.moved.Wait()
	}
	if a.err != nil {
		return 0, a.err
	}
	if a.body.Len() == 0 && a.over {
		return 0, io.EOF
	}
	a.moved.Broadcast()
	return a.body.Read(p)
}

func (b *body) Close() error {
	(*answer)(b).abandon(http.ErrBodyReadAfterClose)
	return nil
}
