// Package wire is what a render worker and its parent say to each other over two pipes: frames of bounded
// length, each with a type, a JSON head and raw bytes. The parent sends a Job; the worker asks for files, one
// question at a time, and ends with its objects and Done. Neither side believes the other: lengths are checked
// before memory is reserved, and whoever breaks the order is hung up on.
package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Type tells frames apart.
type Type byte

const (
	Hello  Type = 'H' // worker: ready; head Greeting
	Job    Type = 'J' // parent: head Task
	Ask    Type = 'Q' // worker: head Question
	Answer Type = 'A' // parent: head Reply; body the file's bytes
	Object Type = 'O' // worker: head Piece; body YAML and JSON
	Done   Type = 'D' // worker: head End
)

// MaxFrame bounds one frame. A file of a repository has to fit in.
const MaxFrame = 64 << 20

// Greeting is a worker's first word.
type Greeting struct {
	Layers []string `json:"layers"` // what of the sandbox holds
	Gaps   []string `json:"gaps"`   // what does not, and why
}

// Task is what to render.
type Task struct {
	Path    string          `json:"path"`
	Options json.RawMessage `json:"options"`
}

// Op is a question about a file.
type Op string

const (
	Stat     Op = "stat"
	Lstat    Op = "lstat"
	ReadFile Op = "read"
	ReadDir  Op = "list"
	ReadLink Op = "link"
	Lookup   Op = "lookup" // not of a file: of the cluster, as Cluster says; answered in the body, as JSON
)

// Question asks for a file of the repository, or for objects of the cluster.
type Question struct {
	Op      Op      `json:"op"`
	Path    string  `json:"path,omitempty"`
	Cluster Subject `json:"cluster,omitzero"`
}

// Subject is what of the cluster is asked for: one object, or without a name a list.
type Subject struct {
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name,omitempty"`
}

// Reply answers it. Error is "absent", or what is wrong.
type Reply struct {
	Error   string  `json:"error,omitempty"`
	Info    *Info   `json:"info,omitempty"`
	Entries []Entry `json:"entries,omitempty"`
	Target  string  `json:"target,omitempty"`
}

// Absent is the error of a path that is not there.
const Absent = "absent"

// Info is of Stat and Lstat; Mode is fs.FileMode.
type Info struct {
	Mode uint32 `json:"mode"`
	Size int64  `json:"size"`
}

// Entry is one name of a folder.
type Entry struct {
	Name string `json:"name"`
	Mode uint32 `json:"mode"`
}

// Piece announces one object; the first YAML bytes of the body are its YAML, the rest its JSON.
type Piece struct {
	Origin string   `json:"origin"`
	Hooks  []string `json:"hooks,omitempty"`
	YAML   int      `json:"yaml"`
}

// End is the last word on a job.
type End struct {
	Kind    string          `json:"kind,omitempty"`
	Error   *Failure        `json:"error,omitempty"`
	Release json.RawMessage `json:"release,omitempty"` // render.Release, of a chart
	// Charts says that a chart was rendered.
	Charts bool `json:"charts,omitempty"`
	// Tainted says that the job may have changed state that the next one would see.
	Tainted bool `json:"tainted,omitempty"`
}

// Failure is render.Error on its way.
type Failure struct {
	Class  string `json:"class"`
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Object string `json:"object,omitempty"`
	Text   string `json:"text,omitempty"`
	Next   string `json:"next,omitempty"`
}

// ErrFrame is a frame that breaks the rules.
var ErrFrame = errors.New("bad frame")

// Conn reads and writes frames. It is for one goroutine a direction.
type Conn struct {
	r *bufio.Reader
	w io.Writer
	// Max bounds what is read; 0: MaxFrame.
	Max int
}

// NewConn returns a connection over two pipes.
func NewConn(r io.Reader, w io.Writer) *Conn {
	return &Conn{r: bufio.NewReaderSize(r, 64<<10), w: w}
}

const headerLen = 9 // length of the rest, type, length of the head

// Send writes one frame.
func (c *Conn) Send(t Type, head any, body ...[]byte) error {
	h, err := json.Marshal(head)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	total := 5 + len(h)
	for _, b := range body {
		total += len(b)
	}
	if total > MaxFrame {
		return fmt.Errorf("%w: %d bytes are more than a frame may have", ErrFrame, total)
	}
	buf := make([]byte, 0, 4+total)
	buf = binary.BigEndian.AppendUint32(buf, uint32(total))
	buf = append(buf, byte(t))
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(h)))
	buf = append(buf, h...)
	for _, b := range body {
		buf = append(buf, b...)
	}
	_, err = c.w.Write(buf)
	return err
}

// Frame is one that was read.
type Frame struct {
	Type Type
	Head json.RawMessage
	Body []byte
}

// Read reads one frame. io.EOF means that the other side is gone between two frames.
func (c *Conn) Read() (Frame, error) {
	var header [headerLen]byte
	if _, err := io.ReadFull(c.r, header[:4]); err != nil {
		return Frame{}, err
	}
	limit := c.Max
	if limit == 0 {
		limit = MaxFrame
	}
	total := binary.BigEndian.Uint32(header[:4])
	if total < 5 || int64(total) > int64(limit) {
		return Frame{}, fmt.Errorf("%w: length %d", ErrFrame, total)
	}
	if _, err := io.ReadFull(c.r, header[4:]); err != nil {
		return Frame{}, unexpected(err)
	}
	head := binary.BigEndian.Uint32(header[5:])
	if head > total-5 {
		return Frame{}, fmt.Errorf("%w: head of %d bytes in a frame of %d", ErrFrame, head, total)
	}
	data := make([]byte, total-5)
	if _, err := io.ReadFull(c.r, data); err != nil {
		return Frame{}, unexpected(err)
	}
	return Frame{Type: Type(header[4]), Head: data[:head], Body: data[head:]}, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Decode reads a frame's head.
func (f Frame) Decode(into any) error {
	if err := json.Unmarshal(f.Head, into); err != nil {
		return fmt.Errorf("%w: %c: %w", ErrFrame, f.Type, err)
	}
	return nil
}
