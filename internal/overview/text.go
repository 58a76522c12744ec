package overview

import "strings"

// Style colours text when it is true.
type Style bool

const (
	red    = "31"
	green  = "32"
	yellow = "33"
	bold   = "1"
	dim    = "2"
)

func (s Style) paint(code, text string) string {
	if !s || text == "" {
		return text
	}
	return "\033[" + code + "m" + text + "\033[0m"
}

// Cut shortens text to n characters.
func Cut(text string, n int) string {
	r := []rune(text)
	if len(r) <= n {
		return text
	}
	return string(r[:n-1]) + "…"
}

// wrap breaks text into lines of at most width characters, at spaces, each line indented.
func wrap(text string, indent string, width int) string {
	var b strings.Builder
	for _, paragraph := range strings.Split(strings.TrimSpace(text), "\n") {
		line := indent
		for _, word := range strings.Fields(paragraph) {
			if line != indent && len([]rune(line))+1+len([]rune(word)) > width {
				b.WriteString(line + "\n")
				line = indent + "  "
			}
			if strings.TrimSpace(line) != "" {
				line += " "
			}
			line += word
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// Short is the part of a commit's hash, or of an archive's digest, that people read.
func Short(commit string) string {
	hash := strings.TrimPrefix(commit, "sha256:")
	return commit[:len(commit)-len(hash)] + hash[:min(len(hash), 8)]
}
