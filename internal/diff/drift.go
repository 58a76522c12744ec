package diff

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// Drift is how the cluster differs from the revision that was applied.
type Drift struct {
	Application string // namespace/name
	Revision    string // the commit that was applied
	Ours        []Change
	Theirs      []TheirFields
	Left        []string // declared fields that are left to others, in words
	Healed      bool     // what is ours is undone by itself
	Fate        string   // what becomes of what is ours, in words
}

// TheirFields are fields of one object that another manager has added. They are told, and no drift.
type TheirFields struct {
	Ref Ref
	Foreign
}

// Empty says that every declared field is as it was applied.
func (d Drift) Empty() bool { return Plan{Changes: d.Ours}.Empty() }

// Map returns the drift with f done to every text of a value.
func (d Drift) Map(f func(string) string) Drift {
	d.Ours = Plan{Changes: d.Ours}.Map(f).Changes
	return d
}

// Text is the drift for people.
func (d Drift) Text(s Style) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s at %s: %s\n", s.paint(bold, d.Application), shortRevision(d.Revision), d.summary())
	for _, c := range d.Ours {
		switch c.Action {
		case Create:
			b.WriteString(s.paint(red, "-") + " " + s.paint(bold, c.Ref.String()) + "  (deleted)\n")
		case Update:
			b.WriteString(s.paint(yellow, "~") + " " + s.paint(bold, c.Ref.String()) + "\n")
			s.fields(&b, swapped(c.Fields), drifted)
		}
	}
	if len(d.Theirs) > 0 {
		b.WriteString("set by others, not declared, left alone:\n")
	}
	for _, t := range d.Theirs {
		fmt.Fprintf(&b, "  %s: %s  (%s)\n", t.Ref, strings.Join(t.Fields, ", "), by(t.Manager, t.Time))
	}
	for _, l := range d.Left {
		b.WriteString(s.paint(dim, "ignored: ") + l + "\n")
	}
	return b.String()
}

func (d Drift) summary() string {
	objects, fields := 0, 0
	for _, c := range d.Ours {
		if c.Action != Unchanged {
			objects++
			fields += len(c.Fields)
		}
	}
	if objects == 0 {
		return "no drift"
	}
	return fmt.Sprintf("%d %s and %d %s differ; %s", objects, plural("object", objects), fields, plural("field", fields), d.Fate)
}

func plural(word string, n int) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// swapped turns what would be written around: from what was declared to what is.
func swapped(fields []Field) []Field {
	out := make([]Field, len(fields))
	for i, f := range fields {
		f.Old, f.New = f.New, f.Old
		if f.Secret && f.Old != nil && f.New != nil {
			f.Old, f.New = secretValue, secretChanged
		}
		out[i] = f
	}
	return out
}

func drifted(f Field, declared, live string) (text, behind string) {
	return "declared " + declared + ", is " + live, "  (" + by(f.TakenFrom, f.TakenAt) + ")"
}

func by(manager string, at time.Time) string {
	text := "by " + cmp.Or(manager, "somebody")
	if !at.IsZero() {
		text += ", " + at.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	return text
}
