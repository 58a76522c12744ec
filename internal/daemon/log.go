package daemon

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/gitopsd/gitopsd/internal/redact"
	"gopkg.in/natefinch/lumberjack.v2"
	"k8s.io/klog/v2"
)

// Log destinations: what a person reads goes to w, one line for each sync and for what went wrong; what the Kubernetes
// components say goes to a file that is rotated. Both pass the redaction layer.
func newLogger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(redact.Handler(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})))
}

// logComponents sends klog, which all Kubernetes libraries of this process share, to <dir>/components.log.
func logComponents(dir string) (io.Closer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file := &lumberjack.Logger{Filename: filepath.Join(dir, "components.log"), MaxSize: 20, MaxBackups: 2}
	klog.SetSlogLogger(slog.New(redact.Handler(slog.NewTextHandler(file, &slog.HandlerOptions{Level: slog.LevelWarn}))))
	return file, nil
}
