package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/gitopsd/gitopsd/internal/overview"
	"golang.org/x/term"
)

// progress is one line on a terminal that is replaced while work goes on; elsewhere it is nothing.
type progress struct {
	w     io.Writer
	shown bool
}

func newProgress(w io.Writer) *progress {
	if isTerminal(w) {
		return &progress{w: w}
	}
	return &progress{w: io.Discard}
}

func (p *progress) show(text string) {
	p.shown = true
	fmt.Fprintf(p.w, "\r\033[K%s", overview.Cut(strings.ReplaceAll(text, "\n", " "), 79))
}

func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.w, "\r\033[K")
		p.shown = false
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// styleOf colours where the reader is a terminal that wants it.
func styleOf(w io.Writer) overview.Style {
	return overview.Style(isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb")
}
