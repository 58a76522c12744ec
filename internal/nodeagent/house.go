package nodeagent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/gitopsd/gitopsd/internal/nodeagent/cri"
	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
	"github.com/gitopsd/gitopsd/internal/nodeagent/podlogs"
	"github.com/gitopsd/gitopsd/internal/nodeagent/podspec"
)

// How often the house is kept, and what of it.
const (
	logsEvery   = 10 * time.Second
	sweepEvery  = time.Minute
	imagesEvery = 5 * time.Minute
	keepDead    = 1 // of each container, besides the newest, for logs --previous
)

var logLimits = podlogs.Limits{Bytes: 10 << 20, Files: 5}

// keepHouse rotates logs, keeps the files in volumes fresh, and removes what is dead, gone or unused.
func (a *agent) keepHouse(ctx context.Context) error {
	tick := time.NewTicker(logsEvery)
	defer tick.Stop()
	last := map[time.Duration]time.Time{sweepEvery: time.Now(), imagesEvery: time.Now()}
	due := func(every time.Duration, now time.Time) bool {
		if now.Sub(last[every]) < every {
			return false
		}
		last[every] = now
		return true
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := time.Now()
		a.rotateLogs(ctx, now)
		if due(sweepEvery, now) {
			a.removeDead(ctx)
			a.removeLogs()
			if err := a.workers.adopt(ctx); err == nil {
				a.workers.sweep()
			}
			for _, w := range a.workers.list() {
				w.reread() // tokens grow old without an event
			}
		}
		if due(imagesEvery, now) {
			n, err := a.images.Collect(ctx)
			if err != nil && ctx.Err() == nil {
				a.cfg.Log.Warn("unused images are not removed", "error", err)
			} else if n > 0 {
				a.cfg.Log.Info("unused images removed", "images", n)
			}
		}
	}
}

func (a *agent) rotateLogs(ctx context.Context, now time.Time) {
	for _, w := range a.workers.list() {
		pod, seen := w.snapshot()
		for _, c := range seen.Containers {
			if c.State != lifecycle.Running {
				continue
			}
			path := filepath.Join(a.node.LogDir(pod), podspec.LogPath(c.Name, c.Attempt))
			err := logLimits.Rotate(path, now, func() error {
				_, err := a.cri.Runtime.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: cri.RawID(c.ID)})
				return err
			})
			if err != nil && ctx.Err() == nil {
				w.log.Warn("log is not rotated", "container", c.Name, "error", err)
			}
		}
	}
}

// removeDead removes dead containers but the newest few of each name, and sandboxes that nothing is in any more.
func (a *agent) removeDead(ctx context.Context) {
	for _, w := range a.workers.list() {
		pod, seen := w.snapshot()
		removed := false
		for _, c := range superfluous(seen) {
			if err := a.removeContainer(ctx, c.ID); err != nil {
				w.log.Debug("dead container is not removed", "error", err)
				continue
			}
			removed = true
			path := filepath.Join(a.node.LogDir(pod), podspec.LogPath(c.Name, c.Attempt))
			logs, _ := filepath.Glob(path + "*")
			for _, l := range logs {
				_ = os.Remove(l)
			}
		}
		for _, id := range emptySandboxes(seen) {
			removed = a.removeSandbox(ctx, id) == nil || removed
		}
		if removed {
			w.look()
		}
	}
}

// superfluous are the dead containers that nobody needs. It is pure.
func superfluous(seen lifecycle.Runtime) []lifecycle.Container {
	count := map[string]int{}
	var out []lifecycle.Container
	for _, c := range seen.Containers { // newest first
		count[c.Name]++
		if count[c.Name] > 1+keepDead && c.State == lifecycle.Exited {
			out = append(out, c)
		}
	}
	return out
}

// emptySandboxes are those that are over and hold no container. It is pure.
func emptySandboxes(seen lifecycle.Runtime) []string {
	used := map[string]bool{}
	for _, c := range seen.Containers {
		used[c.SandboxID] = true
	}
	var out []string
	for i, s := range seen.Sandboxes {
		if i > 0 && !s.Ready && !used[s.ID] {
			out = append(out, s.ID)
		}
	}
	return out
}

// removeLogs removes the log folders of pods that nobody knows.
func (a *agent) removeLogs() {
	entries, err := os.ReadDir(a.cfg.PodLogsDir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			a.cfg.Log.Warn("log folders cannot be listed", "error", err)
		}
		return
	}
	for _, e := range entries {
		i := strings.LastIndex(e.Name(), "_")
		if !e.IsDir() || i < 0 || a.workers.get(types.UID(e.Name()[i+1:])) != nil {
			continue
		}
		if err := os.RemoveAll(filepath.Join(a.cfg.PodLogsDir, e.Name())); err != nil {
			a.cfg.Log.Warn("logs of a gone pod are not removed", "error", err)
		}
	}
}

// snapshot is the pod and what was observed of it last.
func (w *worker) snapshot() (pod *v1.Pod, seen lifecycle.Runtime) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod, w.seen
}
