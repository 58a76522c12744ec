package worker

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/render/wire"
)

// remoteFS is the repository as the parent shows it. The repository does not change during a job, so every
// question is asked once.
type remoteFS struct {
	server  *server
	replies map[wire.Question]answer
}

type answer struct {
	wire.Reply
	body []byte
}

var (
	_ fs.ReadDirFS  = (*remoteFS)(nil)
	_ fs.ReadFileFS = (*remoteFS)(nil)
	_ fs.StatFS     = (*remoteFS)(nil)
	_ fs.ReadLinkFS = (*remoteFS)(nil)
)

// errNoFiles unwinds a job when the parent cannot be asked any more.
type errNoFiles struct{ error }

func (r *remoteFS) ask(op wire.Op, name string) (answer, error) {
	if !fs.ValidPath(name) {
		return answer{}, &fs.PathError{Op: string(op), Path: name, Err: fs.ErrInvalid}
	}
	a, err := r.once(wire.Question{Op: op, Path: name})
	if err != nil {
		return a, &fs.PathError{Op: string(op), Path: name, Err: err}
	}
	switch a.Error {
	case "":
		return a, nil
	case wire.Absent:
		return a, &fs.PathError{Op: string(op), Path: name, Err: fs.ErrNotExist}
	}
	return a, &fs.PathError{Op: string(op), Path: name, Err: errors.New(a.Error)}
}

// once asks a question, or remembers its answer.
func (r *remoteFS) once(q wire.Question) (answer, error) {
	if a, ok := r.replies[q]; ok {
		return a, nil
	}
	a, err := r.server.question(q)
	if err == nil {
		r.replies[q] = a
	}
	return a, err
}

// lookup asks about the cluster. Within one render the answer stays the same.
func (r *remoteFS) lookup(q render.LookupQuestion) ([]byte, error) {
	a, err := r.once(wire.Question{Op: wire.Lookup, Cluster: wire.Subject(q)})
	switch {
	case err != nil:
		return nil, err
	case a.Error == wire.Absent:
		return nil, nil
	case a.Error != "":
		return nil, errors.New(a.Error)
	}
	return a.body, nil
}

func (s *server) question(q wire.Question) (answer, error) {
	if err := s.conn.Send(wire.Ask, q); err != nil {
		return answer{}, errNoFiles{err}
	}
	f := <-s.frames
	if f.Type != wire.Answer {
		return answer{}, errNoFiles{fmt.Errorf("%w: %c instead of an answer", wire.ErrFrame, f.Type)}
	}
	a := answer{body: f.Body}
	if err := f.Decode(&a.Reply); err != nil {
		return answer{}, errNoFiles{err}
	}
	return a, nil
}

func (r *remoteFS) info(op wire.Op, name string) (fs.FileInfo, error) {
	a, err := r.ask(op, name)
	if err != nil {
		return nil, err
	}
	if a.Info == nil {
		return nil, &fs.PathError{Op: string(op), Path: name, Err: wire.ErrFrame}
	}
	return info{path.Base(name), *a.Info}, nil
}

func (r *remoteFS) Stat(name string) (fs.FileInfo, error)  { return r.info(wire.Stat, name) }
func (r *remoteFS) Lstat(name string) (fs.FileInfo, error) { return r.info(wire.Lstat, name) }

func (r *remoteFS) ReadFile(name string) ([]byte, error) {
	a, err := r.ask(wire.ReadFile, name)
	return bytes.Clone(a.body), err
}

func (r *remoteFS) ReadLink(name string) (string, error) {
	a, err := r.ask(wire.ReadLink, name)
	return a.Target, err
}

func (r *remoteFS) ReadDir(name string) ([]fs.DirEntry, error) {
	a, err := r.ask(wire.ReadDir, name)
	if err != nil {
		return nil, err
	}
	entries := make([]fs.DirEntry, len(a.Entries))
	for i, e := range a.Entries {
		entries[i] = entry{r, name, e}
	}
	return entries, nil
}

func (r *remoteFS) Open(name string) (fs.File, error) {
	i, err := r.Stat(name)
	if err != nil {
		return nil, err
	}
	if i.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("folders are listed and not opened")}
	}
	data, err := r.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return &file{bytes.NewReader(data), i}, nil
}

type file struct {
	*bytes.Reader
	i fs.FileInfo
}

func (f *file) Stat() (fs.FileInfo, error) { return f.i, nil }
func (f *file) Close() error               { return nil }

type info struct {
	name string
	wire.Info
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.Info.Size }
func (i info) Mode() fs.FileMode  { return fs.FileMode(i.Info.Mode) }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.Mode().IsDir() }
func (i info) Sys() any           { return nil }

type entry struct {
	r   *remoteFS
	dir string
	e   wire.Entry
}

func (e entry) Name() string               { return e.e.Name }
func (e entry) IsDir() bool                { return e.Type().IsDir() }
func (e entry) Type() fs.FileMode          { return fs.FileMode(e.e.Mode).Type() }
func (e entry) Info() (fs.FileInfo, error) { return e.r.Lstat(path.Join(e.dir, e.e.Name)) }
