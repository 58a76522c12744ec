package daemon

import (
	"context"
	"os"
	"runtime/debug"
	"time"
)

const (
	// gcPercent trades a little CPU for memory: the control plane's heap is mostly caches that live long. GOGC in the
	// environment wins.
	gcPercent = 40
	// settled is when the garbage of the start (OpenAPI documents, unpacked programs, first listings) is given back.
	settled = 20 * time.Second
)

// limitMemory makes the process as small as it can be without being slow.
func limitMemory(ctx context.Context) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	select {
	case <-time.After(settled):
		debug.FreeOSMemory()
	case <-ctx.Done():
	}
}
