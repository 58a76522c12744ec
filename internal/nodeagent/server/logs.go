package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"

	"github.com/gitopsd/gitopsd/internal/nodeagent/cri"
	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
	"github.com/gitopsd/gitopsd/internal/nodeagent/podspec"
)

func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("container")
	pod, seen, ok := s.Pods.Find(r.PathValue("namespace"), r.PathValue("pod"))
	if !ok {
		http.Error(w, fmt.Sprintf("pod %q does not exist", r.PathValue("pod")), http.StatusNotFound)
		return
	}
	q := r.URL.Query()
	opts, err := logOptions(q.Get, time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c, err := choose(pod, seen, name, q.Get("previous") == "true")
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	out := &flusher{w: w}
	var stdout, stderr io.Writer = out, out
	switch q.Get("stream") {
	case v1.LogStreamStdout:
		stderr = io.Discard
	case v1.LogStreamStderr:
		stdout = io.Discard
	}
	w.Header().Set("Content-Type", "text/plain")
	path := filepath.Join(s.LogDir(pod), podspec.LogPath(c.Name, c.Attempt))
	if err := logs.ReadLogs(r.Context(), path, cri.RawID(c.ID), opts, statusOnly{RuntimeService: nil, client: s.CRI}, stdout, stderr); err != nil {
		if !out.wrote {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
		return
	}
	out.flush()
}

// choose finds the container whose log is asked for, or says in kubelet's words why there is none.
func choose(pod *v1.Pod, seen lifecycle.Runtime, name string, previous bool) (*lifecycle.Container, error) {
	var found []*lifecycle.Container
	for i := range seen.Containers {
		if c := &seen.Containers[i]; c.Name == name && c.State != lifecycle.Created {
			found = append(found, c)
		}
	}
	if previous {
		for _, c := range found {
			if c.State == lifecycle.Exited && (len(found) > 1 && c != found[0] || waits(pod, name)) {
				return c, nil
			}
		}
		return nil, fmt.Errorf("previous terminated container %q in pod %q not found", name, pod.Name)
	}
	if len(found) > 0 {
		return found[0], nil
	}
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for _, st := range list {
			if st.Name != name || st.State.Waiting == nil {
				continue
			}
			switch reason := st.State.Waiting.Reason; reason {
			case lifecycle.ReasonErrImagePull:
				return nil, fmt.Errorf("container %q in pod %q is waiting to start: image can't be pulled", name, pod.Name)
			case lifecycle.ReasonImagePullBackOff:
				return nil, fmt.Errorf("container %q in pod %q is waiting to start: trying and failing to pull image", name, pod.Name)
			default:
				return nil, fmt.Errorf("container %q in pod %q is waiting to start: %s", name, pod.Name, reason)
			}
		}
	}
	return nil, fmt.Errorf("container %q in pod %q is not available", name, pod.Name)
}

// waits says that the container's newest attempt is over and another one is to come: then that one is the previous.
func waits(pod *v1.Pod, name string) bool {
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for _, st := range list {
			if st.Name == name {
				return st.State.Waiting != nil
			}
		}
	}
	return false
}

// logOptions reads the query of a logs request.
func logOptions(get func(string) string, now time.Time) (*logs.LogOptions, error) {
	o := &logs.LogOptions{Follow: get("follow") == "true", Timestamp: get("timestamps") == "true"}
	for key, to := range map[string]**int64{"tailLines": &o.TailLines, "limitBytes": &o.LimitBytes} {
		if get(key) == "" {
			continue
		}
		n, err := strconv.ParseInt(get(key), 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%s must be a number that is not negative", key)
		}
		*to = &n
	}
	if v := get("sinceSeconds"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 1 {
			return nil, errors.New("sinceSeconds must be a positive number")
		}
		o.Since = now.Add(-time.Duration(n) * time.Second)
	}
	if v := get("sinceTime"); v != "" {
		t, err := time.Parse(time.RFC3339, v)
		if err != nil {
			return nil, errors.New("sinceTime must be a time of RFC 3339")
		}
		o.Since = t
	}
	return o, nil
}

// flusher sends every line at once.
type flusher struct {
	w     http.ResponseWriter
	wrote bool
}

func (f *flusher) Write(b []byte) (int, error) {
	f.wrote = true
	n, err := f.w.Write(b)
	f.flush()
	return n, err
}

func (f *flusher) flush() { _ = http.NewResponseController(f.w).Flush() }

// statusOnly is as much of a runtime as the log reader asks for.
type statusOnly struct {
	internalapi.RuntimeService
	client *cri.Client
}

// ContainerStatus tells the reader whether more can come.
func (s statusOnly) ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	return s.client.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: verbose})
}
