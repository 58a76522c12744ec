package diff

import (
	"encoding/json"
	"fmt"
	"html"
	"strings"

	"sigs.k8s.io/yaml"
)

// mostMarkdown is how long plans may get, in bytes: what comments of pull requests hold, with room for a frame.
const mostMarkdown = 60000

// Markdown is plans for a pull request: what each does in a line, and each object folded up below it. What would be too
// much is left out, and that is said.
func Markdown(plans ...Plan) string {
	var b strings.Builder
	for i, p := range plans {
		head := p.markdownHead()
		if b.Len()+len(head) > mostMarkdown-2*roomForNote {
			fmt.Fprintf(&b, "\n%d more Applications left out, because this would get too long; the whole plan: `gitopsd plan`\n", len(plans)-i)
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(head)
		p.markdownObjects(&b)
	}
	return b.String()
}

// roomForNote is kept for a note of what is left out.
const roomForNote = 150

func (p Plan) markdownHead() string {
	var b strings.Builder
	if p.Application != "" {
		fmt.Fprintf(&b, "### %s at %s\n\n", html.EscapeString(p.Application), html.EscapeString(shortRevision(p.Revision)))
	}
	fmt.Fprintf(&b, "**%s**\n", p.Summary())
	if lost := p.Irreversible(); len(lost) > 0 {
		fmt.Fprintf(&b, "\n**cannot be undone:** %s\n", html.EscapeString(few(lost, 20)))
	}
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "\n> %s\n", html.EscapeString(n))
	}
	return b.String()
}

func (p Plan) markdownObjects(b *strings.Builder) {
	left := 0
	for _, c := range p.Changes {
		if c.Action == Unchanged {
			continue
		}
		block := c.markdown()
		if left > 0 || b.Len()+len(block) > mostMarkdown-2*roomForNote {
			left++
			continue
		}
		b.WriteString(block)
	}
	if left > 0 {
		fmt.Fprintf(b, "\n%d more %s left out, because this would get too long; the whole plan: `gitopsd plan`\n", left, plural("object", left))
	}
}

func (c Change) markdown() string {
	title := signs[c.Action] + " " + c.Ref.String()
	if c.Deferred != "" {
		title += " (not proven: " + c.Deferred + ")"
	}
	if len(c.Fields) == 0 {
		return fmt.Sprintf("\n- `%s`\n", title)
	}
	var body strings.Builder
	for _, f := range c.Fields {
		taken := ""
		if f.TakenFrom != "" {
			taken = "  (taken from " + f.TakenFrom + ")"
		}
		fmt.Fprintf(&body, "@@ %s%s @@\n", f.Path, taken)
		for _, line := range f.diffLines() {
			body.WriteString(line + "\n")
		}
	}
	fence := "```"
	for strings.Contains(body.String(), fence) {
		fence += "`"
	}
	return fmt.Sprintf("\n<details><summary>%s (%d %s)</summary>\n\n%sdiff\n%s%s\n\n</details>\n", html.EscapeString(title), len(c.Fields),
		plural("field", len(c.Fields)), fence, body.String(), fence)
}

// diffLines are a field's values as lines of a diff, trees as YAML.
func (f Field) diffLines() []string {
	if manyLines(f) {
		return unified(f)
	}
	var out []string
	if f.Old != nil {
		out = prefixed("-", treeLines(f, f.Old))
	}
	if f.New != nil {
		out = append(out, prefixed("+", treeLines(f, f.New))...)
	}
	return out
}

func treeLines(f Field, v any) []string {
	switch v.(type) {
	case map[string]any, []any:
		if b, err := json.Marshal(v); err == nil {
			if b, err = yaml.JSONToYAML(b); err == nil {
				return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
			}
		}
	}
	return []string{compactField(f, v)}
}
