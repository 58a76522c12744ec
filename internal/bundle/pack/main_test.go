package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// Same programs, same bytes; nothing changed, nothing written.
func TestPackIsReproducible(t *testing.T) {
	from := t.TempDir()
	for name, content := range map[string]string{"runc": "node", "pause": "zzz", ".lock": "", ".new": "half"} {
		if err := os.WriteFile(filepath.Join(from, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(from, "runc"), filepath.Join(from, "shim")); err != nil {
		t.Fatal(err)
	}
	var archives [][]byte
	for _, to := range []string{t.TempDir(), t.TempDir()} {
		path := filepath.Join(to, "bundle.tar.zst")
		var before os.FileInfo
		for range 2 {
			if err := pack(from, to, io.Discard); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if before != nil && !os.SameFile(before, info) {
				t.Error("written though nothing changed")
			}
			before = info
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		archives = append(archives, data)
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two archives of the same programs differ")
	}
}
