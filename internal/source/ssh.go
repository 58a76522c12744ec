package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// sshConversation runs git-upload-pack on the remote side of one SSH connection.
type sshConversation struct {
	conn   *ssh.Client
	run    *ssh.Session
	stdin  io.WriteCloser
	stdout io.Reader
	stderr *tail
	dog    *watchdog
	stop   func() bool
}

func (c *Credentials) signer() (ssh.Signer, error) {
	signer, err := ssh.ParsePrivateKey(c.Identity)
	var missing *ssh.PassphraseMissingError
	if errors.As(err, &missing) {
		if c.Passphrase == "" {
			return nil, &Error{Class: ErrAuth, Text: "identity is encrypted", Next: "add its passphrase, or use a deploy key without one"}
		}
		signer, err = ssh.ParsePrivateKeyWithPassphrase(c.Identity, []byte(c.Passphrase))
	}
	if err != nil {
		return nil, &Error{Class: ErrAuth, Text: "identity is no private key that can be read", Next: "put the whole file of a private key (PEM or OpenSSH) into it"}
	}
	return signer, nil
}

// dialSSH connects and starts git-upload-pack. known lists files in known_hosts form that this machine trusts
// besides those of the credentials.
func dialSSH(ctx context.Context, a address, creds Credentials, known []string, limits Limits, dog *watchdog) (*sshConversation, error) {
	config, err := sshConfig(a, creds, known)
	if err != nil {
		return nil, err
	}
	raw, err := creds.Proxy.dial(ctx, a.dialHost(), limits.Connect)
	if err != nil {
		return nil, err
	}
	// The library knows no context: a connection that is closed under it ends whatever it waits for.
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	conn, chans, reqs, err := ssh.NewClientConn(raw, a.dialHost(), config)
	if err != nil {
		stop()
		raw.Close()
		return nil, sshError(ctx, a, err)
	}
	dog.touch()
	s := &sshConversation{conn: ssh.NewClient(conn, chans, reqs), stderr: &tail{}, dog: dog, stop: stop}
	if err := s.start(a.path); err != nil {
		s.close()
		return nil, sshError(ctx, a, err)
	}
	return s, nil
}

func (s *sshConversation) start(path string) (err error) {
	if s.run, err = s.conn.NewSession(); err != nil {
		return err
	}
	if s.stdin, err = s.run.StdinPipe(); err != nil {
		return err
	}
	if s.stdout, err = s.run.StdoutPipe(); err != nil {
		return err
	}
	s.run.Stderr = s.stderr
	return s.run.Start("git-upload-pack '" + strings.ReplaceAll(path, "'", `'\''`) + "'")
}

func (a address) dialHost() string {
	if _, _, err := net.SplitHostPort(a.host); err == nil {
		return a.host
	}
	return net.JoinHostPort(strings.Trim(a.host, "[]"), "22")
}

func sshConfig(a address, creds Credentials, known []string) (*ssh.ClientConfig, error) {
	config := &ssh.ClientConfig{User: a.user}
	if len(creds.Identity) > 0 {
		signer, err := creds.signer()
		if err != nil {
			return nil, err
		}
		config.Auth = append(config.Auth, ssh.PublicKeys(signer))
	}
	if creds.Password != "" {
		config.Auth = append(config.Auth, ssh.Password(creds.Password))
	}
	callback, err := hostKeys(creds.KnownHosts, known)
	if err != nil {
		return nil, err
	}
	config.HostKeyCallback = callback
	config.HostKeyAlgorithms = trustedAlgorithms(callback, a.dialHost())
	return config, nil
}

// hostKeys makes one callback of the given lines and of the files that exist.
func hostKeys(lines []byte, files []string) (ssh.HostKeyCallback, error) {
	var use []string
	for _, f := range files {
		if _, err := os.Stat(f); err == nil {
			use = append(use, f)
		}
	}
	if len(bytes.TrimSpace(lines)) > 0 {
		f, err := os.CreateTemp("", "gitopsd-known-hosts-*") // the library reads files only; it holds public keys
		if err != nil {
			return nil, &Error{Class: ErrStorage, Err: err}
		}
		defer os.Remove(f.Name())
		_, err = f.Write(slices.Concat(bytes.TrimSpace(lines), []byte("\n")))
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, &Error{Class: ErrStorage, Err: err}
		}
		use = append(use, f.Name())
	}
	callback, err := knownhosts.New(use...)
	if err != nil {
		return nil, &Error{Class: ErrHostKey, Text: "known_hosts cannot be read", Err: err, Next: "put the output of ssh-keyscan into it"}
	}
	return callback, nil
}

// trustedAlgorithms asks for the kinds of keys that are known for the host. Without it a server with several
// keys may show one that is not in known_hosts, though another one is.
func trustedAlgorithms(callback ssh.HostKeyCallback, host string) []string {
	var known *knownhosts.KeyError
	if !errors.As(callback(host, &net.TCPAddr{IP: net.IPv4zero}, noKey{}), &known) {
		return nil
	}
	var algorithms []string
	for _, k := range known.Want {
		if t := k.Key.Type(); t == ssh.KeyAlgoRSA {
			algorithms = append(algorithms, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		} else {
			algorithms = append(algorithms, t)
		}
	}
	sort.Strings(algorithms)
	return algorithms
}

// noKey is a host key that nobody trusts.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

func sshError(ctx context.Context, a address, err error) error {
	var key *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	host, port, _ := net.SplitHostPort(a.dialHost())
	scan := "ssh-keyscan " + host
	if port != "22" {
		scan = "ssh-keyscan -p " + port + " " + host
	}
	switch {
	case ctx.Err() != nil:
		return err
	case errors.As(err, &revoked):
		return &Error{Class: ErrHostKey, Text: "the host key of " + quote(host) + " is revoked in known_hosts", Next: "find out why before anything else"}
	case errors.As(err, &key) && len(key.Want) > 0:
		return &Error{Class: ErrHostKey, Text: "the host key of " + quote(host) + " is not the one in known_hosts: it changed, or somebody is in between",
			Next: "if the change was announced, put the new key (`" + scan + "`) into known_hosts of the credentials"}
	case errors.As(err, &key):
		return &Error{Class: ErrHostKey, Text: "the host key of " + quote(host) + " is not known",
			Next: "compare the output of `" + scan + "` with what the host's owner says and put it into known_hosts of the credentials"}
	}
	// The library has no type for this refusal; "unable to authenticate" is its text since 2012.
	if strings.Contains(err.Error(), "unable to authenticate") {
		return &Error{Class: ErrAuth, Text: "the SSH server refuses the key", Next: "put the private key into identity of the credentials and its public half among the repository's deploy keys"}
	}
	return err
}

func (s *sshConversation) advertisement(context.Context) (io.ReadCloser, error) {
	return attentive{io.NopCloser(refsOf{s}), s.dog}, nil
}

// refsOf reads the remote's answer, and says what the remote wrote on stderr when there is none: that is where
// git and the shells of Git servers explain themselves.
type refsOf struct{ s *sshConversation }

func (r refsOf) Read(p []byte) (int, error) {
	n, err := r.s.stdout.Read(p)
	if err == io.EOF && n == 0 {
		_ = r.s.run.Wait()
		if said := r.s.stderr.String(); said != "" {
			return 0, remoteSays(said)
		}
	}
	return n, err
}

func (s *sshConversation) request(_ context.Context, encode func(io.Writer) error) (io.ReadCloser, error) {
	if err := encode(s.stdin); err != nil {
		return nil, fmt.Errorf("send request: %w", err)
	}
	return attentive{io.NopCloser(s.stdout), s.dog}, nil
}

func (s *sshConversation) close() {
	s.stop()
	if s.run != nil {
		s.run.Close()
	}
	s.conn.Close()
}

// tail keeps the first few lines of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if room := 400 - t.buf.Len(); room > 0 {
		t.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(t.buf.String())
}
