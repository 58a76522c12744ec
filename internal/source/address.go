package source

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
)

// address is a repository's URL, taken apart and found harmless.
type address struct {
	scheme   string // file, http, https or ssh
	user     string // of ssh; or of userinfo
	password string // of userinfo
	host     string // lower case, with a port when it is not the scheme's own
	path     string // absolute for file and http; as written for ssh
}

// [user@]host:path, where host has no slash, as in git-clone(1).
var scpLike = regexp.MustCompile(`^(?:([^@/:\s]+)@)?(\[[0-9a-fA-F:.]+\]|[^/:\s\[\]@]+):(.+)$`)

// Names that need no quoting anywhere: in a URL, on a remote command line, in a file.
var (
	plainHost = regexp.MustCompile(`^(?:\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?$`)
	plainUser = regexp.MustCompile(`^[A-Za-z0-9_.+~-]+$`)
)

// transportHelper is "<transport>::<address>": git runs a program named git-remote-<transport> for it.
var transportHelper = regexp.MustCompile(`^[A-Za-z0-9+.-]+::`)

// Canonical is how the URL is written in status and in logs: without credentials, and with a relative local
// path made absolute. Two spellings of one repository give one text.
func Canonical(rawURL string) (string, error) {
	a, err := parseAddress(rawURL, true)
	if err != nil {
		return "", err
	}
	return a.String(), nil
}

// Local says whether a URL names a folder of this machine.
func Local(rawURL string) bool {
	a, err := parseAddress(rawURL, false)
	return err == nil && a.scheme == "file"
}

func refusedURL(text, next string) error {
	return &Error{Class: ErrRefused, Text: text, Next: next}
}

const urlForms = "write https://host/path, ssh://user@host/path, user@host:path, file:///path or /path"

func parseAddress(raw string, relative bool) (address, error) {
	switch {
	case raw == "":
		return address{}, refusedURL("the repository's URL is empty", urlForms)
	case strings.IndexFunc(raw, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) && r != ' ' }) >= 0:
		return address{}, refusedURL("the repository's URL holds control characters", urlForms)
	case strings.HasPrefix(raw, "-"):
		return address{}, refusedURL("repository URL "+quote(raw)+" reads as an option", urlForms)
	case transportHelper.MatchString(raw):
		return address{}, refusedURL("repository URL "+quote(raw)+" names a transport helper, which would run a program", urlForms)
	case strings.HasPrefix(raw, "/"):
		return address{scheme: "file", path: path.Clean(raw)}, nil
	case strings.Contains(raw, "://"):
		return parseURL(raw)
	}
	if m := scpLike.FindStringSubmatch(raw); m != nil {
		return sshAddress(m[1], m[2], m[3])
	}
	if !relative {
		return address{}, refusedURL("repository URL "+quote(raw)+" is a relative path", "write an absolute path")
	}
	abs, err := filepath.Abs(raw)
	if err != nil {
		return address{}, refusedURL("repository URL "+quote(raw)+" is a relative path", "write an absolute path")
	}
	return address{scheme: "file", path: abs}, nil
}

func parseURL(raw string) (address, error) {
	u, err := url.Parse(raw)
	if err != nil { // its text repeats the URL, password and all
		return address{}, refusedURL("the repository's URL cannot be parsed", urlForms)
	}
	a := address{scheme: strings.ToLower(u.Scheme), host: strings.ToLower(u.Host), path: u.Path}
	if u.User != nil {
		a.user = u.User.Username()
		a.password, _ = u.User.Password()
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return address{}, refusedURL("the repository's URL has a query or a fragment", "remove what follows ? or #; the ref is a field of its own")
	}
	switch a.scheme {
	case "file":
		if u.Host != "" && u.Host != "localhost" {
			return address{}, refusedURL("file URL "+quote(u.Redacted())+" names a host", "write file:///path with three slashes")
		}
		if !strings.HasPrefix(u.Path, "/") {
			return address{}, refusedURL("file URL "+quote(u.Redacted())+" has no absolute path", "write file:///path")
		}
		return address{scheme: "file", path: path.Clean(u.Path)}, nil
	case "http", "https":
		if !plainHost.MatchString(a.host) {
			return address{}, refusedURL("the repository's URL names no host, or one that is no plain name", urlForms)
		}
		if port := u.Port(); port == "443" && a.scheme == "https" || port == "80" && a.scheme == "http" {
			a.host = strings.TrimSuffix(a.host, ":"+port)
		}
		a.path = "/" + strings.Trim(path.Clean("/"+u.Path), "/")
		return a, nil
	case "ssh", "git+ssh", "ssh+git":
		if a.password != "" {
			return address{}, refusedURL("an ssh URL carries a password", "use a key: identity in the credentials")
		}
		return sshAddress(a.user, a.host, u.Path)
	case "oci", "oci+http":
		if !plainHost.MatchString(a.host) {
			return address{}, refusedURL("the registry's URL names no host, or one that is no plain name", "write oci://host/repository")
		}
		a.host, a.path = strings.TrimSuffix(a.host, map[string]string{"oci": ":443", "oci+http": ":80"}[a.scheme]), "/"+strings.Trim(path.Clean("/"+u.Path), "/")
		return a, nil
	case "git":
		return address{}, refusedURL("git:// proves neither side's identity", "use https:// or ssh://")
	}
	return address{}, refusedURL("URL scheme "+quote(a.scheme)+" is not supported", urlForms)
}

func sshAddress(user, host, p string) (address, error) {
	a := address{scheme: "ssh", user: user, host: strings.TrimSuffix(strings.ToLower(host), ":22"), path: p}
	if a.user == "" {
		a.user = "git"
	}
	for _, part := range []string{a.user, a.host, strings.TrimPrefix(a.path, "/")} {
		if strings.HasPrefix(part, "-") {
			return address{}, refusedURL("repository URL holds "+quote(part)+", which reads as an option", urlForms)
		}
	}
	if !plainHost.MatchString(a.host) || !plainUser.MatchString(a.user) {
		return address{}, refusedURL("the repository's URL names no host and user that are plain names", urlForms)
	}
	if a.path == "" || a.path == "/" || strings.Contains(a.path, "://") {
		return address{}, refusedURL("the repository's URL names no path", urlForms)
	}
	return a, nil
}

// String is the address without credentials.
func (a address) String() string {
	switch a.scheme {
	case "file":
		return (&url.URL{Scheme: "file", Path: a.path}).String()
	case "ssh":
		p := a.path
		if !strings.HasPrefix(p, "/") {
			return a.user + "@" + a.host + ":" + p
		}
		return (&url.URL{Scheme: "ssh", User: url.User(a.user), Host: a.host, Path: p}).String()
	}
	return (&url.URL{Scheme: a.scheme, Host: a.host, Path: a.path}).String()
}

// name is what a repository is called whatever the way to it: host and path, without scheme, user, port and the ending .git. Two repositories may share one.
func (a address) name() string {
	host := a.host
	if at := strings.LastIndexByte(host, ':'); at > strings.LastIndexByte(host, ']') {
		host = host[:at]
	}
	return strings.ToLower(host + "/" + strings.TrimSuffix(strings.Trim(a.path, "/"), ".git"))
}

// userinfo is how a user and a password are written in a URL.
func userinfo(user, password string) string {
	if password == "" {
		return url.User(user).String()
	}
	return url.UserPassword(user, password).String()
}

// folder is the mirror's name below the store's folder.
func (a address) folder() string {
	sum := sha256.Sum256([]byte(a.String()))
	return hex.EncodeToString(sum[:16]) + ".git"
}
