package redact

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"testing"
)

func TestString(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"password in a URL", "clone https://bob:s3cr3t@git.example/x.git", "clone https://[redacted]@git.example/x.git"},
		{"password with an at sign", "https://bob:p@ss@git.example/x", "https://[redacted]@git.example/x"},
		{"token as user", "https://ghp_abc@github.com/x", "https://[redacted]@github.com/x"},
		{"empty user", "https://:tok@host/x", "https://[redacted]@host/x"},
		{"ssh user says nothing", "ssh://git@host/x and git@host:x", "ssh://git@host/x and git@host:x"},
		{"no userinfo", "https://host:8443/a?b=c@d", "https://host:8443/a?b=c@d"},
		{"quoted", `Get "http://u:p@127.0.0.1:1/info/refs": EOF`, `Get "http://[redacted]@127.0.0.1:1/info/refs": EOF`},
		{"bearer header", "Authorization: Bearer abc.def.ghi", "Authorization: [redacted]"},
		{"basic header dumped", "map[Authorization:[Basic dTpw]]", "map[Authorization:[[redacted]]]"},
		{"bare bearer", "sent bearer abcdefghijklmnop", "sent bearer [redacted]"},
		{"query token", "GET /x?access_token=zzz&a=1", "GET /x?access_token=[redacted]&a=1"},
		{"jwt", "token eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0. bad", "token [redacted] bad"},
		{"private key", "a -----BEGIN OPENSSH PRIVATE KEY-----\nAAA\n-----END OPENSSH PRIVATE KEY----- b", "a [redacted] b"},
		{"half a private key", "a -----BEGIN RSA PRIVATE KEY-----\nAAA", "a [redacted]"},
		{"plain words", "basic auth is required", "basic auth is required"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := String(c.in); got != c.want {
				t.Errorf("String(%q)\n got %q\nwant %q", c.in, got, c.want)
			}
		})
	}
}

func TestRegisteredValues(t *testing.T) {
	var s Set
	forget := s.Register("p@ss w0rd/+", "ab", "longer p@ss w0rd/+ value")
	again := s.Register("p@ss w0rd/+")
	for _, text := range []string{
		"p@ss w0rd/+", "p@ss%20w0rd%2F+", "p%40ss+w0rd%2F%2B", "cEBzcyB3MHJkLys=", "longer p@ss w0rd/+ value",
	} {
		if got := s.String("<" + text + ">"); got != "<"+Mask+">" {
			t.Errorf("String(%q) = %q", text, got)
		}
	}
	if got := s.String("about"); got != "about" {
		t.Errorf("a value of two letters was replaced: %q", got)
	}
	forget()
	forget()
	if got := s.String("p@ss w0rd/+"); got != Mask {
		t.Errorf("forgotten while somebody else still holds it: %q", got)
	}
	again()
	if got := s.String("p@ss w0rd/+"); got != "p@ss w0rd/+" {
		t.Errorf("still known: %q", got)
	}
}

func TestErrorKeepsIsAndAs(t *testing.T) {
	inner := &fs.PathError{Op: "open", Path: "https://u:pw@h/x", Err: fs.ErrNotExist}
	err := Error(fmt.Errorf("read: %w", inner))
	if strings.Contains(err.Error(), "pw") {
		t.Errorf("leaks: %v", err)
	}
	var pe *fs.PathError
	if !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &pe) {
		t.Errorf("lost its chain: %v", err)
	}
	if Error(nil) != nil {
		t.Error("nil became an error")
	}
	if plain := errors.New("plain"); Error(plain) != plain {
		t.Error("an error without a secret was wrapped")
	}
}

func TestHandler(t *testing.T) {
	forget := Register("canary-4711")
	defer forget()
	var out bytes.Buffer
	log := slog.New(Handler(slog.NewTextHandler(&out, nil)))
	log.With("a", "canary-4711").WithGroup("g").Info("fetch https://u:canary-4711@h",
		"err", errors.New("canary-4711"), "n", 7, "header", http.Header{"Authorization": {"Bearer xyz"}},
		slog.Group("in", "deep", "canary-4711"), "bytes", []byte("canary-4711"))
	text := out.String()
	for _, leak := range []string{"canary", "xyz", "99 97 110"} {
		if strings.Contains(text, leak) {
			t.Errorf("%q leaks in %s", leak, text)
		}
	}
	if !strings.Contains(text, "g.n=7") {
		t.Errorf("numbers should stay as they are: %s", text)
	}
}

func FuzzString(f *testing.F) {
	f.Add("https://u:", "@h/x")
	f.Add("", "")
	f.Add("Authorization: Basic ", "\n")
	const secret = "kn0wn-s3cret-value"
	forget := Register(secret)
	f.Cleanup(forget)
	f.Fuzz(func(t *testing.T, before, after string) {
		once := String(before + secret + after)
		if strings.Contains(once, secret) {
			t.Fatalf("leaks: %q", once)
		}
		if u := String("https://user:hunter2hunter2@host/" + after); strings.Contains(u[:len("https://user:hunter2")], "hunter2") {
			t.Fatalf("leaks a URL password: %q", u)
		}
	})
}
