package podlogs

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRotate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reopen := func() error { write(""); return nil }
	limits := Limits{Bytes: 10, Files: 3}
	now := time.Unix(1e9, 0)
	write("short")
	if err := limits.Rotate(path, now, reopen); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "short" {
		t.Error("a small log was rotated")
	}
	for i := range 4 {
		write(strings.Repeat(string(rune('a'+i)), 20))
		if err := limits.Rotate(path, now.Add(time.Duration(i)*time.Minute), reopen); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := filepath.Glob(path + "*")
	if len(files) != 3 {
		t.Errorf("files are %v", files)
	}
	f, err := os.Open(path + "." + now.Add(2*time.Minute).UTC().Format("20060102-150405") + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(z); string(b) != strings.Repeat("c", 20) || err != nil {
		t.Errorf("compressed log holds %q, %v", b, err)
	}
	write(strings.Repeat("z", 20))
	if err := limits.Rotate(path, now.Add(time.Hour), func() error { return errors.New("away") }); err == nil {
		t.Error("a failure was swallowed")
	}
	if b, _ := os.ReadFile(path); len(b) != 20 {
		t.Error("the log that the runtime still writes to lost its name")
	}
}
