package intent

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T, dir string) *Files {
	t.Helper()
	f, err := OpenFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func put(t *testing.T, f *Files, owner, content string) string {
	t.Helper()
	name, err := f.Put(owner, []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// Contents outlive the process, cannot be read without the key, and are known by what they are.
func TestStore(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	canary := strings.Repeat("canary-secret ", 100)
	name := put(t, f, "a", canary)
	if again := put(t, f, "a", canary); again != name {
		t.Errorf("the same content is called %s and %s", name, again)
	}
	other := put(t, f, "a", "other")
	put(t, f, "b", "of another owner")
	got, err := open(t, dir).Get("a", name)
	if err != nil || string(got) != canary {
		t.Errorf("%q, %v", got, err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "a", name))
	if err != nil || bytes.Contains(raw, []byte("canary")) {
		t.Errorf("it can be read on disk: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, "key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode is %v, %v", info.Mode(), err)
	}
	for _, absent := range []string{"", "../key", strings.Repeat("0", 64)} {
		if _, err := f.Get("a", absent); !errors.Is(err, ErrAbsent) {
			t.Errorf("%q: %v", absent, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "a", ".new-1"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Keep("a", map[string]bool{name: true}); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "a")); len(left) != 1 || left[0].Name() != name {
		t.Errorf("left are %v", left)
	}
	if _, err := f.Get("a", other); !errors.Is(err, ErrAbsent) {
		t.Errorf("the unnamed one: %v", err)
	}
	if err := f.Drop("a"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Get("a", name); !errors.Is(err, ErrAbsent) {
		t.Errorf("after Drop: %v", err)
	}
}

// A damaged content, and a lost key, are said to be that; nothing wrong is ever returned.
func TestStoreDamaged(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	name := put(t, f, "a", "content")
	path := filepath.Join(dir, "a", name)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := f.Get("a", name); err == nil || !strings.Contains(err.Error(), name[:12]) {
			t.Fatalf("byte %d: %q, %v", i, got, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "key"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFiles(dir); err == nil || !strings.Contains(err.Error(), "key") {
		t.Errorf("a short key: %v", err)
	}
}

// A disk that takes no more leaves nothing half written.
func TestStoreWriteFails(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o600); err != nil { // no folder can be made here
		t.Fatal(err)
	}
	if _, err := f.Put("a", []byte("content")); err == nil {
		t.Error("it is kept where nothing can be")
	}
}
