package probe

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestChecks(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ok" || r.Header.Get("X-Who") != "me" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer web.Close()
	host, port, err := net.SplitHostPort(web.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	exec := func(_ context.Context, _ string, command []string, _ time.Duration) (string, int32, error) {
		switch command[0] {
		case "good":
			return "", 0, nil
		case "bad":
			return "why\n", 1, nil
		}
		return "", 0, errors.New("gone")
	}
	check := Checks(exec)
	target := Target{Container: &v1.Container{Name: "c", Ports: []v1.ContainerPort{{Name: "web", ContainerPort: int32(n)}}}, IP: host}
	get := func(path string) v1.ProbeHandler {
		return v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: path, Port: intstr.FromString("web"), HTTPHeaders: []v1.HTTPHeader{{Name: "X-Who", Value: "me"}}}}
	}
	for _, c := range []struct {
		handler v1.ProbeHandler
		answer  Answer
		text    string
	}{
		{get("/ok"), Well, ""},
		{get("/broken"), Unwell, "HTTP probe failed with statuscode: 503"},
		{v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromString("web")}}, Well, ""},
		{v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromString("none")}}, Unasked, `couldn't find port "none" of container c`},
		{v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"good"}}}, Well, ""},
		{v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"bad"}}}, Unwell, "why"},
		{v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"lost"}}}, Unasked, "gone"},
		{v1.ProbeHandler{}, Unasked, "missing probe handler"},
	} {
		answer, text := check(t.Context(), target, &v1.Probe{ProbeHandler: c.handler})
		if answer != c.answer || answer != Well && text != c.text {
			t.Errorf("%+v: %d %q", c.handler, answer, text)
		}
	}
}
