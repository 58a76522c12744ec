package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	remotecommandserver "k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/gitopsd/gitopsd/internal/nodeagent/cri"
	"github.com/gitopsd/gitopsd/internal/nodeagent/hollow"
	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
)

// authority signs certificates of a test.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir string) *authority {
	a := &authority{t: t, dir: dir}
	a.key = a.newKey()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.write("ca.crt", "CERTIFICATE", der)
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return k
}

func (a *authority) write(name, kind string, der []byte) string {
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// issue makes a certificate and key of that name and returns their files.
func (a *authority) issue(file, cn, org string) (cert, key string) {
	k := a.newKey()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn, Organization: []string{org}}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, k.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	kb, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.write(file+".crt", "CERTIFICATE", der), a.write(file+".key", "EC PRIVATE KEY", kb)
}

// site is a server with one running pod on a hollow runtime.
type site struct {
	t   *testing.T
	ca  *authority
	url string
	dir string
}

func (s *site) Find(namespace, name string) (*v1.Pod, lifecycle.Runtime, bool) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "u1"}}
	return pod, lifecycle.Runtime{
		Sandboxes: []lifecycle.Sandbox{{ID: "s1", Ready: true}},
		Containers: []lifecycle.Container{
			{ID: "hollow://c2", Name: "web", State: lifecycle.Running, Attempt: 1}, {ID: "hollow://c1", Name: "web", State: lifecycle.Exited},
		},
	}, namespace == "shop" && name == "web"
}

func (s *site) List() []*v1.Pod {
	p, _, _ := s.Find("shop", "web")
	return []*v1.Pod{p}
}

// echo is what runs behind exec.
type echo struct{}

func (echo) Exec(_ context.Context, _ string, cmd []string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommandserver.TerminalSize) error {
	fmt.Fprintln(out, strings.Join(cmd, " "))
	if in != nil {
		_, err := io.Copy(out, in)
		return err
	}
	return nil
}

func (e echo) Attach(ctx context.Context, id string, in io.Reader, out, errs io.WriteCloser, tty bool, r <-chan remotecommandserver.TerminalSize) error {
	return e.Exec(ctx, id, []string{"attached"}, in, out, errs, tty, r)
}

func (echo) PortForward(_ context.Context, _ string, _ int32, s io.ReadWriteCloser) error {
	_, err := io.Copy(s, s)
	return err
}

func newSite(t *testing.T) *site {
	s := &site{t: t, dir: t.TempDir()}
	s.ca = newAuthority(t, s.dir)
	config := streaming.DefaultConfig
	config.Addr = "127.0.0.1:0"
	streams, err := streaming.NewServer(config, echo{})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(streams)
	base, err := url.Parse(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	config.BaseURL = base
	if streams, err = streaming.NewServer(config, echo{}); err != nil {
		t.Fatal(err)
	}
	web.Config.Handler = streams
	r := &streamer{Runtime: hollow.New(), streams: streams}
	client := r.serve(t, s.dir)
	cert, key := s.ca.issue("serving", "n1", "system:nodes")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	srv := New(Config{Address: "127.0.0.1", Port: port, CertFile: cert, KeyFile: key, ClientCA: filepath.Join(s.dir, "ca.crt"),
		Allowed: []string{"apiserver"}, Pods: s, CRI: client, LogDir: func(*v1.Pod) string { return filepath.Join(s.dir, "logs") }, NodeName: "n1", Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		web.Close()
	})
	s.url = fmt.Sprintf("https://127.0.0.1:%d", port)
	return s
}

// streamer hands exec and attach to a real streaming server.
type streamer struct {
	*hollow.Runtime
	streams streaming.Server
}

func (r *streamer) serve(t *testing.T, dir string) *cri.Client {
	r.OnStream = func(kind string, exec *runtimeapi.ExecRequest, attach *runtimeapi.AttachRequest, forward *runtimeapi.PortForwardRequest) (string, error) {
		switch kind {
		case "exec":
			a, err := r.streams.GetExec(exec)
			return a.GetUrl(), err
		case "attach":
			a, err := r.streams.GetAttach(attach)
			return a.GetUrl(), err
		}
		a, err := r.streams.GetPortForward(forward)
		return a.GetUrl(), err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	socket := filepath.Join(dir, "cri.sock")
	go func() { done <- r.Serve(ctx, socket) }()
	c, err := cri.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		cancel()
		<-done
	})
	return c
}

func (s *site) client(cn, org string) *http.Client {
	pool := x509.NewCertPool()
	pool.AddCert(s.ca.cert)
	config := &tls.Config{RootCAs: pool}
	if cn != "" {
		cert, key := s.ca.issue("client", cn, org)
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			s.t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
}

func (s *site) get(c *http.Client, path string) (int, string) {
	for {
		r, err := c.Get(s.url + path)
		if err != nil {
			if strings.Contains(err.Error(), "connection refused") {
				continue // not listening yet
			}
			return 0, err.Error()
		}
		b, _ := io.ReadAll(r.Body)
		r.Body.Close()
		return r.StatusCode, string(b)
	}
}

func TestNobodyUnnamed(t *testing.T) {
	s := newSite(t)
	for _, path := range []string{"/healthz", "/pods", "/metrics", "/metrics/resource", "/stats/summary", "/containerLogs/shop/web/web", "/exec/shop/web/web?command=id&output=1", "/portForward/shop/web", "/nothing"} {
		if code, body := s.get(s.client("", ""), path); code != 0 || !strings.Contains(body, "certificate required") {
			t.Errorf("%s without a certificate: %d %s", path, code, body)
		}
		if code, _ := s.get(s.client("somebody", "people"), path); code != http.StatusForbidden {
			t.Errorf("%s for somebody: %d", path, code)
		}
	}
	for _, who := range [][2]string{{"apiserver", "x"}, {"admin", "system:masters"}} {
		if code, body := s.get(s.client(who[0], who[1]), "/healthz"); code != 200 || body != "ok" {
			t.Errorf("%s: %d %s", who[0], code, body)
		}
	}
}

func TestRenewedCertificateIsServed(t *testing.T) {
	s := newSite(t)
	c := s.client("apiserver", "x")
	serial := func() *big.Int {
		r, err := c.Get(s.url + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		return r.TLS.PeerCertificates[0].SerialNumber
	}
	s.get(c, "/healthz")
	before := serial()
	s.ca.issue("serving", "n1", "system:nodes")
	if serial().Cmp(before) == 0 {
		t.Error("the old certificate is served")
	}
}

func TestLogs(t *testing.T) {
	s := newSite(t)
	dir := filepath.Join(s.dir, "logs", "web")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	now := "2026-01-01T00:00:0%d.000000000Z %s F line %d\n"
	text := fmt.Sprintf(now, 1, "stdout", 1) + fmt.Sprintf(now, 2, "stderr", 2) + fmt.Sprintf(now, 3, "stdout", 3)
	if err := os.WriteFile(filepath.Join(dir, "1.log"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "0.log"), []byte(fmt.Sprintf(now, 0, "stdout", 0)), 0o600); err != nil {
		t.Fatal(err)
	}
	c := s.client("apiserver", "x")
	for query, want := range map[string]string{
		"": "line 1\nline 2\nline 3\n", "?tailLines=1": "line 3\n", "?sinceTime=2026-01-01T00:00:02Z": "line 2\nline 3\n", "?previous=true": "line 0\n",
		"?limitBytes=4": "line", "?stream=Stderr": "line 2\n", "?timestamps=true&tailLines=1": "2026-01-01T00:00:03.000000000Z line 3\n",
	} {
		if code, body := s.get(c, "/containerLogs/shop/web/web"+query); code != 200 || body != want {
			t.Errorf("%s: %d %q", query, code, body)
		}
	}
	for path, want := range map[string]int{"/containerLogs/shop/none/web": 404, "/containerLogs/shop/web/none": 400, "/containerLogs/shop/web/web?tailLines=x": 400} {
		if code, _ := s.get(c, path); code != want {
			t.Errorf("%s: %d", path, code)
		}
	}
}

func TestExecBySPDYAndWebSocket(t *testing.T) {
	s := newSite(t)
	s.get(s.client("apiserver", "x"), "/healthz")
	cert, key := s.ca.issue("client", "apiserver", "x")
	config := &rest.Config{Host: s.url, TLSClientConfig: rest.TLSClientConfig{CertFile: cert, KeyFile: key, CAFile: filepath.Join(s.dir, "ca.crt")}}
	u, err := url.Parse(s.url + "/exec/shop/web/web?command=say&command=hello&input=1&output=1&error=1")
	if err != nil {
		t.Fatal(err)
	}
	spdy, err := remotecommand.NewSPDYExecutor(config, "POST", u)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := remotecommand.NewWebSocketExecutor(config, "GET", u.String())
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]remotecommand.Executor{"spdy": spdy, "websocket": socket} {
		var out bytes.Buffer
		err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("typed\n"), Stdout: &out, Stderr: io.Discard})
		if err != nil || out.String() != "say hello\ntyped\n" {
			t.Errorf("%s: %q, %v", name, out.String(), err)
		}
	}
}

func TestFigures(t *testing.T) {
	s := newSite(t)
	c := s.client("apiserver", "x")
	if code, body := s.get(c, "/metrics/resource"); code != 200 || !strings.Contains(body, "node_cpu_usage_seconds_total ") {
		t.Errorf("%d %s", code, body)
	}
	if code, body := s.get(c, "/stats/summary"); code != 200 || !strings.Contains(body, `"nodeName":"n1"`) {
		t.Errorf("%d %s", code, body)
	}
}
