package source

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"unicode"

	"github.com/gitopsd/gitopsd/internal/redact"
)

// The classes of failure, for errors.Is.
var (
	ErrAuth        = errors.New("access refused")        // credentials are missing or wrong
	ErrHostKey     = errors.New("host key not trusted")  // unknown or changed SSH host key, or TLS certificate
	ErrNotFound    = errors.New("repository not found")  //
	ErrRefNotFound = errors.New("ref not found")         // the repository is there, the branch, tag or commit is not
	ErrEmpty       = errors.New("repository is empty")   // no commit yet
	ErrUnreachable = errors.New("remote is unreachable") // no connection, or it broke
	ErrTimeout     = errors.New("remote is too slow")    //
	ErrTooLarge    = errors.New("repository too large")  // a limit of Limits
	ErrBroken      = errors.New("bad answer")            // what came is not what Git says
	ErrRefused     = errors.New("refused")               // a URL, ref or tree this package will not touch
	ErrStorage     = errors.New("mirror not usable")     // the mirror's disk
)

// Error is every error of this package: a class, what happened to which repository, and what to do next.
// Its text holds no credential.
type Error struct {
	Class error
	Repo  string // without credentials; "" when the URL itself is the trouble
	Text  string
	Next  string // the next step, in the imperative; may be empty
	Err   error

	text string // as it was when the credentials were still known to redact
}

func (e *Error) Error() string {
	if e.text != "" {
		return e.text
	}
	var b strings.Builder
	if e.Repo != "" {
		b.WriteString("read " + e.Repo + ": ")
	}
	switch {
	case e.Text != "" && e.Err != nil:
		fmt.Fprintf(&b, "%s: %s", e.Text, oneLine(e.Err.Error()))
	case e.Text != "":
		b.WriteString(e.Text)
	case e.Err != nil:
		fmt.Fprintf(&b, "%v: %s", e.Class, oneLine(e.Err.Error()))
	default:
		b.WriteString(e.Class.Error())
	}
	if e.Next != "" {
		b.WriteString("; " + e.Next)
	}
	return redact.String(b.String())
}

func (e *Error) Is(target error) bool { return target == e.Class }
func (e *Error) Unwrap() error        { return e.Err }

// Permanent reports whether err stays until a person changes something, so that waiting alone is no remedy.
func Permanent(err error) bool {
	for _, class := range []error{ErrAuth, ErrHostKey, ErrRefused, ErrTooLarge} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// classify makes an *Error of err that names the repository. An error that has a class keeps it.
func classify(ctx context.Context, repo string, err error) error {
	if err == nil {
		return nil
	}
	e := classed(ctx, err)
	if e.Repo == "" {
		e.Repo = repo
	}
	e.text = e.Error()
	return e
}

func classed(ctx context.Context, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		named := *e
		return &named
	}
	if cause := context.Cause(ctx); cause != nil && errors.As(cause, &e) {
		named := *e
		return &named
	}
	out := &Error{Class: ErrUnreachable, Err: err, Next: "check the address, the network and that the Git server runs"}
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &dns):
		out.Text, out.Err, out.Next = "no address for host "+quote(dns.Name), nil, "check the host in the URL and the resolver of this machine"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		out.Class, out.Text, out.Next = ErrTimeout, ErrTimeout.Error(), "check the Git server; gitopsd tries again by itself"
	}
	return out
}

// quote prints a name that came from outside: on one line, without control characters, not too long.
func quote(s string) string {
	const longest = 200
	if len(s) > longest {
		s = s[:longest] + "…"
	}
	return strconv.Quote(s)
}

// oneLine makes text that a remote may have written fit for a log line.
func oneLine(s string) string {
	const longest = 500
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.TrimSpace(s))
	if len(s) > longest {
		s = s[:longest] + "…"
	}
	return s
}
