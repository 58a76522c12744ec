package source

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
)

// Whatever is given as a URL is refused or harmless, and what is written of it holds no password.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{"https://u:hunter2@h/x", "git@h:x", "ext::sh", "file:///x", "/x", "ssh://h:2222/x", "-x", "http://[::1]:8/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		a, err := parseAddress(raw, false)
		if err != nil {
			if !errors.Is(err, ErrRefused) {
				t.Fatalf("%q: %v", raw, err)
			}
			return
		}
		for _, part := range []string{a.host, a.user} {
			if strings.HasPrefix(part, "-") && a.scheme == "ssh" {
				t.Fatalf("%q reaches a command line as %q", raw, part)
			}
		}
		text := a.String()
		if len(a.password) > 6 && strings.Contains(text, a.password) && !strings.Contains(a.host+a.path, a.password) {
			t.Fatalf("%q: %q holds the password", raw, text)
		}
		again, err := parseAddress(text, false)
		if err != nil || again.String() != text || again.folder() != a.folder() {
			t.Fatalf("%q is written %q, which is read as %q: %v", raw, text, again.String(), err)
		}
	})
}

// Credentials are read or refused, and an error does not quote them.
func FuzzParseCredentials(f *testing.F) {
	f.Add([]byte("username: bob\npassword: secret-4711\n"))
	f.Add([]byte("https://bob:secret-4711@host\n"))
	f.Add([]byte("identity: |\n  secret-4711\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		_, err := ParseCredentials(append(file, "\nsecret-4711"...))
		if err != nil && strings.Contains(err.Error(), "secret-4711") && !bytes.Contains(file, []byte("secret-4711")) {
			t.Fatalf("%v", err)
		}
	})
}

// A pack is taken or refused; neither takes memory that its length does not justify, nor leaves anything behind.
func FuzzInstall(f *testing.F) {
	f.Add([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x00\x02\x9d\x08\x82\x3b\xd8\xa8\xea\xb5\x10\xad\x6a\xc7\x5c\x82\x3c\xfd\x3e\xd3\x1e"))
	f.Add([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01\x31x\x9c\x03\x00\x00\x00\x00\x01"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, pack []byte) {
		m, err := openMirror(dir, "fuzz", Limits{Object: 1 << 20, Pack: 1 << 20, Objects: 1000, Inflate: 16 << 20}.withDefaults())
		if err != nil {
			t.Fatal(err)
		}
		defer m.close()
		_ = m.install(bytes.NewReader(pack))
		entries, err := os.ReadDir(dir + "/objects/pack")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".tmp-") {
				t.Fatalf("left behind: %s", e.Name())
			}
		}
	})
}
