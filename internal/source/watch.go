package source

import (
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// A watcher tells when the refs of a local repository may have changed. Git renames refs into place, makes and
// removes folders for nested ones, and moves them to packed-refs: so folders are watched and not files. It is a
// hint only; where it cannot be had, or misses something, polling remains.
type watcher struct {
	path    string
	notify  *fsnotify.Watcher
	watched map[string]bool
	change  chan struct{}
}

// watcher returns one for a local repository, and for others one that stays silent.
func (r *remote) watcher() *watcher {
	if r.addr.scheme != "file" {
		return &watcher{}
	}
	n, err := fsnotify.NewWatcher()
	if err != nil {
		r.store.cfg.Logger.Warn("watch repository: polling only", "repo", r.addr.String(), "err", err)
		return &watcher{}
	}
	w := &watcher{path: r.addr.path, notify: n, watched: map[string]bool{}, change: make(chan struct{}, 1)}
	r.store.loops.Go(w.run)
	return w
}

// changed is ready after something happened. A nil channel never is.
func (w *watcher) changed() <-chan struct{} { return w.change }

func (w *watcher) close() {
	if w.notify != nil {
		w.notify.Close()
	}
}

// run passes on that something happened to the refs; how often does not matter.
func (w *watcher) run() {
	events, errors := w.notify.Events, w.notify.Errors
	for events != nil || errors != nil {
		select {
		case e, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			if !matters(e) {
				continue
			}
		case _, ok := <-errors: // an overflow: something was missed
			if !ok {
				errors = nil
				continue
			}
		}
		select {
		case w.change <- struct{}{}:
		default:
		}
	}
}

// matters leaves out what happens in a repository without a ref changing: locks, the index, logs, objects.
func matters(e fsnotify.Event) bool {
	name := filepath.Base(e.Name)
	if strings.HasSuffix(name, ".lock") || e.Op == fsnotify.Chmod {
		return false
	}
	inRefs := strings.Contains(e.Name, string(filepath.Separator)+"refs")
	return inRefs || name == "HEAD" || name == "packed-refs" || name == ".git" || name == "refs"
}

// refresh watches the folders that are there now. Folders that went are forgotten by the kernel itself.
func (w *watcher) refresh() {
	if w.notify == nil {
		return
	}
	now := map[string]bool{}
	dot, common := gitFolders(w.path)
	for _, dir := range []string{w.path, dot, common} {
		now[dir] = true
		_ = filepath.WalkDir(filepath.Join(dir, "refs"), func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				now[p] = true
			}
			return nil
		})
	}
	for p := range now {
		_ = w.notify.Add(p) // again and again: a folder may have been replaced by another of its name
	}
	for p := range w.watched {
		if !now[p] {
			_ = w.notify.Remove(p)
		}
	}
	w.watched = now
}
