package webhook

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const secret = "canary-webhook-secret"

type sender struct {
	kind, header, value string
	body                io.Reader
}

func sign(body, with string) string {
	mac := hmac.New(sha256.New, []byte(with))
	mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}

func send(h http.Handler, s sender) *httptest.ResponseRecorder {
	req := httptest.NewRequest(http.MethodPost, "/hooks/"+s.kind, s.body)
	if s.header != "" {
		req.Header.Set(s.header, s.value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

// listener is a handler with one followed repository, and what it was asked to look at.
func listener(secrets map[string][]byte) (h http.Handler, looked *[]string) {
	looked = &[]string{}
	return Handler(Config{Log: slog.New(slog.DiscardHandler),
		Secrets: func(context.Context) (map[string][]byte, error) {
			if secrets == nil {
				return nil, errors.New("the API is away")
			}
			return secrets, nil
		},
		Look: func(repo string) int {
			*looked = append(*looked, repo)
			switch repo {
			case "https://git.example.com/acme/infra.git", "ssh://git@ssh.example.com/acme/infra.git":
				return 1
			}
			return 0
		}}), looked
}

func all(value string) map[string][]byte {
	return map[string][]byte{"github": []byte(value), "gitlab": []byte(value), "gitea": []byte(value), "generic": []byte(value)}
}

const (
	pushGitHub = `{"ref":"refs/heads/main","repository":{"clone_url":"https://git.example.com/acme/infra.git","ssh_url":"git@git.example.com:acme/infra.git"},"commits":[{"added":["../../etc/passwd"]}]}`
	pushGitLab = `{"object_kind":"push","project":{"git_http_url":"https://git.example.com/acme/infra.git"}}`
	named      = `{"repository":"https://git.example.com/acme/infra.git"}`
)

func TestSignedRequestsHaveTheRepositoryLookedAt(t *testing.T) {
	form := "payload=" + url.QueryEscape(pushGitHub)
	for name, s := range map[string]sender{
		"GitHub":           {"github", "X-Hub-Signature-256", "sha256=" + sign(pushGitHub, secret), strings.NewReader(pushGitHub)},
		"GitHub, a form":   {"github", "X-Hub-Signature-256", "sha256=" + sign(form, secret), strings.NewReader(form)},
		"GitLab":           {"gitlab", "X-Gitlab-Token", secret, strings.NewReader(pushGitLab)},
		"Gitea":            {"gitea", "X-Gitea-Signature", sign(pushGitHub, secret), strings.NewReader(pushGitHub)},
		"generic":          {"generic", "X-Signature", "sha256=" + sign(named, secret), strings.NewReader(named)},
		"the older secret": {"generic", "X-Signature", "sha256=" + sign(named, "older"), strings.NewReader(named)},
	} {
		t.Run(name, func(t *testing.T) {
			h, looked := listener(all(secret + "\n older \n"))
			if w := send(h, s); w.Code != http.StatusAccepted {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if (*looked)[0] != "https://git.example.com/acme/infra.git" {
				t.Errorf("looked at %v", *looked)
			}
		})
	}
}

// Some follow a repository by https and others by ssh, on hosts of other names: all of them are told.
func TestEveryNameIsLookedAt(t *testing.T) {
	h, looked := listener(all(secret))
	body := `{"repository":{"clone_url":"https://git.example.com/acme/infra.git","ssh_url":"ssh://git@ssh.example.com/acme/infra.git"}}`
	w := send(h, sender{"gitea", "X-Gitea-Signature", sign(body, secret), strings.NewReader(body)})
	if want := []string{"https://git.example.com/acme/infra.git", "ssh://git@ssh.example.com/acme/infra.git"}; w.Code != http.StatusAccepted || !slices.Equal(*looked, want) {
		t.Errorf("%d, looked at %v", w.Code, *looked)
	}
}

// piped is a listener of connections within the process, whose deadlines are in the time of a test.
type piped chan net.Conn

func (p piped) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p piped) Close() error   { close(p); return nil }
func (p piped) Addr() net.Addr { return &net.IPAddr{} }

// Bodies that do not come hold every place for a short time only; a GitLab token that is wrong holds none. In virtual time.
func TestSlowBodiesHoldNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := listener(all(secret))
		connections := piped(make(chan net.Conn))
		server := &http.Server{Handler: h}
		go server.Serve(connections)
		defer server.Close()
		post := func(kind, header, value, body string, length int) net.Conn {
			client, conn := net.Pipe()
			connections <- conn
			go fmt.Fprintf(client, "POST /hooks/%s HTTP/1.1\r\nHost: x\r\n%s: %s\r\nContent-Length: %d\r\n\r\n%s", kind, header, value, length, body)
			return client
		}
		status := func(c net.Conn) int {
			t.Helper()
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			return resp.StatusCode
		}
		started := time.Now()
		for range atOnce {
			defer post("generic", "X-Signature", "sha256=00", "{", 100).Close()
		}
		synctest.Wait()
		if code := status(post("gitlab", "X-Gitlab-Token", "guess", pushGitLab, len(pushGitLab))); code != 401 || time.Since(started) > 0 {
			t.Errorf("a wrong token is answered with %d after %s", code, time.Since(started))
		}
		if code := status(post("generic", "X-Signature", "sha256="+sign(named, secret), named, len(named))); code != 202 || time.Since(started) > bodyTime {
			t.Errorf("behind slow bodies: %d after %s", code, time.Since(started))
		}
	})
}

func TestOthersAreRefused(t *testing.T) {
	stranger := `{"repository":"https://elsewhere.example.com/x.git"}`
	huge := bytes.Repeat([]byte("a"), most+1)
	for name, c := range map[string]struct {
		s    sender
		with map[string][]byte
		code int
	}{
		"no signature":           {sender{"github", "", "", strings.NewReader(pushGitHub)}, all(secret), 401},
		"another secret":         {sender{"github", "X-Hub-Signature-256", "sha256=" + sign(pushGitHub, "guess"), strings.NewReader(pushGitHub)}, all(secret), 401},
		"another body":           {sender{"github", "X-Hub-Signature-256", "sha256=" + sign(pushGitHub, secret), strings.NewReader(named)}, all(secret), 401},
		"SHA-1":                  {sender{"github", "X-Hub-Signature-256", "sha1=" + sign(pushGitHub, secret), strings.NewReader(pushGitHub)}, all(secret), 401},
		"not hexadecimal":        {sender{"gitea", "X-Gitea-Signature", "zz", strings.NewReader(pushGitHub)}, all(secret), 401},
		"an empty token":         {sender{"gitlab", "X-Gitlab-Token", " ", strings.NewReader(pushGitLab)}, all(secret), 401},
		"no secret is set":       {sender{"github", "X-Hub-Signature-256", "sha256=" + sign(pushGitHub, ""), strings.NewReader(pushGitHub)}, all(" \n"), 404},
		"the secret is not read": {sender{"github", "X-Hub-Signature-256", "sha256=00", strings.NewReader(pushGitHub)}, nil, 503},
		"an unknown kind":        {sender{"bitbucket", "X", "x", strings.NewReader("")}, all(secret), 404},
		"too long":               {sender{"generic", "X-Signature", "sha256=00", bytes.NewReader(huge)}, all(secret), 413},
		"no JSON":                {sender{"generic", "X-Signature", "sha256=" + sign("no", secret), strings.NewReader("no")}, all(secret), 400},
		"no repository":          {sender{"generic", "X-Signature", "sha256=" + sign("{}", secret), strings.NewReader("{}")}, all(secret), 400},
		"nobody follows it":      {sender{"generic", "X-Signature", "sha256=" + sign(stranger, secret), strings.NewReader(stranger)}, all(secret), 200},
	} {
		t.Run(name, func(t *testing.T) {
			h, looked := listener(c.with)
			w := send(h, c.s)
			if w.Code != c.code {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if c.code != 200 && len(*looked) > 0 {
				t.Errorf("looked at %v", *looked)
			}
			if strings.Contains(w.Body.String(), secret) {
				t.Error("the answer holds the secret")
			}
		})
	}
}

// A request that is replayed costs a look each time, and how many there may be is limited.
func TestReplaysAreLimited(t *testing.T) {
	h, looked := listener(all(secret))
	last := 0
	for range 1000 {
		last = send(h, sender{"generic", "X-Signature", "sha256=" + sign(named, secret), strings.NewReader(named)}).Code
	}
	if last != http.StatusTooManyRequests || len(*looked) > 200 {
		t.Errorf("the last of 1,000 was answered with %d, and %d looks were asked for", last, len(*looked))
	}
}

func FuzzBody(f *testing.F) {
	for _, body := range []string{pushGitHub, pushGitLab, named, "payload=%7B%7D", "{", `{"repository":{"clone_url":[]}}`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for name, k := range kinds {
			repos, err := k.repositories(body)
			if (err == nil) != (len(repos) > 0) {
				t.Errorf("%s: %q, %v", name, repos, err)
			}
		}
	})
}
