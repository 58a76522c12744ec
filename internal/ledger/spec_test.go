package ledger

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSpecPrograms runs the programs of docs/spec/ledger.md on a ledger that is whole and on one that is not.
func TestSpecPrograms(t *testing.T) {
	page, err := os.ReadFile("../../docs/spec/ledger.md")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("python", func(t *testing.T) {
		if err := exec.Command("python3", "-c", "import cryptography.hazmat.primitives.asymmetric.ed25519").Run(); err != nil {
			t.Skip("no python3 with cryptography here")
		}
		runSpecProgram(t, string(page), "python", "python3")
	})
	t.Run("openssl", func(t *testing.T) {
		if out, err := exec.Command("openssl", "version").Output(); err != nil || !strings.HasPrefix(string(out), "OpenSSL 3") {
			t.Skip("no openssl 3 here")
		}
		runSpecProgram(t, string(page), "sh", "sh")
	})
}

func runSpecProgram(t *testing.T, page, language, interpreter string) {
	_, text, found := strings.Cut(page, "```"+language+"\n")
	text, _, ends := strings.Cut(text, "```")
	if !found || !ends {
		t.Fatalf("the page has no program in %s", language)
	}
	program := filepath.Join(t.TempDir(), "verify")
	if err := os.WriteFile(program, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	dir, head := made(t, 6, Options{SegmentBytes: 2000})
	run := func() (string, error) {
		files, _ := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
		out, err := exec.Command(interpreter, append([]string{program, filepath.Join(dir, PublicKeyFile)}, files...)...).CombinedOutput()
		return string(out), err
	}
	if out, err := run(); err != nil || !strings.Contains(out, head.Hash) {
		t.Fatalf("a whole ledger: %v\n%s", err, out)
	}
	x := readTampered(t, dir)
	lines := strings.SplitAfter(string(x.files[0]), "\n")
	for what, damaged := range map[string]string{
		"changed": strings.Replace(string(x.files[0]), "prod/web", "prod/wet", 1),
		"dropped": strings.Join(append([]string{lines[0]}, lines[2:]...), ""),
		"swapped": lines[0] + lines[2] + lines[1] + strings.Join(lines[3:], ""),
	} {
		x.with(t, dir, 0, []byte(damaged), func() {
			if out, err := run(); err == nil || strings.Contains(out, head.Hash) {
				t.Errorf("%s: not found\n%s", what, out)
			}
		})
	}
}
