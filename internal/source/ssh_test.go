package source

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// sshServer runs git-upload-pack for whoever shows the right key, as a Git host does.
type sshServer struct {
	t        *testing.T
	listener net.Listener
	config   *ssh.ServerConfig
	host     ssh.Signer
	root     string
	conns    sync.WaitGroup
	// run, if set, answers instead of git.
	run func(ch ssh.Channel, command string)
}

func newSigner(t *testing.T) (ssh.Signer, []byte) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "test")
	if err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

func newSSHServer(t *testing.T, root string, client ssh.PublicKey) *sshServer {
	t.Helper()
	host, _ := newSigner(t)
	s := &sshServer{t: t, host: host, root: root}
	s.config = &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(client.Marshal()) {
			return nil, errors.New("who are you")
		}
		return nil, nil
	}}
	s.config.AddHostKey(host)
	var err error
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.conns.Go(s.serve)
	t.Cleanup(func() { s.listener.Close(); s.conns.Wait() })
	return s
}

func (s *sshServer) serve() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.conns.Go(func() { s.handle(conn) })
	}
}

func (s *sshServer) handle(conn net.Conn) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		ch, reqs, err := c.Accept()
		if err != nil {
			return
		}
		for r := range reqs {
			if r.Type != "exec" {
				_ = r.Reply(false, nil)
				continue
			}
			_ = r.Reply(true, nil)
			command := string(r.Payload[4:])
			if s.run != nil {
				s.run(ch, command)
			} else {
				s.git(ch, command)
			}
			ch.Close()
			break
		}
	}
}

// git does what a Git host's restricted shell does: one command, one quoted path.
func (s *sshServer) git(ch ssh.Channel, command string) {
	path, ok := strings.CutPrefix(command, "git-upload-pack '")
	path = strings.ReplaceAll(strings.TrimSuffix(path, "'"), `'\''`, "'")
	if !ok || strings.Contains(path, "..") {
		fmt.Fprintln(ch.Stderr(), "command refused")
		return
	}
	cmd := exec.Command("git-upload-pack", filepath.Join(s.root, path))
	cmd.Env = []string{"PATH=/usr/bin:/bin:/usr/lib/git-core", "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1"}
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	stdin, err := cmd.StdinPipe() // and not cmd.Stdin, as a client that waits for an answer does not close its side
	if err != nil {
		return
	}
	go func() { _, _ = io.Copy(stdin, ch); stdin.Close() }()
	err = cmd.Run()
	var exit *exec.ExitError
	status := uint32(0)
	if errors.As(err, &exit) {
		status = uint32(exit.ExitCode())
	}
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
}

func (s *sshServer) addr() string { return s.listener.Addr().String() }
func (s *sshServer) known() []byte {
	return []byte(knownhosts.Line([]string{knownhosts.Normalize(s.addr())}, s.host.PublicKey()) + "\n")
}

func TestSSH(t *testing.T) {
	r := newRepo(t)
	first := r.write("a.yaml", "one").commit("first")
	r.git("tag", "v1")
	second := r.write("a.yaml", "two").commit("second")
	if out, err := exec.Command("cp", "-r", r.dir, filepath.Join(filepath.Dir(r.dir), "it's here")).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	signer, key := newSigner(t)
	_, wrong := newSigner(t)
	other, _ := newSigner(t)
	srv := newSSHServer(t, filepath.Dir(r.dir), signer.PublicKey())
	stranger := []byte(knownhosts.Line([]string{knownhosts.Normalize(srv.addr())}, other.PublicKey()) + "\n")
	for _, c := range []struct {
		name, path string
		ref        Ref
		creds      *Credentials
		commit     string
		class      error
	}{
		{"branch", "/repo", Ref{Branch: "main"}, &Credentials{Identity: key, KnownHosts: srv.known()}, second, nil},
		{"tag", "/repo", Ref{Tag: "v1"}, &Credentials{Identity: key, KnownHosts: srv.known()}, first, nil},
		{"HEAD", "/repo", Ref{}, &Credentials{Identity: key, KnownHosts: srv.known()}, second, nil},
		{"commit that is no tip", "/repo", Ref{Commit: first}, &Credentials{Identity: key, KnownHosts: srv.known()}, first, nil},
		{"quote in the path", "/it's here", Ref{}, &Credentials{Identity: key, KnownHosts: srv.known()}, second, nil},
		{"host not known", "/repo", Ref{}, &Credentials{Identity: key}, "", ErrHostKey},
		{"another host key", "/repo", Ref{}, &Credentials{Identity: key, KnownHosts: stranger}, "", ErrHostKey},
		{"wrong key", "/repo", Ref{}, &Credentials{Identity: wrong, KnownHosts: srv.known()}, "", ErrAuth},
		{"no key", "/repo", Ref{}, &Credentials{KnownHosts: srv.known()}, "", ErrAuth},
		{"key is no key", "/repo", Ref{}, &Credentials{Identity: []byte(canary), KnownHosts: srv.known()}, "", ErrAuth},
		{"no such repository", "/none", Ref{}, &Credentials{Identity: key, KnownHosts: srv.known()}, "", ErrNotFound},
		{"no such branch", "/repo", Ref{Branch: "x"}, &Credentials{Identity: key, KnownHosts: srv.known()}, "", ErrRefNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openStore(t, Limits{})
			snap, err := s.Snapshot(t.Context(), Spec{URL: "ssh://git@" + srv.addr() + c.path, Ref: c.ref, Credentials: c.creds})
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
	signer, key := newSigner(t)
	release := make(chan struct{})
	srv := newSSHServer(t, t.TempDir(), signer.PublicKey())
	srv.run = func(ch ssh.Channel, _ string) {
		go io.Copy(io.Discard, ch)
		<-release
	}
	defer close(release)
	s := openStore(t, Limits{Stall: 100 * time.Millisecond})
	_, err := s.Snapshot(t.Context(), Spec{URL: "ssh://git@" + srv.addr() + "/repo", Credentials: &Credentials{Identity: key, KnownHosts: srv.known()}})
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
	_, err = s.Snapshot(t.Context(), Spec{URL: "ssh://git@" + l.Addr().String() + "/repo", Credentials: &Credentials{Identity: key, KnownHosts: srv.known()}})
	if !errors.Is(err, ErrTimeout) {
		t.Fatal(err)
	}
}

func TestParseCredentials(t *testing.T) {
	_, key := newSigner(t)
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
