package sops

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever a file holds, it is plain, decrypted, or refused without a word of it.
func FuzzDecrypt(f *testing.F) {
	keys, err := testKeys()
	if err != nil {
		f.Fatal(err)
	}
	names, _ := filepath.Glob("testdata/*.enc.*")
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(filepath.Base(name), data)
	}
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		plain, _, err := Decrypt(name, data, keys)
		if err != nil && plain != nil {
			t.Fatal("an error, and plain text")
		}
		if err != nil && !errors.Is(err, ErrPlain) && strings.Contains(err.Error(), "canary") && !strings.Contains(string(data), "canary") {
			t.Fatalf("plain text in %v", err)
		}
	})
}
