package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
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
		_, _ = m.install(bytes.NewReader(pack), m.limits)
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

// spoken is a remote that says what it is told to say.
type spoken struct{ advert, answer []byte }

func (s spoken) advertisement(context.Context) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s.advert)), nil
}

func (s spoken) request(_ context.Context, encode func(io.Writer) error) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s.answer)), encode(io.Discard)
}

func (spoken) close() {}

// A list of refs is read or refused; what is read can be asked for by any ref without a panic, and errors are classified.
func FuzzAdvertisement(f *testing.F) {
	line := func(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }
	good := line("1111111111111111111111111111111111111111 HEAD\x00symref=HEAD:refs/heads/main shallow side-band-64k\n") +
		line("1111111111111111111111111111111111111111 refs/heads/main\n") +
		line("2222222222222222222222222222222222222222 refs/tags/v1.2.3\n") +
		line("1111111111111111111111111111111111111111 refs/tags/v1.2.3^{}\n") + "0000"
	f.Add([]byte(good))
	f.Add([]byte(line("# service=git-upload-pack\n") + "0000" + good))
	f.Add([]byte(line("1111111111111111111111111111111111111111 refs/heads/../../x\x00\n") + "0000"))
	f.Add([]byte("ffff" + good))
	f.Add([]byte(line("ERR no such repository")))
	f.Fuzz(func(t *testing.T, advert []byte) {
		w := &wire{conversation: spoken{advert: advert}, limits: Limits{Advert: 1 << 20}.withDefaults()}
		list, err := w.refs(t.Context())
		if err != nil {
			if class := classed(t.Context(), err).Class; class == nil {
				t.Fatalf("no class: %v", err)
			}
			return
		}
		for _, ref := range []Ref{{}, {Branch: "main"}, {Tag: "v1.2.3"}, {Semver: ">=0.0.0-0"}, {Commit: strings.Repeat("1", 40)}} {
			if found, err := list.resolve(ref); err == nil && found.name == "" {
				t.Fatalf("%+v is found without a name", ref)
			}
		}
	})
}

// The answer to a request for a pack is taken or refused, and leaves nothing behind.
func FuzzPackAnswer(f *testing.F) {
	f.Add([]byte("0008NAK\nPACK\x00\x00\x00\x02\x00\x00\x00\x00\x02\x9d\x08\x82\x3b\xd8\xa8\xea\xb5\x10\xad\x6a\xc7\x5c\x82\x3c\xfd\x3e\xd3\x1e"))
	f.Add([]byte("0035shallow 1111111111111111111111111111111111111111\n00000008NAK\n0009\x01PACK0000"))
	f.Add([]byte("001aERR upload-pack: not our ref"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, answer []byte) {
		limits := Limits{Object: 1 << 20, Pack: 1 << 20, Objects: 1000, Inflate: 1 << 24}.withDefaults()
		m, err := openMirror(dir, "fuzz", limits)
		if err != nil {
			t.Fatal(err)
		}
		defer m.close()
		line := func(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }
		w := &wire{limits: limits, conversation: spoken{answer: answer,
			advert: []byte(line("1111111111111111111111111111111111111111 HEAD\x00shallow side-band-64k ofs-delta\n") + "0000")}}
		if _, err := w.refs(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.fetch(t.Context(), m, []plumbing.Hash{plumbing.NewHash(strings.Repeat("1", 40))}); err == nil {
			return
		}
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
