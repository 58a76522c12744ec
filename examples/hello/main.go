// hello is the demo's web server: it answers every request with a message, its version and the pod it runs in.
//
// The message comes from the file that MESSAGE_FILE names, read at each request, or from MESSAGE. VERSION is part of the
// image. It ends in order on SIGTERM.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		host, _ := os.Hostname()
		fmt.Fprintf(w, "%s (version %s, pod %s)\n", message(), os.Getenv("VERSION"), host)
	})
	listener, err := net.Listen("tcp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("hello %s listens on %s", os.Getenv("VERSION"), listener.Addr())
	if err := serve(ctx, listener, mux); err != nil {
		log.Fatal(err)
	}
}

// serve answers until ctx ends, and then what has begun already, for at most five seconds.
func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		ended <- server.Shutdown(ctx)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended // Serve returns when Shutdown begins
}

func message() string {
	if file := os.Getenv("MESSAGE_FILE"); file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(string(b))
	}
	if m := os.Getenv("MESSAGE"); m != "" {
		return m
	}
	return "hello"
}
