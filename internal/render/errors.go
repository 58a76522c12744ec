package render

import (
	"errors"
	"strings"

	"github.com/gitopsd/gitopsd/internal/redact"
)

// The classes of failure, for errors.Is.
var (
	ErrInvalid  = errors.New("files cannot be rendered")       // somebody has to change the repository or the Application
	ErrRefused  = errors.New("refused")                        // files ask for something a render may not do
	ErrLimit    = errors.New("render exceeded a limit")        // time, memory, output, files
	ErrInternal = errors.New("render worker failed")           // ours; trying again may help
	ErrFiles    = errors.New("files of the repository failed") // the fs.FS failed; its own error is wrapped
	ErrLookup   = errors.New("the cluster was not asked")      // a Lookup failed; its own error is wrapped
)

var classes = map[string]error{
	"invalid": ErrInvalid, "refused": ErrRefused, "limit": ErrLimit, "internal": ErrInternal, "files": ErrFiles, "lookup": ErrLookup,
}

// Error is every error of a render: where, what, and what to do next. Values of Secrets are not in it.
type Error struct {
	Class  error
	File   string // below the root of the repository; "" when there is no one file to blame
	Line   int    // 1 for the first; 0: not known
	Object string // "Deployment web/frontend"
	Text   string
	Next   string      // the next step, in the imperative; may be empty
	Err    error       // of the files or the cluster; only with ErrFiles and ErrLookup
	Needs  []ChartNeed // charts that the files asked for and that were not there
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			b.WriteString(":" + itoa(e.Line))
		}
		b.WriteString(": ")
	}
	if e.Object != "" {
		b.WriteString(e.Object + ": ")
	}
	if e.Text == "" {
		b.WriteString(e.Class.Error())
	} else {
		b.WriteString(e.Text)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Next != "" {
		b.WriteString("; " + e.Next)
	}
	return redact.String(b.String())
}

func (e *Error) Is(target error) bool { return target == e.Class }
func (e *Error) Unwrap() error        { return e.Err }

// ClassName and ClassOf carry a class over the pipe between worker and parent.
func ClassName(class error) string {
	for name, c := range classes {
		if c == class {
			return name
		}
	}
	return "internal"
}

// ClassOf is the inverse of ClassName.
func ClassOf(name string) error {
	if c := classes[name]; c != nil {
		return c
	}
	return ErrInternal
}
