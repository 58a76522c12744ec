package server

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/proxy"
	translator "k8s.io/apiserver/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/gitopsd/gitopsd/internal/nodeagent/cri"
	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
)

// streamOptions are which streams a client of exec or attach wants.
type streamOptions struct{ stdin, stdout, stderr, tty bool }

func streamsOf(q url.Values) (streamOptions, error) {
	o := streamOptions{
		stdin: q.Get(v1.ExecStdinParam) == "1", stdout: q.Get(v1.ExecStdoutParam) == "1",
		stderr: q.Get(v1.ExecStderrParam) == "1", tty: q.Get(v1.ExecTTYParam) == "1",
	}
	if o.tty {
		o.stderr = false // a terminal has one output
	}
	if !o.stdin && !o.stdout && !o.stderr {
		return o, fmt.Errorf("you must specify at least 1 of stdin, stdout, stderr")
	}
	return o, nil
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	c, o, ok := s.target(w, r)
	if !ok {
		return
	}
	answer, err := s.CRI.Runtime.Exec(r.Context(), &runtimeapi.ExecRequest{
		ContainerId: cri.RawID(c.ID), Cmd: r.URL.Query()[v1.ExecCommandParam],
		Tty: o.tty, Stdin: o.stdin, Stdout: o.stdout, Stderr: o.stderr,
	})
	s.stream(w, r, answer.GetUrl(), err, &o)
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	c, o, ok := s.target(w, r)
	if !ok {
		return
	}
	answer, err := s.CRI.Runtime.Attach(r.Context(), &runtimeapi.AttachRequest{
		ContainerId: cri.RawID(c.ID), Tty: o.tty, Stdin: o.stdin, Stdout: o.stdout, Stderr: o.stderr,
	})
	s.stream(w, r, answer.GetUrl(), err, &o)
}

// target finds the running container of a request; it answers those that name none.
func (s *Server) target(w http.ResponseWriter, r *http.Request) (*lifecycle.Container, streamOptions, bool) {
	o, err := streamsOf(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil, o, false
	}
	pod, seen, ok := s.Pods.Find(r.PathValue("namespace"), r.PathValue("pod"))
	if !ok || r.PathValue("uid") != "" && r.PathValue("uid") != string(pod.UID) {
		http.Error(w, "pod does not exist", http.StatusNotFound)
		return nil, o, false
	}
	for i := range seen.Containers {
		if c := &seen.Containers[i]; c.Name == r.PathValue("container") && c.State == lifecycle.Running {
			return c, o, true
		}
	}
	http.Error(w, fmt.Sprintf("container not found (%q)", r.PathValue("container")), http.StatusNotFound)
	return nil, o, false
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	pod, seen, ok := s.Pods.Find(r.PathValue("namespace"), r.PathValue("pod"))
	if !ok || r.PathValue("uid") != "" && r.PathValue("uid") != string(pod.UID) {
		http.Error(w, "pod does not exist", http.StatusNotFound)
		return
	}
	if len(seen.Sandboxes) == 0 || !seen.Sandboxes[0].Ready {
		http.Error(w, "pod has no running sandbox", http.StatusNotFound)
		return
	}
	req := &runtimeapi.PortForwardRequest{PodSandboxId: seen.Sandboxes[0].ID}
	for _, p := range r.URL.Query()["port"] {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			http.Error(w, fmt.Sprintf("port %q is not a number", p), http.StatusBadRequest)
			return
		}
		req.Port = append(req.Port, int32(n))
	}
	answer, err := s.CRI.Runtime.PortForward(r.Context(), req)
	s.stream(w, r, answer.GetUrl(), err, nil)
}

// stream joins the client with the runtime's streaming server. Clients of the newer WebSocket protocols, which
// runtimes do not speak, are translated; o is nil for port-forwarding.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, location string, err error, o *streamOptions) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	u, err := url.Parse(location)
	if err != nil || u.Host == "" {
		http.Error(w, "runtime named no streaming address", http.StatusInternalServerError)
		return
	}
	var h http.Handler = proxy.NewUpgradeAwareHandler(u, nil, false, true, responder{})
	switch {
	case o != nil && wsstream.IsWebSocketRequestWithStreamCloseProtocol(r):
		h = translator.NewStreamTranslatorHandler(u, nil, 0, translator.Options{Stdin: o.stdin, Stdout: o.stdout, Stderr: o.stderr, Tty: o.tty})
	case o == nil && wsstream.IsWebSocketRequestWithTunnelingProtocol(r):
		h = translator.NewTunnelingHandler(h)
	}
	h.ServeHTTP(w, r)
}

// responder answers when the runtime cannot be reached.
type responder struct{}

func (responder) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), http.StatusInternalServerError)
}
