package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
)

// A request that has begun when the end is asked for still gets its answer.
func TestServeEndsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		listener := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
		served := make(chan error, 1)
		go func() { served <- serve(ctx, listener, echo) }()

		client, server := net.Pipe()
		defer client.Close()
		listener.conns <- server
		send := func(s string) {
			if _, err := io.WriteString(client, s); err != nil {
				t.Error(err)
			}
		}
		send("POST / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\nContent-Length: 4\r\n\r\n")
		synctest.Wait() // the request is being answered
		cancel()
		synctest.Wait()
		select {
		case <-listener.closed:
		default:
			t.Error("it still listens")
		}
		select {
		case err := <-served:
			t.Fatalf("it ended before it had answered (%v)", err)
		default:
		}
		go send("late")
		resp, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "late" {
			t.Errorf("%q, %v", body, err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// pipes is a listener whose connections are made in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (*pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }
