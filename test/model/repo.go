package model

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/source"
)

// repo is a repository in memory, and the renderer of its commits.
type repo struct {
	namespace string

	mu      sync.Mutex
	commits []*commit
	hear    map[int]func(source.Event)
	next    int
}

func newRepo(namespace string) *repo {
	return &repo{namespace: namespace, hear: map[int]func(source.Event){}}
}

// commit makes objects the newest commit and tells everybody who follows.
func (r *repo) commit(objects Objects, broken bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.commits = append(r.commits, &commit{commitName(r.namespace, len(r.commits)), objects, broken})
	e := source.Event{Snapshot: r.head(), New: true}
	for _, hear := range r.hear {
		go hear(e)
	}
}

// number of a commit, which unlike its name is the same in every namespace; -1 of none.
func (r *repo) number(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, c := range r.commits {
		if c.name == name {
			return n
		}
	}
	return -1
}

func (r *repo) newest() *commit {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.commits) == 0 {
		return &commit{}
	}
	return r.commits[len(r.commits)-1]
}

func (r *repo) head() source.Snapshot {
	c := r.commits[len(r.commits)-1]
	return source.Snapshot{Repo: "model", Ref: "main", Commit: c.name, FS: c}
}

func (r *repo) Subscribe(_ source.Spec, _ time.Duration, hear func(source.Event)) (func(), error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := r.next
	r.next++
	r.hear[id] = hear
	if len(r.commits) > 0 {
		go hear(source.Event{Snapshot: r.head(), New: true})
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.hear, id)
	}, nil
}

func (r *repo) Snapshot(context.Context, source.Spec) (source.Snapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.commits) == 0 {
		return source.Snapshot{}, errors.New("the repository is empty")
	}
	return r.head(), nil
}

func (r *repo) At(_ source.Spec, name string) (source.Snapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.commits {
		if c.name == name {
			return source.Snapshot{Repo: "model", Ref: "main", Commit: c.name, FS: c}, nil
		}
	}
	return source.Snapshot{}, fmt.Errorf("there is no commit %s", name)
}

// Render tells the objects of a commit.
func (r *repo) Render(_ context.Context, req render.Request) (*render.Result, error) {
	name, err := fs.ReadFile(req.FS, nameFile)
	if err != nil {
		return nil, err
	}
	s, err := r.At(source.Spec{}, string(name))
	if err != nil {
		return nil, err
	}
	c := s.FS.(*commit)
	if c.broken {
		return nil, errors.New("a.yaml:1: it is no YAML")
	}
	out := &render.Result{}
	for _, key := range c.keys() {
		out.Objects = append(out.Objects, render.Object{Object: objectOf(key, c.objects[key]), Origin: key + ".yaml"})
	}
	return out, nil
}

// lastGood are the objects of the newest commit in which nothing is refused, invalid or never ready.
func (r *repo) lastGood() Objects {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range slices.Backward(r.commits) {
		if !c.broken && c.good() {
			return c.objects
		}
	}
	return nil
}

// clone is a repository of the same commits that nobody follows.
func (r *repo) clone() *repo {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := newRepo(r.namespace)
	c.commits = append(c.commits, r.commits...)
	return c
}
