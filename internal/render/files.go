package render

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/gitopsd/gitopsd/internal/render/wire"
)

// files answers a worker's questions from the repository and remembers all of them.
type files struct {
	ctx    context.Context // of the render
	fsys   fs.FS
	lookup Lookup
	inputs Inputs
	asked  int
	looked int // questions to the cluster
	bytes  int64
	limits Limits
	failed *Error // the first file that refused to be read, other than by not being there
}

// maxNames bounds one listing, so that it fits into a frame.
const maxNames = 100_000

// answer returns the reply and the body of the answer frame. An error ends the job.
func (f *files) answer(q wire.Question) (wire.Reply, []byte, error) {
	if f.asked++; f.asked > f.limits.Questions {
		return wire.Reply{}, nil, &Error{Class: ErrLimit, Text: fmt.Sprintf("the render looked at files %d times", f.limits.Questions), Next: "split it into several Applications"}
	}
	if q.Op == wire.Lookup {
		return f.cluster(LookupQuestion(q.Cluster))
	}
	if !fs.ValidPath(q.Path) {
		return f.reply(q.Path, fmt.Errorf("%w path", fs.ErrInvalid)), nil, nil
	}
	in := f.inputs[q.Path]
	var reply wire.Reply
	var body []byte
	switch q.Op {
	case wire.Stat, wire.Lstat:
		look, field := fs.Stat, &in.Leads
		if q.Op == wire.Lstat {
			look, field = fs.Lstat, &in.Type
		}
		info, err := look(f.fsys, q.Path)
		*field = typeOf(info, err)
		if reply = f.reply(q.Path, err); err == nil {
			reply.Info = &wire.Info{Mode: uint32(info.Mode()), Size: info.Size()}
		}
	case wire.ReadFile:
		if info, err := fs.Stat(f.fsys, q.Path); err == nil && info.IsDir() { // tools try whether a folder is a file
			in.Leads = typeOf(info, err)
			reply = wire.Reply{Error: "is a directory"}
			break
		}
		data, err := fs.ReadFile(f.fsys, q.Path)
		if err == nil && f.over(len(data)) {
			return reply, nil, &Error{Class: ErrLimit, File: q.Path, Text: fmt.Sprintf("the render read more than %d MiB", f.limits.Input>>20), Next: "take large files out of the path"}
		}
		in.Content = seen(sum(data), err)
		reply, body = f.reply(q.Path, err), data
	case wire.ReadDir:
		entries, err := fs.ReadDir(f.fsys, q.Path)
		if len(entries) > maxNames {
			return reply, nil, &Error{Class: ErrLimit, File: q.Path, Text: fmt.Sprintf("the folder holds more than %d files", maxNames), Next: "put what belongs together into folders of its own"}
		}
		in.Names = seen(listing(entries), err)
		reply = f.reply(q.Path, err)
		for _, e := range entries {
			reply.Entries = append(reply.Entries, wire.Entry{Name: e.Name(), Mode: uint32(e.Type())})
		}
	case wire.ReadLink:
		target, err := fs.ReadLink(f.fsys, q.Path)
		in.Target = seen(target, err)
		reply = f.reply(q.Path, err)
		reply.Target = target
	default:
		return reply, nil, &Error{Class: ErrInternal, Text: "the worker asks what nobody can answer"}
	}
	f.inputs[q.Path] = in
	return reply, body, nil
}

// maxLookups bounds the questions to the cluster of one render.
const maxLookups = 200

// cluster answers a question about the cluster, and remembers it.
func (f *files) cluster(q LookupQuestion) (wire.Reply, []byte, error) {
	if f.looked++; f.looked > maxLookups {
		return wire.Reply{}, nil, &Error{Class: ErrLimit, Text: fmt.Sprintf("the chart calls lookup more than %d times", maxLookups), Next: "ask for lists instead of single objects, or set spec.render.helm.lookup: Empty"}
	}
	if f.lookup == nil {
		return wire.Reply{Error: wire.Absent}, nil, nil
	}
	answer, err := f.lookup(f.ctx, q)
	if f.over(len(answer)) {
		return wire.Reply{}, nil, &Error{Class: ErrLimit, Text: fmt.Sprintf("the answers to lookup are more than %d MiB", min(f.limits.Input, wire.MaxFrame)>>20), Next: "ask for single objects, or set spec.render.helm.lookup: Empty"}
	}
	f.inputs[LookupName(q)] = Input{Answer: answered(answer, err), Question: q}
	switch {
	case err != nil:
		if f.failed == nil {
			f.failed = &Error{Class: ErrLookup, Text: "lookup " + q.String() + " was not answered", Err: err}
		}
		return wire.Reply{Error: "was not answered"}, nil, nil
	case answer == nil:
		return wire.Reply{Error: wire.Absent}, nil, nil
	}
	return wire.Reply{}, answer, nil
}

func (f *files) over(n int) bool {
	f.bytes += int64(n)
	return f.bytes > f.limits.Input || n > wire.MaxFrame-4096
}

func (f *files) reply(name string, err error) wire.Reply {
	switch {
	case err == nil:
		return wire.Reply{}
	case errors.Is(err, fs.ErrNotExist):
		return wire.Reply{Error: wire.Absent}
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	if f.failed == nil {
		f.failed = &Error{Class: ErrFiles, File: name, Text: "the file cannot be read", Err: err}
	}
	return wire.Reply{Error: err.Error()}
}
