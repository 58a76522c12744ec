package diff

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Style says how text is laid out.
type Style struct {
	Colour bool
	Width  int // of the reader's terminal, in characters; 0: lines may be long, values are cut all the same
}

const (
	red    = "31"
	green  = "32"
	yellow = "33"
	bold   = "1"
	dim    = "2"
)

func (s Style) paint(code, text string) string {
	if !s.Colour || text == "" {
		return text
	}
	return "\033[" + code + "m" + text + "\033[0m"
}

const (
	widestPath  = 60  // longer paths do not move the values of others to the right
	widestValue = 120 // of a value where no width is known
	mostLines   = 40  // of one text of several lines
	mostMade    = 30  // fields of an object that is made
	arrow       = " → "
	indent      = "    "
)

var (
	signs   = map[Action]string{Create: "+", Update: "~", Prune: "-"}
	colours = map[Action]string{Create: green, Update: yellow, Prune: red}
)

// String is the plan as text of any width.
func (p Plan) String() string { return p.Text(Style{}) }

// Text is the plan for people: a line for each object that changes, below it a line for each field.
func (p Plan) Text(s Style) string {
	var b strings.Builder
	if p.Application != "" {
		fmt.Fprintf(&b, "%s at %s\n", s.paint(bold, p.Application), shortRevision(p.Revision))
	}
	for _, c := range p.Changes {
		if c.Action == Unchanged {
			continue
		}
		b.WriteString(s.paint(colours[c.Action], signs[c.Action]) + " " + s.paint(bold, c.Ref.String()))
		if c.Deferred != "" {
			b.WriteString(s.paint(dim, "  (not proven: "+c.Deferred+")"))
		}
		b.WriteByte('\n')
		s.change(&b, c)
	}
	fmt.Fprintf(&b, "%s\n", p.Summary())
	if lost := p.Irreversible(); len(lost) > 0 {
		b.WriteString(s.paint(red, "cannot be undone: ") + few(lost, 8) + "\n")
	}
	for _, n := range p.Notes {
		b.WriteString(s.paint(yellow, "note: ") + n + "\n")
	}
	return b.String()
}

// change tells the fields of one change; of what is made at most so many as people read.
func (s Style) change(b *strings.Builder, c Change) {
	if c.Action != Create {
		s.fields(b, c.Fields, planned)
		return
	}
	shown := c.Fields[:min(len(c.Fields), mostMade)]
	s.fields(b, shown, func(_ Field, _, new string) (string, string) { return new, "" })
	if left := len(c.Fields) - len(shown); left > 0 {
		b.WriteString(indent + s.paint(dim, fmt.Sprintf("and %d more %s; all of them: -o json", left, plural("field", left))) + "\n")
	}
}

// few joins texts, of many the first n.
func few(texts []string, n int) string {
	if more := len(texts) - n; more > 0 {
		return strings.Join(texts[:n], "; ") + fmt.Sprintf("; and %d more", more)
	}
	return strings.Join(texts, "; ")
}

// shortRevision is a commit as people read it; other texts stay.
func shortRevision(r string) string {
	hash, digest := strings.CutPrefix(r, "sha256:")
	if (len(hash) == 40 || digest && len(hash) == 64) && strings.Trim(hash, "0123456789abcdef") == "" {
		return r[:len(r)-len(hash)+8]
	}
	return r
}

// sides is how a field is told: its two values, and what is said behind them.
type sides func(f Field, old, new string) (text, behind string)

func planned(f Field, old, new string) (text, behind string) {
	if f.TakenFrom != "" {
		behind = "  (taken from " + f.TakenFrom + ")"
	}
	return old + arrow + new, behind
}

func (s Style) fields(b *strings.Builder, fields []Field, tell sides) {
	column := 0
	for _, f := range fields {
		if n := utf8.RuneCountInString(f.Path) + 1; n <= widestPath && !manyLines(f) {
			column = max(column, n)
		}
	}
	for _, f := range fields {
		if manyLines(f) {
			_, behind := tell(f, "", "")
			b.WriteString(indent + s.paint(dim, f.Path+":") + behind + "\n")
			s.lines(b, f)
			continue
		}
		s.field(b, f, column, tell)
	}
}

// field prints a path and, in what is left of the line, its values; where they do not fit they go below it.
func (s Style) field(b *strings.Builder, f Field, column int, tell sides) {
	const enough = 60
	frame, behind := tell(f, "", "")
	old, new := compactField(f, f.Old), compactField(f, f.New)
	label := fmt.Sprintf("%-*s", column, f.Path+":")
	start, room := indent+s.paint(dim, label)+" ", 2*widestValue
	if s.Width > 0 {
		need := utf8.RuneCountInString(old + new + behind)
		room = s.Width - utf8.RuneCountInString(indent+label+" "+frame)
		if need > room && room < enough {
			start = indent + s.paint(dim, f.Path+":") + "\n" + indent + "  "
			room = s.Width - utf8.RuneCountInString(indent+"  "+frame)
		}
		if need > room && behind != "" {
			behind = "\n" + indent + "  " + strings.TrimSpace(behind)
		}
	}
	old, new = fit(old, new, max(room, 16))
	text, _ := tell(f, s.paint(red, old), s.paint(green, new))
	b.WriteString(start + text + behind + "\n")
}

// fit cuts two texts to n characters together. Of what they begin with alike as much is left out as has to be: the
// difference is what is to be seen.
func fit(old, new string, n int) (string, string) {
	const context = 6
	o, w := []rune(old), []rune(new)
	n = min(n, 2*widestValue)
	over := len(o) + len(w) - n
	if over <= 0 {
		return old, new
	}
	alike := 0
	for alike < min(len(o), len(w)) && o[alike] == w[alike] {
		alike++
	}
	if from := min(alike-context, (over+1)/2+1); from > 1 {
		o, w = append([]rune("…"), o[from:]...), append([]rune("…"), w[from:]...)
	}
	most := max(n/2, n-min(len(o), len(w))) // what the shorter one leaves is the other's
	return cut(o, most), cut(w, most)
}

func cut(text []rune, n int) string {
	if len(text) <= n {
		return string(text)
	}
	return string(text[:n-1]) + "…"
}

func compactField(f Field, v any) string {
	if text, ok := v.(string); ok && f.Secret {
		return text
	}
	return compact(v)
}

// compact is a value in one line.
func compact(v any) string {
	if v == nil {
		return "(absent)"
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
