package source

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// httpConversation speaks Git's smart HTTP protocol (gitprotocol-http(5)).
type httpConversation struct {
	client *http.Client
	creds  Credentials
	base   *url.URL // moves with a redirect of the first request, within the rules of follow
	origin string   // where credentials may go
	dog    *watchdog
}

// httpTransport is kept for the life of a remote, so that polling reuses one connection.
func httpTransport(creds Credentials, limits Limits) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:                  creds.Proxy.forHTTP(),
		DialContext:            (&net.Dialer{Timeout: limits.Connect, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    limits.Connect,
		ResponseHeaderTimeout:  limits.Stall,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    1,
		ForceAttemptHTTP2:      true,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		MaxResponseHeaderBytes: 1 << 20,
	}
	if len(creds.CABundle) > 0 {
		pool, err := certPool(creds.CABundle)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return t, nil
}

func certPool(bundle []byte) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(bundle) {
		return nil, &Error{Class: ErrHostKey, Text: "caFile holds no certificate", Next: "put PEM blocks of type CERTIFICATE into it"}
	}
	return pool, nil
}

func newHTTPConversation(a address, creds Credentials, t *http.Transport, dog *watchdog) *httpConversation {
	base := &url.URL{Scheme: a.scheme, Host: a.host, Path: a.path}
	h := &httpConversation{creds: creds, base: base, origin: a.scheme + "://" + a.host, dog: dog}
	h.client = &http.Client{Transport: t, CheckRedirect: h.follow}
	return h
}

// follow allows redirects of the first request only, as git does by default, never from https to http, and
// never to another origin when credentials would have to be left behind.
func (h *httpConversation) follow(req *http.Request, via []*http.Request) error {
	from, to := via[len(via)-1].URL, req.URL
	stop := func(text, next string) error { return &Error{Class: ErrRefused, Text: text, Next: next} }
	switch {
	case via[0].Method != http.MethodGet:
		return stop("the remote redirects in the middle of a fetch", "use the repository's final URL")
	case len(via) > 5:
		return stop("the remote redirects in circles", "use the repository's final URL")
	case to.Scheme != "https" && to.Scheme != "http", from.Scheme == "https" && to.Scheme == "http":
		return stop("the remote redirects from "+from.Scheme+" to "+quote(to.Scheme), "use the repository's final URL")
	}
	req.Header.Del("Authorization")
	if origin := to.Scheme + "://" + strings.ToLower(to.Host); origin != h.origin && h.creds.basicOrBearer() {
		return stop("the remote redirects to "+quote(origin)+", which the credentials were not given for",
			"write that address in the URL, if it is to have the credentials")
	}
	h.authorize(req)
	return nil
}

func (h *httpConversation) authorize(req *http.Request) {
	if req.URL.Scheme+"://"+strings.ToLower(req.URL.Host) != h.origin {
		return
	}
	switch {
	case h.creds.BearerToken != "":
		req.Header.Set("Authorization", "Bearer "+h.creds.BearerToken)
	case h.creds.Username+h.creds.Password != "":
		req.SetBasicAuth(h.creds.Username, h.creds.Password)
	}
}

func (h *httpConversation) advertisement(ctx context.Context) (io.ReadCloser, error) {
	u := *h.base
	u.Path = strings.TrimSuffix(u.Path, "/") + "/info/refs"
	u.RawQuery = "service=git-upload-pack"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := h.do(req)
	if err != nil {
		return nil, err
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/x-git-upload-pack-advertisement" {
		resp.Body.Close()
		return nil, &Error{Class: ErrNotFound, Text: "the answer is no Git repository (Content-Type " + quote(ct) + ")",
			Next: "check that the URL is the one for git clone; the dumb HTTP protocol is not supported"}
	}
	final := *resp.Request.URL
	if !strings.HasSuffix(final.Path, "/info/refs") {
		resp.Body.Close()
		return nil, &Error{Class: ErrRefused, Text: "the remote redirects to a page", Next: "use the repository's final URL"}
	}
	final.Path, final.RawQuery, final.Fragment, final.User = strings.TrimSuffix(final.Path, "/info/refs"), "", "", nil
	h.base = &final
	return attentive{resp.Body, h.dog}, nil
}

func (h *httpConversation) request(ctx context.Context, encode func(io.Writer) error) (io.ReadCloser, error) {
	var body bytes.Buffer
	if err := encode(&body); err != nil {
		return nil, err
	}
	u := *h.base
	u.Path = strings.TrimSuffix(u.Path, "/") + "/git-upload-pack"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), &body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
	req.Header.Set("Accept", "application/x-git-upload-pack-result")
	resp, err := h.do(req)
	if err != nil {
		return nil, err
	}
	return attentive{resp.Body, h.dog}, nil
}

func (h *httpConversation) do(req *http.Request) (*http.Response, error) {
	req.Header.Set("User-Agent", "git/gitopsd") // some servers serve Git to agents named git/ only
	h.authorize(req)
	resp, err := h.client.Do(req)
	h.dog.touch()
	if err != nil {
		return nil, tlsError(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
	resp.Body.Close()
	return nil, statusError(resp.StatusCode, string(said), h.creds.basicOrBearer())
}

func statusError(code int, said string, withCredentials bool) error {
	e := &Error{Class: ErrUnreachable, Text: fmt.Sprintf("the server answers HTTP %d", code), Next: "look at the Git server's log; gitopsd tries again by itself"}
	if said = oneLine(said); said != "" && !strings.HasPrefix(said, "<") {
		e.Text += " (" + said + ")"
	}
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		e.Class, e.Next = ErrAuth, "give credentials with --git-credentials FILE or source.secretRef"
		if withCredentials {
			e.Next = "check that the credentials are current and may read this repository"
		}
	case http.StatusNotFound, http.StatusGone:
		e.Class, e.Next = ErrNotFound, "correct the repository's URL, or give credentials that may see it"
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		e.Class = ErrTimeout
	case http.StatusTooManyRequests:
		e.Next = "use a longer interval; gitopsd tries again by itself"
	}
	return e
}

// tlsError tells a certificate that is not trusted from a network that does not work.
func tlsError(err error) error {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	if errors.As(err, &unknown) || errors.As(err, &name) || errors.As(err, &invalid) || errors.As(err, &verify) {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return &Error{Class: ErrHostKey, Text: "the server's certificate is not trusted", Err: err, Next: "put the server's CA into caFile of the credentials"}
	}
	return err
}

func (h *httpConversation) close() {}
