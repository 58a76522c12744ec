package cri

import (
	"bytes"
	"context"
	"io"
	"os"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Limits of Kubernetes' API documentation for terminationMessagePath and terminationMessagePolicy.
const (
	maxMessageBytes    = 4096
	maxMessageLogBytes = 2048
	maxMessageLogLines = 80
)

// terminationMessage is what an ended container left in its message file, or in its log where the policy says so.
func (c *Client) terminationMessage(ctx context.Context, s *runtimeapi.ContainerStatus) string {
	path := s.Annotations[AnnotationMessagePath]
	for _, m := range s.Mounts {
		if path != "" && m.ContainerPath == path {
			if text := readHead(m.HostPath, maxMessageBytes); text != "" {
				return text
			}
		}
	}
	fallback := v1.TerminationMessagePolicy(s.Annotations[AnnotationMessagePolicy]) == v1.TerminationMessageFallbackToLogsOnError
	if !fallback || s.ExitCode == 0 || s.LogPath == "" {
		return ""
	}
	lines, limit := int64(maxMessageLogLines), int64(maxMessageLogBytes)
	var out bytes.Buffer
	opts := &logs.LogOptions{TailLines: &lines, LimitBytes: &limit}
	if err := logs.ReadLogs(ctx, s.LogPath, "", opts, nil, &out, &out); err != nil {
		return ""
	}
	return out.String()
}

func readHead(path string, limit int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return ""
	}
	return string(b)
}

// IsNotFound says that the runtime does not have what was asked for.
func IsNotFound(err error) bool { return status.Code(err) == codes.NotFound }

// IsUnavailable says that the runtime itself is away.
func IsUnavailable(err error) bool { return status.Code(err) == codes.Unavailable }
