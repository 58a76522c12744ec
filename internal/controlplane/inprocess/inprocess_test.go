package inprocess

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// clientOf is a client of a handler that serves as long as the test runs.
func clientOf(t *testing.T, handler http.HandlerFunc) *http.Client {
	s := &Server{}
	s.Serve(t.Context(), handler)
	return &http.Client{Transport: s.Transport("me")}
}

func get(t *testing.T, c *http.Client, ctx context.Context) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://host/a%2Fb?c=d", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// A handler sees of a request what a server shows it, and the client of the answer what it would see over a network.
func TestWhole(t *testing.T) {
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		sent, _ := io.ReadAll(r.Body)
		r.Header.Del("X-Client") // which is the handler's to do with as it likes
		w.Header().Set("X-Early", "yes")
		w.WriteHeader(http.StatusTeapot)
		w.WriteHeader(http.StatusOK)
		w.Header().Set("X-Late", "yes")
		fmt.Fprintf(w, "%s %s %s %s %s %d.%d by %v", r.Method, r.URL, r.RequestURI, r.Host, sent, r.ProtoMajor, r.ProtoMinor, Caller(r.Context()))
	})
	req, err := http.NewRequest(http.MethodPut, "https://host/a%2Fb?c=d", strings.NewReader("text"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Client", "kept")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if want := "PUT /a%2Fb?c=d /a%2Fb?c=d host text 2.0 by me"; err != nil || string(body) != want || resp.ContentLength != int64(len(want)) {
		t.Errorf("%q of %d bytes, %v; want %q", body, resp.ContentLength, err, want)
	}
	if resp.Status != "418 I'm a teapot" || resp.Header.Get("X-Early") != "yes" || resp.Header.Get("X-Late") != "" || req.Header.Get("X-Client") != "kept" {
		t.Errorf("%s, %v; the client's own header is %v", resp.Status, resp.Header, req.Header)
	}
	resp, err = c.Head("https://host/")
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || len(body) > 0 {
		t.Errorf("an answer to HEAD: %q, %v", body, err)
	}
}

// What is flushed is read before the handler ends.
func TestStream(t *testing.T) {
	next := make(chan string)
	c := clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		for text := range next {
			io.WriteString(w, text)
			w.(http.Flusher).Flush()
		}
	})
	resp := get(t, c, t.Context())
	if resp.StatusCode != http.StatusOK || resp.ContentLength != -1 {
		t.Errorf("%s, %d bytes", resp.Status, resp.ContentLength)
	}
	for _, text := range []string{"one", "three"} {
		next <- text
		got := make([]byte, len(text))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
	close(next)
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

// What nobody reads is written no further, and all of it arrives.
func TestUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(rest + 1) // until the goroutine that served has ended
		const pieces = 5
		written := make(chan int, pieces)
		c := clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
			for k := range pieces {
				w.Write(make([]byte, unread))
				written <- k
			}
		})
		resp := get(t, c, t.Context())
		synctest.Wait()
		if n := len(written); n != 2 {
			t.Errorf("%d pieces were written before one was read", n)
		}
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != pieces*unread {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

// The end of one side is the end of the other.
func TestEnds(t *testing.T) {
	gone := errors.New("enough")
	for _, c := range []struct {
		name string
		end  func(resp *http.Response, client context.CancelCauseFunc, server context.CancelFunc)
		want error
	}{
		{"the client's context", func(_ *http.Response, client context.CancelCauseFunc, _ context.CancelFunc) { client(gone) }, gone},
		{"the client closes", func(resp *http.Response, _ context.CancelCauseFunc, _ context.CancelFunc) { resp.Body.Close() }, http.ErrBodyReadAfterClose},
		{"the server ends", func(_ *http.Response, _ context.CancelCauseFunc, server context.CancelFunc) { server() }, context.Canceled},
	} {
		for _, writes := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, the handler writes %v", c.name, writes), func(t *testing.T) {
				serverCtx, server := context.WithCancel(t.Context())
				defer server()
				ended := make(chan error, 1)
				s := &Server{}
				s.Serve(serverCtx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.(http.Flusher).Flush()
					//lint:ignore SA1019 Kubernetes' handlers ask for it
					notified := w.(http.CloseNotifier).CloseNotify()
					var err error
					for writes && err == nil {
						_, err = w.Write(make([]byte, unread))
					}
					<-r.Context().Done()
					<-notified
					ended <- err
				}))
				ctx, client := context.WithCancelCause(t.Context())
				defer client(nil)
				resp := get(t, &http.Client{Transport: s.Transport(nil)}, ctx)
				c.end(resp, client, server)
				if err := <-ended; writes && !errors.Is(err, c.want) {
					t.Errorf("the handler's write: %v, want %v", err, c.want)
				}
				if _, err := io.Copy(io.Discard, resp.Body); !errors.Is(err, c.want) {
					t.Errorf("read: %v, want %v", err, c.want)
				}
			})
		}
	}
}

// A request that ends before it has an answer ends with its own reason; one that nobody serves, and one whose handler panics, fail.
func TestNoAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		handler func(cancel context.CancelFunc) http.HandlerFunc
		want    string
	}{
		"given up": {func(cancel context.CancelFunc) http.HandlerFunc {
			return func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() }
		}, context.Canceled.Error()},
		"aborted": {func(context.CancelFunc) http.HandlerFunc {
			return func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
		}, "the answer to GET / broke off: unexpected EOF"},
		"panicked": {func(context.CancelFunc) http.HandlerFunc {
			return func(http.ResponseWriter, *http.Request) { panic("oh") }
		}, "the answer to GET / broke off: oh"},
		"not served": {nil, "GET /: nothing serves in this process"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s := &Server{}
			if c.handler != nil {
				s.Serve(t.Context(), c.handler(cancel))
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://host/", nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Transport(nil).RoundTrip(req); err == nil || err.Error() != c.want {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
}

// Many at a time do not meet.
func TestMany(t *testing.T) {
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	var all sync.WaitGroup
	for k := range 50 {
		all.Go(func() {
			text := strings.Repeat(fmt.Sprint(k), 1000)
			resp, err := c.Post("https://host/", "text/plain", strings.NewReader(text))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if got, err := io.ReadAll(resp.Body); err != nil || string(got) != text {
				t.Errorf("%d: %.20q, %v", k, got, err)
			}
		})
	}
	all.Wait()
}
