package source

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/proxy"
)

// Proxy is what a repository is reached through.
type Proxy struct {
	Address            *url.URL // http, https or socks5
	Username, Password string
}

// ProxyFromSecret reads the data of a Secret: address, and perhaps username and password. The names are Flux's.
func ProxyFromSecret(data map[string][]byte) (*Proxy, error) {
	refuse := func(text string) error {
		return &Error{Class: ErrRefused, Text: text, Next: "write http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT as address"}
	}
	u, err := url.Parse(strings.TrimSpace(string(data["address"])))
	if err != nil || u.Host == "" { // its text repeats the URL, password and all
		return nil, refuse("the Secret holds no address of a proxy")
	}
	switch u.Scheme {
	case "http", "https", "socks5":
	default:
		return nil, refuse("a proxy of scheme " + quote(u.Scheme) + " is not supported")
	}
	p := &Proxy{Address: &url.URL{Scheme: u.Scheme, Host: u.Host}, Username: strings.TrimSpace(string(data["username"])), Password: strings.TrimRight(string(data["password"]), "\r\n")}
	if u.User != nil && p.Username == "" {
		p.Username = u.User.Username()
		p.Password, _ = u.User.Password()
	}
	return p, nil
}

// url is the proxy's address with its credentials, as net/http takes it.
func (p *Proxy) url() *url.URL {
	u := *p.Address
	if p.Username != "" {
		u.User = url.UserPassword(p.Username, p.Password)
	}
	return &u
}

func (p *Proxy) fingerprint() string {
	if p == nil {
		return ""
	}
	sum := sha256.Sum256([]byte(p.url().String()))
	return hex.EncodeToString(sum[:])
}

// forHTTP says through what a request goes: without a proxy of its own as HTTPS_PROXY, HTTP_PROXY and NO_PROXY say.
func (p *Proxy) forHTTP() func(*http.Request) (*url.URL, error) {
	if p == nil {
		return http.ProxyFromEnvironment
	}
	return http.ProxyURL(p.url())
}

// dial connects to host:port, through the proxy if there is one.
func (p *Proxy) dial(ctx context.Context, target string, timeout time.Duration) (net.Conn, error) {
	direct := &net.Dialer{Timeout: timeout}
	if p == nil {
		return direct.DialContext(ctx, "tcp", target)
	}
	if p.Address.Scheme == "socks5" {
		var auth *proxy.Auth
		if p.Username != "" {
			auth = &proxy.Auth{User: p.Username, Password: p.Password}
		}
		d, err := proxy.SOCKS5("tcp", p.host(), auth, direct)
		if err != nil {
			return nil, p.failed(err)
		}
		conn, err := d.(proxy.ContextDialer).DialContext(ctx, "tcp", target)
		if err != nil {
			return nil, p.failed(err)
		}
		return conn, nil
	}
	return p.connect(ctx, direct, target, timeout)
}

// connect asks an HTTP proxy for a tunnel (RFC 9110, 9.3.6).
func (p *Proxy) connect(ctx context.Context, direct *net.Dialer, target string, timeout time.Duration) (net.Conn, error) {
	conn, err := direct.DialContext(ctx, "tcp", p.host())
	if err != nil {
		return nil, p.failed(err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		conn.Close()
		return nil, p.failed(err)
	}
	if p.Address.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{ServerName: p.Address.Hostname(), MinVersion: tls.VersionTLS12})
	}
	tunnel, err := p.tunnel(conn, target)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return tunnel, conn.SetDeadline(time.Time{})
}

func (p *Proxy) tunnel(conn net.Conn, target string) (net.Conn, error) {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{"User-Agent": {"gitopsd"}}}
	if p.Username != "" {
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(p.Username+":"+p.Password)))
	}
	if err := req.Write(conn); err != nil {
		return nil, p.failed(err)
	}
	r := bufio.NewReaderSize(conn, 64<<10)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, p.failed(err)
	}
	resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return tunnelled{conn, r}, nil
	case http.StatusProxyAuthRequired:
		return nil, &Error{Class: ErrAuth, Text: "the proxy " + quote(p.Address.String()) + " wants credentials, or others", Next: "correct username and password in the Secret of spec.source.proxySecretRef"}
	}
	return nil, p.failed(fmt.Errorf("it answers HTTP %d", resp.StatusCode))
}

// tunnelled reads first what came together with the proxy's answer.
type tunnelled struct {
	net.Conn
	r *bufio.Reader
}

func (t tunnelled) Read(p []byte) (int, error) { return t.r.Read(p) }

// host is the proxy's address with a port.
func (p *Proxy) host() string {
	if p.Address.Port() != "" {
		return p.Address.Host
	}
	return net.JoinHostPort(p.Address.Hostname(), map[string]string{"http": "80", "https": "443", "socks5": "1080"}[p.Address.Scheme])
}

func (p *Proxy) failed(err error) error {
	var timeout net.Error
	e := &Error{Class: ErrUnreachable, Text: "the proxy " + quote(p.Address.String()) + " does not connect", Err: err, Next: "check the Secret of spec.source.proxySecretRef and that the proxy runs"}
	if errors.As(err, &timeout) && timeout.Timeout() {
		e.Class = ErrTimeout
	}
	return e
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
