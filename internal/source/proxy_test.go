package source

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gitopsd/gitopsd/internal/redact"
	"github.com/gitopsd/gitopsd/internal/source/sourcetest"
	"golang.org/x/crypto/ssh/knownhosts"
)

// names is what the proxies of these tests resolve and nobody else does: whatever reaches the server went through them.
type names struct {
	mu    sync.Mutex
	to    map[string]string
	asked []string
}

func (n *names) dial(target string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, target)
	to, ok := n.to[target]
	if !ok {
		return nil, fmt.Errorf("no such host %s", target)
	}
	return net.Dial("tcp", to)
}

func pump(a, b io.ReadWriteCloser) {
	go func() {
		_, _ = io.Copy(a, b)
		a.Close()
	}()
	_, _ = io.Copy(b, a)
	b.Close()
}

// httpProxy is a proxy for CONNECT, and for requests in the clear, that asks for a password.
func httpProxy(t *testing.T, n *names, user, password string) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req := &http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
		if u, p, ok := req.BasicAuth(); !ok || u != user || p != password {
			w.Header().Set("Proxy-Authenticate", `Basic realm="proxy"`)
			http.Error(w, "who are you?", http.StatusProxyAuthRequired)
			return
		}
		if r.Method != http.MethodConnect {
			http.Error(w, "tunnels only", http.StatusMethodNotAllowed)
			return
		}
		out, err := n.dial(r.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		in, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(in, "HTTP/1.1 200 Connection established\r\n\r\n")
		pump(in, out)
	}))
	t.Cleanup(srv.Close)
	return srv
}

// socksProxy is a SOCKS5 proxy (RFC 1928) that asks for a password (RFC 1929).
func socksProxy(t *testing.T, n *names, user, password string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				if err := socksServe(c, n, user, password); err != nil {
					c.Close()
				}
			}()
		}
	}()
	return l.Addr().String()
}

func socksServe(c net.Conn, n *names, user, password string) error {
	field := func() (string, error) { // one byte of length, and the rest
		var length [1]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return "", err
		}
		data := make([]byte, length[0])
		_, err := io.ReadFull(c, data)
		return string(data), err
	}
	skip := func(n int) error { _, err := io.CopyN(io.Discard, c, int64(n)); return err }
	if err := skip(1); err != nil {
		return err
	}
	if _, err := field(); err != nil {
		return err
	}
	if _, err := c.Write([]byte{5, 2}); err != nil {
		return err
	}
	if err := skip(1); err != nil {
		return err
	}
	u, err := field()
	if err != nil {
		return err
	}
	p, err := field()
	if err != nil {
		return err
	}
	if u != user || p != password {
		_, _ = c.Write([]byte{1, 1})
		return errors.New("who are you?")
	}
	if _, err := c.Write([]byte{1, 0}); err != nil {
		return err
	}
	if err := skip(4); err != nil { // version, command, reserved, type: a name
		return err
	}
	host, err := field()
	if err != nil {
		return err
	}
	var port [2]byte
	if _, err := io.ReadFull(c, port[:]); err != nil {
		return err
	}
	out, err := n.dial(fmt.Sprintf("%s:%d", host, int(port[0])<<8|int(port[1])))
	if err != nil {
		_, _ = c.Write([]byte{5, 4, 0, 1, 0, 0, 0, 0, 0, 0})
		return err
	}
	if _, err := c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
		return err
	}
	pump(c, out)
	return nil
}

func certificateOf(srv *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
}

// A repository whose host only the proxy knows is read over HTTPS and SSH, through proxies of both kinds.
func TestProxies(t *testing.T) {
	const password = "hunter2-of-the-proxy"
	defer redact.Register(password)()
	r := newRepo(t)
	want := r.write("a", "1").commit("first")
	https := httptest.NewTLSServer(gitHandler(t, filepath.Dir(r.dir), nil))
	defer https.Close()
	signer, key := sourcetest.NewKey(t)
	ssh := sourcetest.NewSSHServer(t, filepath.Dir(r.dir), signer.PublicKey())
	known := strings.Replace(string(ssh.Known()), knownhosts.Normalize(ssh.Addr()), "[git.example]:2222", 1)
	n := &names{to: map[string]string{"example.com:443": strings.TrimPrefix(https.URL, "https://"), "git.example:2222": ssh.Addr()}}
	forTLS := Credentials{CABundle: certificateOf(https)}
	forSSH := Credentials{Identity: key, KnownHosts: []byte(known)}

	for _, address := range []string{httpProxy(t, n, "bob", password).URL, "socks5://" + socksProxy(t, n, "bob", password)} {
		with := func(creds Credentials, password string) *Credentials {
			proxy, err := ProxyFromSecret(map[string][]byte{"address": []byte(address), "username": []byte("bob"), "password": []byte(password + "\n")})
			if err != nil {
				t.Fatal(err)
			}
			creds.Proxy = proxy
			return &creds
		}
		for url, creds := range map[string]Credentials{"https://example.com/repo": forTLS, "ssh://git@git.example:2222/repo": forSSH} {
			snap, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: url, Credentials: with(creds, password)})
			if err != nil || snap.Commit != want {
				t.Errorf("%s through %s: %v", url, address, err)
			}
			_, err = openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: url, Credentials: with(creds, "wrong")})
			if err == nil || strings.Contains(err.Error(), password) {
				t.Errorf("%s through %s with a wrong password: %v", url, address, err)
			}
			t.Log(err)
		}
		_, err := openStore(t, Limits{}).Snapshot(t.Context(), Spec{URL: "ssh://git@other.example/repo", Credentials: with(forSSH, password)})
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "spec.source.proxySecretRef") {
			t.Errorf("a host that the proxy does not know: %v", err)
		}
	}
	if len(n.asked) == 0 {
		t.Error("nothing went through the proxies")
	}
}

func TestProxyFromSecret(t *testing.T) {
	for _, c := range []struct {
		address, user, want, says string
	}{
		{"http://proxy:3128", "bob", "http://bob:pw@proxy:3128", ""},
		{"socks5://proxy", "", "socks5://proxy", ""},
		{"https://ann:secret@proxy/", "", "https://ann:secret@proxy", ""},
		{"proxy:3128", "", "", "scheme"},
		{"ftp://proxy", "", "", `scheme "ftp"`},
		{"", "", "", "no address"},
		{"http://%zz", "", "", "no address"},
	} {
		data := map[string][]byte{"address": []byte(c.address)}
		if c.user != "" {
			data["username"], data["password"] = []byte(c.user), []byte("pw")
		}
		p, err := ProxyFromSecret(data)
		switch {
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) && !strings.Contains(err.Error(), "no address")):
			t.Errorf("%q: %v", c.address, err)
		case c.says == "" && (err != nil || p.url().String() != c.want):
			t.Errorf("%q: %v %v", c.address, p, err)
		}
	}
	a, b := &Proxy{Address: &url.URL{Scheme: "http", Host: "p"}}, &Proxy{Address: &url.URL{Scheme: "http", Host: "p"}, Username: "x"}
	if a.fingerprint() == b.fingerprint() || (*Proxy)(nil).fingerprint() == a.fingerprint() {
		t.Error("proxies are not told apart")
	}
}
