package fakeapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
)

// stream is the body of a watch's answer. It is made as it is read.
type stream struct {
	s         *Server
	k         *kind
	namespace string
	selector  labels.Selector
	ctx       context.Context
	cancel    context.CancelFunc
	after     uint64 // the version of what was told last
	dropped   chan struct{}
	ready     bytes.Buffer
}

// watch begins a watch: after the version that the request names, or with all that is there.
func (s *Server) watch(ctx context.Context, k *kind, r Request) (io.ReadCloser, error) {
	selector, err := selectorOf(r)
	if err != nil {
		return nil, err
	}
	life := time.Hour
	if t, err := strconv.Atoi(r.Query.Get("timeoutSeconds")); err == nil && t > 0 {
		life = time.Duration(t) * time.Second
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &stream{s: s, k: k, namespace: r.Namespace, selector: selector, after: s.version, dropped: s.dropped}
	version := r.Query.Get("resourceVersion")
	switch {
	case r.Query.Get("sendInitialEvents") == "true":
		w.initial(r.Query.Get("allowWatchBookmarks") == "true")
	case version == "" || version == "0":
		w.initial(false)
	default:
		if w.after, err = strconv.ParseUint(version, 10, 64); err != nil {
			return nil, errors.NewBadRequest("invalid resource version " + version)
		}
		if w.after < s.oldest {
			gone, err := json.Marshal(errors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", w.after, s.oldest)).Status())
			if err != nil {
				return nil, err
			}
			w.tell("ERROR", gone)
			return io.NopCloser(&w.ready), nil
		}
	}
	w.ctx, w.cancel = context.WithTimeout(ctx, life)
	return w, nil
}

// initial tells what is there as if it had just come.
func (w *stream) initial(bookmark bool) {
	var keys []types.NamespacedName
	for key := range w.s.objects[w.k] {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	for _, key := range keys {
		if e := w.s.objects[w.k][key]; w.namespace == "" || key.Namespace == w.namespace {
			w.event(event{k: w.k, namespace: key.Namespace, is: labelsOf(e.obj), raw: e.raw})
		}
	}
	if bookmark {
		w.tell("BOOKMARK", fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,"metadata":{"resourceVersion":"%d","annotations":{%q:"true"}}}`,
			w.k.gvk.Kind, w.k.gvk.GroupVersion(), w.s.version, metav1.InitialEventsAnnotationKey))
	}
}

func (w *stream) tell(what string, raw []byte) {
	fmt.Fprintf(&w.ready, `{"type":%q,"object":%s}`+"\n", what, raw)
}

// event tells a change as one who sees only what is selected sees it.
func (w *stream) event(e event) {
	if e.k != w.k || w.namespace != "" && w.namespace != e.namespace {
		return
	}
	was := e.was != nil && w.selector.Matches(e.was)
	is := e.is != nil && w.selector.Matches(e.is)
	switch {
	case was && is:
		w.tell("MODIFIED", e.raw)
	case is:
		w.tell("ADDED", e.raw)
	case was:
		w.tell("DELETED", e.raw)
	}
}

// Read waits until there is something to tell.
func (w *stream) Read(p []byte) (int, error) {
	for w.ready.Len() == 0 {
		w.s.mu.Lock()
		changed := w.s.changed
		for n, _ := slices.BinarySearchFunc(w.s.history, w.after+1, func(e event, v uint64) int { return int(e.version) - int(v) }); n < len(w.s.history); n++ {
			w.event(w.s.history[n])
			w.after = w.s.history[n].version
		}
		w.s.mu.Unlock()
		if w.ready.Len() > 0 {
			break
		}
		select {
		case <-changed:
		case <-w.dropped:
			return 0, io.EOF
		case <-w.ctx.Done():
			return 0, io.EOF
		}
	}
	return w.ready.Read(p)
}

// Close ends the watch.
func (w *stream) Close() error {
	w.cancel()
	return nil
}
