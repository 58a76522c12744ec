// Package sourcetest has what tests read repositories from: servers that behave as Git hosts do.
package sourcetest

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

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// SSHServer runs git-upload-pack for whoever shows the right key, as a Git host does.
type SSHServer struct {
	listener net.Listener
	config   *ssh.ServerConfig
	host     ssh.Signer
	root     string
	conns    sync.WaitGroup
	// Run, if set, answers instead of git.
	Run func(ch ssh.Channel, command string)
}

// NewKey returns a key, and its private half as OpenSSH writes it.
func NewKey(t testing.TB) (ssh.Signer, []byte) {
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

// NewSSHServer serves the repositories below root until the test ends.
func NewSSHServer(t testing.TB, root string, client ssh.PublicKey) *SSHServer {
	t.Helper()
	host, _ := NewKey(t)
	s := &SSHServer{host: host, root: root}
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

func (s *SSHServer) serve() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.conns.Go(func() { s.handle(conn) })
	}
}

func (s *SSHServer) handle(conn net.Conn) {
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
			if s.Run != nil {
				s.Run(ch, command)
			} else {
				s.git(ch, command)
			}
			ch.Close()
			break
		}
	}
}

// git does what a Git host's restricted shell does: one command, one quoted path.
func (s *SSHServer) git(ch ssh.Channel, command string) {
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

// Addr is host:port.
func (s *SSHServer) Addr() string { return s.listener.Addr().String() }

// Known is the line of known_hosts for the server's own key.
func (s *SSHServer) Known() []byte {
	return []byte(knownhosts.Line([]string{knownhosts.Normalize(s.Addr())}, s.host.PublicKey()) + "\n")
}
