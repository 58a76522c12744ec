package pipeline

import (
	"sync"

	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/source"
	"k8s.io/apimachinery/pkg/types"
)

// readers knows what each Application read of its repository, so that a commit is looked at by those whom it concerns and
// costs the others a few lookups. What is not certain is looked at.
type readers struct {
	mu   sync.Mutex
	of   map[types.NamespacedName]reading
	last difference // one commit is told to many Applications in a row
}

// reading is what an Application read, and up to which commit nothing of it has changed since.
type reading struct {
	repo, commit string
	paths        map[string]bool
}

type difference struct {
	repo, from, to string
	paths          map[string]bool
	certain        bool
}

func newReaders() *readers { return &readers{of: map[types.NamespacedName]reading{}} }

// note says what was read of a snapshot, and looked for in vain. What lies behind a symbolic link changes without its own
// path changing: who reads that looks at every commit.
func (r *readers) note(key types.NamespacedName, s source.Snapshot, inputs render.Inputs) {
	paths := make(map[string]bool, len(inputs))
	for p := range inputs {
		if !render.IsPath(p) {
			continue // asked of the cluster
		}
		if _, fetched := render.ParseChartNeed(p); fetched {
			continue // what is asked for changes with the file that asks
		}
		if !s.Direct(p) {
			r.drop(key)
			return
		}
		paths[p] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of[key] = reading{s.Repo, s.Commit, paths}
}

func (r *readers) drop(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.of, key)
}

// passOver says that nothing which the Application read differs between two commits.
func (r *readers) passOver(key types.NamespacedName, from, to source.Snapshot) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	read, ok := r.of[key]
	if !ok || len(read.paths) == 0 || read.repo != to.Repo || read.commit != from.Commit {
		return false
	}
	d := r.between(from, to)
	if !d.certain || meet(d.paths, read.paths) {
		return false
	}
	read.commit = to.Commit
	r.of[key] = read
	return true
}

func (r *readers) between(from, to source.Snapshot) difference {
	if d := r.last; d.repo == to.Repo && d.from == from.Commit && d.to == to.Commit {
		return d
	}
	paths, certain := source.Changed(from, to)
	d := difference{to.Repo, from.Commit, to.Commit, make(map[string]bool, len(paths)), certain}
	for _, p := range paths {
		d.paths[p] = true
	}
	r.last = d
	return d
}

// meet says whether two sets have anything in common.
func meet(a, b map[string]bool) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	for p := range a {
		if b[p] {
			return true
		}
	}
	return false
}
