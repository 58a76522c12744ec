package source

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"sort"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/gitopsd/gitopsd/internal/redact"
)

// Credentials is the right to read a repository. They are used for the origin (scheme, host, port) of the
// Spec's URL only; a redirect elsewhere ends in an error and not in a second host that knows them.
type Credentials struct {
	Username, Password string // HTTP basic authentication
	BearerToken        string // HTTP bearer authentication, before Username
	Identity           []byte // SSH private key, PEM or OpenSSH
	Passphrase         string // of Identity
	KnownHosts         []byte // as in sshd(8), SSH_KNOWN_HOSTS FILE FORMAT; besides the machine's own
	CABundle           []byte // PEM; trusted for HTTPS besides the machine's own
	App                App    // of GitHub; before Username
	Proxy              *Proxy // nil: what the environment says
	DockerConfig       []byte // .dockerconfigjson, of which the login for the registry is used, if it has one
	lines              []credentialLine
	logins             map[string]dockerLogin // of DockerConfig
	identityToken      string                 // of one of them
}

// credentialLine is a line of git-credential-store(1): https://user:password@host[/path].
type credentialLine struct {
	scheme, host, path string
	user, password     string
}

// The keys of a credentials file and of a Secret's data. They are Flux's, so that a Secret can stay as it is.
var credentialKeys = map[string]func(*Credentials, string){
	"username":                func(c *Credentials, v string) { c.Username = strings.TrimSpace(v) },
	"password":                func(c *Credentials, v string) { c.Password = strings.TrimRight(v, "\r\n") },
	"bearerToken":             func(c *Credentials, v string) { c.BearerToken = strings.TrimSpace(v) },
	"identity":                func(c *Credentials, v string) { c.Identity = []byte(strings.TrimSpace(v) + "\n") },
	"identity.pub":            func(*Credentials, string) {}, // public; comes with Flux's Secrets
	"passphrase":              func(c *Credentials, v string) { c.Passphrase = strings.TrimRight(v, "\r\n") },
	"known_hosts":             func(c *Credentials, v string) { c.KnownHosts = []byte(v) },
	"caFile":                  func(c *Credentials, v string) { c.CABundle = []byte(v) },
	"ca.crt":                  func(c *Credentials, v string) { c.CABundle = []byte(v) },
	".dockerconfigjson":       func(c *Credentials, v string) { c.DockerConfig = []byte(v) }, // type kubernetes.io/dockerconfigjson
	"githubAppID":             func(c *Credentials, v string) { c.App.ID = strings.TrimSpace(v) },
	"githubAppInstallationID": func(c *Credentials, v string) { c.App.Installation = strings.TrimSpace(v) },
	"githubAppPrivateKey":     func(c *Credentials, v string) { c.App.PrivateKey = []byte(strings.TrimSpace(v) + "\n") },
	"githubAppBaseURL":        func(c *Credentials, v string) { c.App.BaseURL = strings.TrimSpace(v) },
	"sshPrivateKey":           func(c *Credentials, v string) { c.Identity = []byte(strings.TrimSpace(v) + "\n") }, // Argo CD's name
	"ssh-privatekey":          func(c *Credentials, v string) { c.Identity = []byte(strings.TrimSpace(v) + "\n") }, // type kubernetes.io/ssh-auth
}

func knownKeys() string {
	names := make([]string, 0, len(credentialKeys))
	for k := range credentialKeys {
		names = append(names, k)
	}
	sort.Strings(names)
	return strings.Join(names, ", ")
}

// CredentialsFromSecret reads the data of a Secret. Keys that have no meaning here are left alone, as one
// Secret may serve several readers; a Secret without any known key is an error.
func CredentialsFromSecret(data map[string][]byte) (*Credentials, error) {
	c := &Credentials{}
	found := false
	for key, value := range data {
		if set := credentialKeys[key]; set != nil {
			set(c, string(value))
			found = true
		}
	}
	if !found {
		return nil, &Error{Class: ErrAuth, Text: "the Secret holds no Git credentials", Next: "give it one of the keys " + knownKeys()}
	}
	return c, c.check()
}

// ParseCredentials reads the file of --git-credentials. It is either YAML, a map of the keys that a Secret
// has, or lines as git-credential-store(1) writes them, of which the one that fits the URL is used.
func ParseCredentials(file []byte) (*Credentials, error) {
	if c, ok := parseCredentialLines(string(file)); ok {
		return c, nil
	}
	var m map[string]any
	if err := yaml.Unmarshal(file, &m); err != nil || len(m) == 0 { // err may quote the file
		return nil, &Error{Class: ErrAuth, Text: "the credentials file is neither YAML nor lines of https://user:password@host",
			Next: "write one `key: value` per line, with the keys " + knownKeys()}
	}
	c := &Credentials{}
	for key, value := range m {
		set := credentialKeys[key]
		if set == nil {
			return nil, &Error{Class: ErrAuth, Text: "the credentials file has the unknown key " + quote(key), Next: "use the keys " + knownKeys()}
		}
		switch v := value.(type) {
		case string:
			set(c, v)
		case float64, int64, bool:
			set(c, fmt.Sprint(v))
		default:
			return nil, &Error{Class: ErrAuth, Text: "key " + quote(key) + " of the credentials file is no text", Next: "put its value in quotes"}
		}
	}
	return c, c.check()
}

func parseCredentialLines(file string) (*Credentials, bool) {
	c := &Credentials{}
	for _, line := range strings.Split(file, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		u, err := url.Parse(line)
		if err != nil || u.User == nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return nil, false
		}
		password, _ := u.User.Password()
		c.lines = append(c.lines, credentialLine{
			scheme: u.Scheme, host: strings.ToLower(u.Host), path: strings.Trim(u.Path, "/"),
			user: u.User.Username(), password: password,
		})
	}
	return c, len(c.lines) > 0
}

// check finds at once what would otherwise fail at the first fetch.
func (c *Credentials) check() error {
	if len(c.Identity) > 0 {
		if _, err := c.signer(); err != nil {
			return err
		}
	}
	if len(c.CABundle) > 0 {
		if _, err := certPool(c.CABundle); err != nil {
			return err
		}
	}
	if len(c.DockerConfig) > 0 {
		logins, err := dockerLogins(c.DockerConfig)
		if err != nil {
			return err
		}
		c.logins = logins
	}
	if !c.App.empty() {
		return c.App.check()
	}
	return nil
}

// forAddress picks what may be sent to a, and nothing else. Credentials in the URL itself come first.
func (c *Credentials) forAddress(a address) Credentials {
	var out Credentials
	if c != nil {
		out = *c
		out.lines, out.logins, out.DockerConfig = nil, nil, nil
		for _, l := range c.lines {
			if l.scheme+"://"+l.host == a.origin() && (l.path == "" || l.path == strings.Trim(a.path, "/")) {
				out.Username, out.Password = l.user, l.password
				break
			}
		}
		if login, ok := dockerLoginFor(c.logins, a); ok && a.oci() {
			out.Username, out.Password, out.identityToken, out.BearerToken = login.Username, login.Password, login.IdentityToken, login.RegistryToken
		}
	}
	if a.scheme != "ssh" && (a.user != "" || a.password != "") {
		out.Username, out.Password, out.BearerToken, out.App = a.user, a.password, "", App{}
	}
	return out
}

func (c *Credentials) basicOrBearer() bool { return c.BearerToken != "" || c.Username+c.Password != "" }

// fingerprint tells credentials apart without being one: readers with different rights share a mirror's
// objects, but each has to show its right to the remote before it sees a commit.
func (c *Credentials) fingerprint() string {
	h := sha256.New()
	if c == nil {
		c = &Credentials{}
	}
	for _, l := range c.lines {
		fmt.Fprintf(h, "%q", []string{l.scheme, l.host, l.path, l.user, l.password})
	}
	for _, part := range []string{c.Username, c.Password, c.BearerToken, string(c.Identity), c.Passphrase, string(c.KnownHosts), string(c.CABundle),
		c.App.ID, c.App.Installation, string(c.App.PrivateKey), c.App.BaseURL, c.Proxy.fingerprint(), c.identityToken, string(c.DockerConfig)} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// register keeps the secret parts out of everything that is written, until forget is called.
func (c *Credentials) register() (forget func()) {
	secrets := []string{c.Password, c.BearerToken, string(c.Identity), c.Passphrase, string(c.App.PrivateKey), c.identityToken}
	if c.Proxy != nil {
		secrets = append(secrets, c.Proxy.Password)
	}
	return redact.Register(secrets...)
}
