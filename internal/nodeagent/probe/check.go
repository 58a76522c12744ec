package probe

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	kprobe "k8s.io/kubernetes/pkg/probe"
	grpcprobe "k8s.io/kubernetes/pkg/probe/grpc"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
	tcpprobe "k8s.io/kubernetes/pkg/probe/tcp"
)

// Exec runs a command in a container and returns its output and exit code.
type Exec func(ctx context.Context, id string, command []string, timeout time.Duration) (output string, code int32, err error)

// Checks returns the check that asks real containers, by the rules and the client identity of kubelet.
func Checks(exec Exec) Check {
	web, tcp, rpc := httpprobe.New(false), tcpprobe.New(), grpcprobe.New()
	return func(ctx context.Context, t Target, p *v1.Probe) (Answer, string) {
		timeout := seconds(p.TimeoutSeconds, 1)
		switch {
		case p.Exec != nil:
			return runExec(ctx, exec, t, p.Exec.Command, timeout)
		case p.HTTPGet != nil:
			req, err := httpprobe.NewRequestForHTTPGetAction(p.HTTPGet, t.Container, t.IP, "probe")
			if err != nil {
				return Unasked, err.Error()
			}
			return judge(web.Probe(req, timeout))
		case p.TCPSocket != nil:
			port, err := Port(p.TCPSocket.Port, t.Container)
			if err != nil {
				return Unasked, err.Error()
			}
			host := p.TCPSocket.Host
			if host == "" {
				host = t.IP
			}
			return judge(tcp.Probe(host, port, timeout))
		case p.GRPC != nil:
			service := ""
			if p.GRPC.Service != nil {
				service = *p.GRPC.Service
			}
			return judge(rpc.Probe(t.IP, service, int(p.GRPC.Port), timeout))
		}
		return Unasked, "missing probe handler"
	}
}

func judge(r kprobe.Result, text string, err error) (Answer, string) {
	switch {
	case err != nil:
		return Unasked, err.Error()
	case r == kprobe.Success || r == kprobe.Warning:
		return Well, text
	}
	return Unwell, text
}

// runExec asks by a command. A runtime that is away, or a command that cannot be started, says nothing of the container.
func runExec(ctx context.Context, exec Exec, t Target, command []string, timeout time.Duration) (Answer, string) {
	output, code, err := exec(ctx, t.ID, command, timeout)
	switch {
	case status.Code(err) == codes.DeadlineExceeded:
		return Unwell, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(command, " "), timeout)
	case err != nil:
		return Unasked, status.Convert(err).Message()
	}
	const most = 10 << 10
	output = strings.TrimRight(output[:min(len(output), most)], "\n")
	if code == 0 {
		return Well, output
	}
	return Unwell, output
}

// Port resolves a number or the name of one of the container's ports.
func Port(p intstr.IntOrString, c *v1.Container) (int, error) {
	if p.Type == intstr.Int {
		return p.IntValue(), nil
	}
	for _, cp := range c.Ports {
		if cp.Name == p.StrVal {
			return int(cp.ContainerPort), nil
		}
	}
	n, err := strconv.Atoi(p.StrVal)
	if err != nil {
		return 0, fmt.Errorf("couldn't find port %q of container %s", p.StrVal, c.Name)
	}
	return n, nil
}
