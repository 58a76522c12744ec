package source

import (
	"errors"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/source/sourcetest"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

func TestSSH(t *testing.T) {
	r := newRepo(t)
	first := r.write("a.yaml", "one").commit("first")
	r.git("tag", "v1")
	second := r.write("a.yaml", "two").commit("second")
	if out, err := exec.Command("cp", "-r", r.dir, filepath.Join(filepath.Dir(r.dir), "it's here")).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	signer, key := sourcetest.NewKey(t)
	_, wrong := sourcetest.NewKey(t)
	other, _ := sourcetest.NewKey(t)
	srv := sourcetest.NewSSHServer(t, filepath.Dir(r.dir), signer.PublicKey())
	stranger := []byte(knownhosts.Line([]string{knownhosts.Normalize(srv.Addr())}, other.PublicKey()) + "\n")
	for _, c := range []struct {
		name, path string
		ref        Ref
		creds      *Credentials
		commit     string
		class      error
	}{
		{"branch", "/repo", Ref{Branch: "main"}, &Credentials{Identity: key, KnownHosts: srv.Known()}, second, nil},
		{"tag", "/repo", Ref{Tag: "v1"}, &Credentials{Identity: key, KnownHosts: srv.Known()}, first, nil},
		{"HEAD", "/repo", Ref{}, &Credentials{Identity: key, KnownHosts: srv.Known()}, second, nil},
		{"commit that is no tip", "/repo", Ref{Commit: first}, &Credentials{Identity: key, KnownHosts: srv.Known()}, first, nil},
		{"quote in the path", "/it's here", Ref{}, &Credentials{Identity: key, KnownHosts: srv.Known()}, second, nil},
		{"host not known", "/repo", Ref{}, &Credentials{Identity: key}, "", ErrHostKey},
		{"another host key", "/repo", Ref{}, &Credentials{Identity: key, KnownHosts: stranger}, "", ErrHostKey},
		{"wrong key", "/repo", Ref{}, &Credentials{Identity: wrong, KnownHosts: srv.Known()}, "", ErrAuth},
		{"no key", "/repo", Ref{}, &Credentials{KnownHosts: srv.Known()}, "", ErrAuth},
		{"key is no key", "/repo", Ref{}, &Credentials{Identity: []byte(canary), KnownHosts: srv.Known()}, "", ErrAuth},
		{"no such repository", "/none", Ref{}, &Credentials{Identity: key, KnownHosts: srv.Known()}, "", ErrNotFound},
		{"no such branch", "/repo", Ref{Branch: "x"}, &Credentials{Identity: key, KnownHosts: srv.Known()}, "", ErrRefNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openStore(t, Limits{})
			snap, err := s.Snapshot(t.Context(), Spec{URL: "ssh://git@" + srv.Addr() + c.path, Ref: c.ref, Credentials: c.creds})
			if c.class == nil && (err != nil || snap.Commit != c.commit) || c.class != nil && !errors.Is(err, c.class) {
				t.Fatalf("got %s %v, want %s %v", snap.Commit, err, c.commit, c.class)
			}
			if err != nil {
				t.Log(err)
				if strings.Contains(err.Error(), canary) {
					t.Error("leaks")
				}
				return
			}
			want := map[string]string{first: "one", second: "two"}[c.commit]
			if got := read(t, snap.FS, "a.yaml"); got != want {
				t.Errorf("a.yaml: %q", got)
			}
		})
	}
}

func TestSSHServerThatHangs(t *testing.T) {
	signer, key := sourcetest.NewKey(t)
	release := make(chan struct{})
	srv := sourcetest.NewSSHServer(t, t.TempDir(), signer.PublicKey())
	srv.Run = func(ch ssh.Channel, _ string) {
		go io.Copy(io.Discard, ch)
		<-release
	}
	defer close(release)
	s := openStore(t, Limits{Stall: 100 * time.Millisecond})
	_, err := s.Snapshot(t.Context(), Spec{URL: "ssh://git@" + srv.Addr() + "/repo", Credentials: &Credentials{Identity: key, KnownHosts: srv.Known()}})
	if !errors.Is(err, ErrTimeout) {
		t.Fatal(err)
	}
	t.Log(err)
	// One that accepts the connection and then says nothing at all.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = s.Snapshot(t.Context(), Spec{URL: "ssh://git@" + l.Addr().String() + "/repo", Credentials: &Credentials{Identity: key, KnownHosts: srv.Known()}})
	if !errors.Is(err, ErrTimeout) {
		t.Fatal(err)
	}
}

func TestParseCredentials(t *testing.T) {
	_, key := sourcetest.NewKey(t)
	indented := "  " + strings.ReplaceAll(strings.TrimSpace(string(key)), "\n", "\n  ")
	for _, c := range []struct {
		name, file string
		ok         bool
		check      func(*Credentials) bool
	}{
		{"user and password", "username: bob\npassword: " + canary + "\n", true, func(c *Credentials) bool { return c.Username == "bob" && c.Password == canary }},
		{"number as password", "username: bob\npassword: 12345\n", true, func(c *Credentials) bool { return c.Password == "12345" }},
		{"token", "bearerToken: abc\n", true, func(c *Credentials) bool { return c.BearerToken == "abc" }},
		{"key", "identity: |\n" + indented + "\nknown_hosts: |\n  h ssh-ed25519 AAAA\n", true, func(c *Credentials) bool {
			return string(c.Identity) == string(key) && strings.Contains(string(c.KnownHosts), "h ssh-ed25519")
		}},
		{"git credential store", "https://bob:p%40ss@host\nhttps://eve:x@other:8443/path.git\n", true, func(c *Credentials) bool {
			a, _ := parseAddress("https://host/any", false)
			b, _ := parseAddress("https://other:8443/path.git", false)
			n, _ := parseAddress("https://other:8443/elsewhere", false)
			return c.forAddress(a).Password == "p@ss" && c.forAddress(b).Username == "eve" && c.forAddress(n).Username == ""
		}},
		{"unknown key", "user: bob\npassword: " + canary, false, nil},
		{"no key", "identity: " + canary, false, nil},
		{"no certificate", "caFile: " + canary, false, nil},
		{"map as value", "password: {" + canary + ": x}", false, nil},
		{"no YAML", canary + ": [", false, nil},
		{"text", canary, false, nil},
		{"empty", "", false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseCredentials([]byte(c.file))
			if (err == nil) != c.ok {
				t.Fatalf("%v", err)
			}
			if err == nil && !c.check(got) {
				t.Errorf("%+v", got)
			}
			if err != nil && (strings.Contains(err.Error(), canary) || !strings.Contains(err.Error(), "; ")) {
				t.Errorf("leaks, or has no next step: %v", err)
			}
		})
	}
	if _, err := CredentialsFromSecret(map[string][]byte{"other": []byte("x")}); !errors.Is(err, ErrAuth) {
		t.Errorf("Secret without a known key: %v", err)
	}
	got, err := CredentialsFromSecret(map[string][]byte{"username": []byte("bob\n"), "password": []byte("pw\n"), "comment": []byte("x")})
	if err != nil || got.Username != "bob" || got.Password != "pw" {
		t.Errorf("%+v %v", got, err)
	}
}

// Credentials are shared by everybody who reads from a repository: nobody writes into them.
func TestHostKeysLeaveTheirLinesAlone(t *testing.T) {
	signer, _ := sourcetest.NewKey(t)
	lines := []byte(knownhosts.Line([]string{"git.example.com"}, signer.PublicKey()) + " \t")
	before := string(lines)
	if _, err := hostKeys(lines, nil); err != nil {
		t.Fatal(err)
	}
	if string(lines) != before {
		t.Errorf("the lines were %q and are %q", before, lines)
	}
}
