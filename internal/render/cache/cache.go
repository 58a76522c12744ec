// Package cache keeps what was rendered, across commits, Applications and restarts: the same options over files that look the
// same wherever the render looked have the same result. Charts may call clocks and random functions, so this is not only
// faster than to render again: it is what keeps a restart from making a new revision.
//
// Results hold Secrets. They lie sealed in a folder that only this user can read, each in a file named by its options, its
// content and the revision of its release; a file that is torn or changed is no answer, and is removed.
package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/gitopsd/gitopsd/internal/durable"
	"github.com/gitopsd/gitopsd/internal/render"
)

// format is part of every name: results of another format, or of a renderer that is to render everything anew, are not found.
// A new version of gitopsd does not change it by itself, so an upgrade makes no new revisions.
const format = 1

// eachKey bounds how many results are kept for the same options: of branches and reverts.
const eachKey = 8

// Renderer renders what is not kept.
type Renderer interface {
	Render(ctx context.Context, req render.Request) (*render.Result, error)
}

// Box seals results and names them; package intent has one.
type Box interface {
	Seal(content []byte, name string) []byte
	Open(sealed []byte, name string) ([]byte, error)
	Name(content []byte) string
}

// Config is what a Cache needs to know.
type Config struct {
	Dir   string // its own; made when missing
	Box   Box
	Bytes int64          // of all files; 0: 512 MiB. The least recently used go first.
	Seen  func(hit bool) // called for each request; may be nil
	Log   *slog.Logger   // nil: silent
	// ReadOnly is for who looks beside the process that keeps: nothing is written, removed or touched.
	ReadOnly bool
}

// Cache is a Renderer that renders each input once. It is safe for concurrent use.
type Cache struct {
	cfg  Config
	next Renderer

	mu    sync.Mutex
	keys  map[string][]*entry // newest last
	bytes int64
}

// entry is one file.
type entry struct {
	key, name string
	revision  int64 // of the release, where the result depends on it
	size      int64
	used      time.Time
}

func (e *entry) path() string { return e.key + "." + e.name }

// Open finds what is kept in a folder. Next renders the rest.
func Open(cfg Config, next Renderer) (*Cache, error) {
	if cfg.Bytes <= 0 {
		cfg.Bytes = 512 << 20
	}
	if cfg.Seen == nil {
		cfg.Seen = func(bool) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if !cfg.ReadOnly {
		if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("make folder of rendered objects: %w", err)
		}
	}
	c := &Cache{cfg: cfg, next: next, keys: map[string][]*entry{}}
	files, err := os.ReadDir(cfg.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read folder of rendered objects: %w", err)
	}
	for _, file := range files {
		e, ok := found(file)
		if !ok {
			if !cfg.ReadOnly {
				_ = os.RemoveAll(filepath.Join(cfg.Dir, file.Name())) // half written, when a process before this one died
			}
			continue
		}
		c.keys[e.key] = append(c.keys[e.key], e)
		c.bytes += e.size
	}
	if cfg.ReadOnly {
		return c, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.keys {
		c.shrinkKey(key)
	}
	c.shrink()
	return c, nil
}

// found is the entry that a file of the folder is.
func found(file fs.DirEntry) (*entry, bool) {
	info, err := file.Info()
	key, name, cut := strings.Cut(file.Name(), ".")
	hash, number, numbered := strings.Cut(name, "-")
	revision, numberErr := strconv.ParseInt(number, 10, 64)
	if err != nil || !info.Mode().IsRegular() || !cut || !numbered || len(key) != 64 || len(hash) != 64 || numberErr != nil {
		return nil, false
	}
	return &entry{key: key, name: name, revision: revision, size: info.Size(), used: info.ModTime()}, true
}

// Render returns what is kept for the request, or renders it and keeps that.
func (c *Cache) Render(ctx context.Context, req render.Request) (*render.Result, error) {
	keys, err := c.keysOf(req)
	if err != nil {
		return c.next.Render(ctx, req)
	}
	result := c.earlier(keys, req)
	if result == nil {
		result = c.current(ctx, keys, req)
	}
	if result != nil {
		c.cfg.Seen(true)
		return result, nil
	}
	c.cfg.Seen(false)
	if result, err = c.next.Render(ctx, req); err != nil {
		return nil, err
	}
	if c.cfg.ReadOnly {
		return result, nil
	}
	if err := c.put(keys, result); err != nil { // what is not kept may come out otherwise after a restart
		return nil, &render.Error{Class: render.ErrInternal, Text: err.Error(), Next: "make room on the disk of the data folder"}
	}
	return result, nil
}

// keys are what a request is called.
type keys struct {
	release     string // with all that a chart sees, but for the revision of the release and the cluster
	shared      string // with what matters where no chart is rendered: Applications have it in common
	environment string // the cluster
}

func (c *Cache) keysOf(req render.Request) (keys, error) {
	options := req.Options
	environment, err := json.Marshal(options.Helm.Cluster)
	if err != nil {
		return keys{}, err
	}
	options.Helm.Revision, options.Helm.Upgrade, options.Helm.Cluster = 0, false, render.Cluster{}
	release, err := json.Marshal([]any{format, req.Scope, req.Path, req.Owner, options})
	if err != nil {
		return keys{}, err
	}
	shared, err := json.Marshal([]any{format, req.Scope, req.Path, render.Options{Kind: options.Kind, Decrypt: options.Decrypt}})
	return keys{c.cfg.Box.Name(release), c.cfg.Box.Name(shared), c.cfg.Box.Name(environment)}, err
}

// earlier returns a result of the earlier revisions that the request names, over files that look the same now. What was asked
// of the cluster, and what the cluster was like then, stay as they were: a revision that was rendered is not rendered again.
func (c *Cache) earlier(keys keys, req render.Request) *render.Result {
	for _, revision := range req.Earlier {
		fits := func(e *entry) bool { return e.revision == revision }
		if r := c.find(keys.release, fits, func(k *kept) bool { return k.Inputs.Match(req.FS) }); r != nil {
			return r
		}
	}
	return nil
}

// current returns a result as rendering now would make it: one of no chart, or one that was made for this revision in the
// same environment.
func (c *Cache) current(ctx context.Context, keys keys, req render.Request) *render.Result {
	any := func(*entry) bool { return true }
	if r := c.find(keys.shared, any, func(k *kept) bool { return k.Inputs.Match(req.FS) }); r != nil {
		return r
	}
	fits := func(e *entry) bool { return e.revision == req.Helm.Revision }
	return c.find(keys.release, fits, func(k *kept) bool {
		return k.Environment == keys.environment && k.Inputs.Match(req.FS) && k.Inputs.MatchAnswers(ctx, req.Lookup)
	})
}

// find returns the newest result of a key that fits and holds.
func (c *Cache) find(key string, fits func(*entry) bool, holds func(*kept) bool) *render.Result {
	c.mu.Lock()
	list := slices.Clone(c.keys[key])
	c.mu.Unlock()
	slices.SortFunc(list, older)
	for _, e := range slices.Backward(list) {
		if !fits(e) {
			continue
		}
		k, err := c.read(e)
		if err != nil {
			c.drop(e)
			c.cfg.Log.Warn("a kept rendering cannot be read, and is made anew", "err", err)
			continue
		}
		if !holds(k) {
			continue
		}
		if r, err := k.result(); err == nil {
			c.touch(e)
			return r
		}
	}
	return nil
}

// kept is a Result as it lies in a file.
type kept struct {
	Kind        render.Kind
	Revision    int64  `json:",omitempty"`
	Environment string `json:",omitempty"`
	Inputs      render.Inputs
	Objects     []keptObject
	Release     *render.Release `json:",omitempty"`
	Charts      bool            `json:",omitempty"`
}

type keptObject struct {
	YAML   string
	JSON   json.RawMessage
	Origin string
	Hooks  []string `json:",omitempty"`
}

func (c *Cache) read(e *entry) (*kept, error) {
	sealed, err := os.ReadFile(filepath.Join(c.cfg.Dir, e.path()))
	if err != nil {
		return nil, fmt.Errorf("read rendered objects: %w", err)
	}
	content, err := c.cfg.Box.Open(sealed, e.path())
	if err != nil {
		return nil, err
	}
	k := &kept{}
	if err := json.Unmarshal(content, k); err != nil {
		return nil, fmt.Errorf("decode rendered objects: %w", err)
	}
	return k, nil
}

func (k *kept) result() (*render.Result, error) {
	r := &render.Result{Kind: k.Kind, Revision: k.Revision, Inputs: k.Inputs, Release: k.Release, Charts: k.Charts}
	for _, o := range k.Objects {
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(o.JSON); err != nil {
			return nil, fmt.Errorf("decode a rendered object: %w", err)
		}
		r.Objects = append(r.Objects, render.Object{YAML: []byte(o.YAML), Object: object, Origin: o.Origin, Hooks: o.Hooks})
	}
	return r, nil
}

// put keeps a result. What does not fit into a quarter of the cache is too large to push others out.
func (c *Cache) put(keys keys, r *render.Result) error {
	e, k := &entry{key: keys.shared, used: time.Now()}, &kept{}
	if r.Charts {
		e.key, e.revision, k.Environment = keys.release, r.Revision, keys.environment
	}
	content, err := k.encode(r)
	if err != nil {
		return err
	}
	e.name = c.cfg.Box.Name(content) + "-" + strconv.FormatInt(e.revision, 10)
	sealed := c.cfg.Box.Seal(content, e.path())
	if e.size = int64(len(sealed)); e.size > c.cfg.Bytes/4 {
		c.cfg.Log.Warn("rendered objects are too large to be kept: a restart renders them again", "bytes", e.size)
		return nil
	}
	if err := durable.WriteFile(filepath.Join(c.cfg.Dir, e.path()), sealed, 0o600); err != nil {
		return fmt.Errorf("keep rendered objects: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(func(other *entry) bool { return other.path() == e.path() }, e.key) // it is the same file
	c.keys[e.key] = append(c.keys[e.key], e)
	c.bytes += e.size
	c.shrinkKey(e.key)
	c.shrink()
	return nil
}

func (k *kept) encode(r *render.Result) ([]byte, error) {
	k.Kind, k.Revision, k.Inputs, k.Release, k.Charts = r.Kind, r.Revision, r.Inputs, r.Release, r.Charts
	for _, o := range r.Objects {
		content, err := o.Object.MarshalJSON()
		if err != nil {
			return nil, fmt.Errorf("keep %s: %w", render.Name(o.Object), err)
		}
		k.Objects = append(k.Objects, keptObject{string(o.YAML), bytes.TrimSpace(content), o.Origin, o.Hooks})
	}
	content, err := json.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("keep rendered objects: %w", err)
	}
	return content, nil
}

// touch notes that an entry was used, also for the next process.
func (c *Cache) touch(e *entry) {
	if c.cfg.ReadOnly {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e.used = time.Now()
	_ = os.Chtimes(filepath.Join(c.cfg.Dir, e.path()), e.used, e.used) // only the order of going depends on it
}

// drop removes an entry that is no answer.
func (c *Cache) drop(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.discard(e)
}

// discard removes an entry and its file. The caller holds the lock.
func (c *Cache) discard(e *entry) {
	if c.remove(func(other *entry) bool { return other == e }, e.key) == 0 {
		return
	}
	if c.cfg.ReadOnly {
		return
	}
	err := os.Remove(filepath.Join(c.cfg.Dir, e.path()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.cfg.Log.Warn("a kept rendering could not be removed", "err", err)
	}
}

// remove takes entries off the books. The caller holds the lock.
func (c *Cache) remove(which func(*entry) bool, key string) (removed int) {
	c.keys[key] = slices.DeleteFunc(c.keys[key], func(e *entry) bool {
		if !which(e) {
			return false
		}
		removed++
		c.bytes -= e.size
		return true
	})
	if len(c.keys[key]) == 0 {
		delete(c.keys, key)
	}
	return removed
}

// shrinkKey removes what is too much of one key. The caller holds the lock.
func (c *Cache) shrinkKey(key string) {
	byUse := slices.SortedFunc(slices.Values(c.keys[key]), older)
	for _, e := range byUse[:max(0, len(byUse)-eachKey)] {
		c.discard(e)
	}
}

// shrink removes what is too much of all. The caller holds the lock.
func (c *Cache) shrink() {
	if c.bytes <= c.cfg.Bytes {
		return
	}
	var all []*entry
	for _, list := range c.keys {
		all = append(all, list...)
	}
	slices.SortFunc(all, older)
	for _, e := range all {
		if c.bytes <= c.cfg.Bytes {
			return
		}
		c.discard(e)
	}
}

func older(a, b *entry) int { return a.used.Compare(b.used) }
