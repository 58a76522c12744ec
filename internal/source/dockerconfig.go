package source

import (
	"encoding/base64"
	"encoding/json"
	"strings"
)

// dockerLogin is what a .dockerconfigjson (Secrets of type kubernetes.io/dockerconfigjson) says of one registry, or of a part of one.
type dockerLogin struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"` // user:password in base64, instead of the two
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// dockerLogins reads the file. Its errors quote nothing of it.
func dockerLogins(file []byte) (map[string]dockerLogin, error) {
	var config struct {
		Auths map[string]dockerLogin `json:"auths"`
	}
	bad := func(text string) error {
		return &Error{Class: ErrAuth, Text: text, Next: "make the Secret with: kubectl create secret docker-registry"}
	}
	if err := json.Unmarshal(file, &config); err != nil {
		return nil, bad(".dockerconfigjson is no JSON of the form that docker login writes")
	}
	for where, l := range config.Auths {
		if l.Auth == "" {
			continue
		}
		pair, err := base64.StdEncoding.DecodeString(l.Auth)
		user, password, ok := strings.Cut(string(pair), ":")
		if err != nil || !ok {
			return nil, bad("the auth of " + quote(where) + " in .dockerconfigjson is no user:password in base64")
		}
		l.Username, l.Password = user, strings.TrimRight(password, "\x00")
		config.Auths[where] = l
	}
	return config.Auths, nil
}

// dockerHub are the names under which one registry is known.
var dockerHub = []string{"docker.io", "index.docker.io", "registry-1.docker.io"}

// dockerLoginFor picks the login of an address: of entries that fit, the one with the longest path, as the kubelet does. An entry
// without a port is not for a host with one.
func dockerLoginFor(logins map[string]dockerLogin, a address) (dockerLogin, bool) {
	var best dockerLogin
	longest := -1
	for where, l := range logins {
		where = strings.TrimPrefix(strings.TrimPrefix(where, "https://"), "http://")
		host, below, _ := strings.Cut(where, "/")
		below = strings.Trim(below, "/")
		if below == "v1" || below == "v2" { // of the API, not of a repository
			below = ""
		}
		at := strings.Trim(a.path, "/")
		if sameRegistry(host, a.host) && len(below) > longest && (below == "" || at == below || strings.HasPrefix(at, below+"/")) {
			best, longest = l, len(below)
		}
	}
	return best, longest >= 0
}

func sameRegistry(a, b string) bool {
	hub := func(host string) bool {
		for _, name := range dockerHub {
			if host == name {
				return true
			}
		}
		return false
	}
	a, b = strings.ToLower(strings.TrimSuffix(a, ":443")), strings.TrimSuffix(b, ":443")
	return a == b || hub(a) && hub(b)
}
