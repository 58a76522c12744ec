package intent

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// A box opens what it sealed under the same name, also in the next process, and nothing else.
func TestBox(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	open := func(file string) *Box {
		b, err := OpenBox(file)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	sealed := open(key).Seal([]byte("canary"), "name")
	if bytes.Contains(sealed, []byte("canary")) {
		t.Error("it is not sealed")
	}
	if got, err := open(key).Open(sealed, "name"); err != nil || string(got) != "canary" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := open(key).Open(sealed, "other"); err == nil {
		t.Error("it opens under another name")
	}
	another := open(filepath.Join(t.TempDir(), "key"))
	if _, err := another.Open(sealed, "name"); err == nil {
		t.Error("it opens with another key")
	}
	if a, b := open(key).Name([]byte("x")), open(key).Name([]byte("x")); a != b || a == another.Name([]byte("x")) || a == open(key).Name([]byte("y")) {
		t.Error("names are not those of key and content")
	}
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode: %v, %v", info.Mode(), err)
	}
}
