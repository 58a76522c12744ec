package diff

import (
	"fmt"
	"strings"
	"unicode"
)

// manyLines says whether a field is told line by line.
func manyLines(f Field) bool {
	old, isOld := f.Old.(string)
	new, isNew := f.New.(string)
	return (isOld || f.Old == nil) && (isNew || f.New == nil) && strings.Contains(strings.TrimSuffix(old, "\n")+strings.TrimSuffix(new, "\n"), "\n")
}

// lines prints a text of several lines as a unified diff.
func (s Style) lines(b *strings.Builder, f Field) {
	all := unified(f)
	for i, line := range all {
		if i == mostLines && len(all) > mostLines+1 {
			fmt.Fprintf(b, "%s  … %d more lines\n", indent, len(all)-i)
			return
		}
		line = printable(line)
		if s.Width > 0 {
			line = cut([]rune(line), max(s.Width-len(indent)-2, 16))
		}
		switch line[0] {
		case '+':
			line = s.paint(green, line)
		case '-':
			line = s.paint(red, line)
		case '@':
			line = s.paint(dim, line)
		}
		b.WriteString(strings.TrimRight(indent+"  "+line, " ") + "\n")
	}
}

// printable is text without what a terminal takes for an order.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, text)
}

const (
	around   = 2       // unchanged lines that are shown next to changed ones
	mostWork = 1 << 22 // comparisons of two lines; beyond, everything between the first and the last change is one
)

// unified is the difference of two texts, as lines that begin with "+", "-", " " or, where lines are left out, "@".
func unified(f Field) []string {
	old, new := linesOf(f.Old), linesOf(f.New)
	head, tail := 0, 0
	for head < min(len(old), len(new)) && old[head] == new[head] {
		head++
	}
	for tail < min(len(old), len(new))-head && old[len(old)-1-tail] == new[len(new)-1-tail] {
		tail++
	}
	var out []string
	for _, l := range old[:head] {
		out = append(out, " "+l)
	}
	out = append(out, script(old[head:len(old)-tail], new[head:len(new)-tail])...)
	for _, l := range old[len(old)-tail:] {
		out = append(out, " "+l)
	}
	return near(out)
}

// linesOf keeps what a text ends in: without a newline at its end the last line says so, as diff does.
func linesOf(v any) []string {
	text, _ := v.(string)
	if text == "" {
		return nil
	}
	text, ended := strings.CutSuffix(text, "\n")
	lines := strings.Split(text, "\n")
	if !ended {
		lines[len(lines)-1] += " (no newline at the end)"
	}
	return lines
}

// script is the shortest way from old to new: the longest common subsequence stays.
func script(old, new []string) []string {
	var out []string
	if len(old)*len(new) > mostWork {
		return append(prefixed("-", old), prefixed("+", new)...)
	}
	common := make([][]int, len(old)+1) // common[i][j] is the length for old[i:] and new[j:]
	for i := range common {
		common[i] = make([]int, len(new)+1)
	}
	for i := len(old) - 1; i >= 0; i-- {
		for j := len(new) - 1; j >= 0; j-- {
			if common[i][j] = max(common[i+1][j], common[i][j+1]); old[i] == new[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	i, j := 0, 0
	for i < len(old) && j < len(new) {
		switch {
		case old[i] == new[j]:
			out = append(out, " "+old[i])
			i, j = i+1, j+1
		case common[i+1][j] >= common[i][j+1]:
			out = append(out, "-"+old[i])
			i++
		default:
			out = append(out, "+"+new[j])
			j++
		}
	}
	return append(append(out, prefixed("-", old[i:])...), prefixed("+", new[j:])...)
}

func prefixed(by string, lines []string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = by + l
	}
	return out
}

// near leaves out what is far from any change.
func near(lines []string) []string {
	keep := make([]bool, len(lines))
	for i, l := range lines {
		if l[0] == ' ' {
			continue
		}
		for k := max(0, i-around); k <= min(len(lines)-1, i+around); k++ {
			keep[k] = true
		}
	}
	var out []string
	left := 0
	for i, l := range lines {
		if !keep[i] {
			left++
			continue
		}
		if left > 0 {
			out = append(out, fmt.Sprintf("@@ %d lines as they were @@", left))
			left = 0
		}
		out = append(out, l)
	}
	if left > 0 {
		out = append(out, fmt.Sprintf("@@ %d lines as they were @@", left))
	}
	return out
}
