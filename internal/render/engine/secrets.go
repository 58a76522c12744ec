package engine

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"

	"sigs.k8s.io/kustomize/api/types"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/gitopsd/gitopsd/internal/redact"
)

// secrets collects the values that may not appear in an error, from the files that hold them. What a library says
// of a file may quote any part of it.
type secrets struct{ set redact.Set }

// clean is an error's text on one line, without what is secret.
func (s *secrets) clean(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	for _, p := range quoting {
		text = p.ReplaceAllString(text, "${1}"+redact.Mask)
	}
	return s.set.String(text)
}

// quoting are the places where the libraries are known to quote values.
var quoting = []*regexp.Regexp{
	regexp.MustCompile("(cannot unmarshal !!\\w+ )`[^`]*`"),
	regexp.MustCompile(`((?:literal|env) sources )\[[^\]]*\]`),
	regexp.MustCompile(`(invalid literal source )\S+`),
	regexp.MustCompile(`(strconv\.\w+: parsing )"(?:[^"\\]|\\.)*"`),
	regexp.MustCompile(`(illegal base64 data [\w ]+in )\S+`),
}

// secretName recognises the keys under which people keep secrets in values.
var secretName = regexp.MustCompile(`(?i)pass|secret|token|cred|private|api_?key|auth`)

// values takes the texts below keys that sound like secrets.
func (s *secrets) values(v map[string]any) {
	var walk func(key string, v any, secret bool)
	walk = func(key string, v any, secret bool) {
		secret = secret || secretName.MatchString(key)
		switch v := v.(type) {
		case map[string]any:
			for k, below := range v {
				walk(k, below, secret)
			}
		case []any:
			for _, below := range v {
				walk("", below, secret)
			}
		case nil, bool:
		default:
			if secret {
				s.set.Register(fmt.Sprint(v))
			}
		}
	}
	walk("", v, false)
}

// all takes every text of values that are secret as a whole.
func (s *secrets) all(v map[string]any) { s.values(map[string]any{"secret": v}) }

// manifest takes the data of a Secret.
func (s *secrets) manifest(content []byte) {
	var m struct {
		Kind       string            `json:"kind"`
		Data       map[string]string `json:"data"`
		StringData map[string]string `json:"stringData"`
	}
	if err := sigsyaml.Unmarshal(content, &m); err != nil || m.Kind != "Secret" {
		return
	}
	for _, v := range m.Data {
		s.set.Register(v)
		if plain, err := base64.StdEncoding.DecodeString(v); err == nil {
			s.set.Register(string(plain))
		}
	}
	for _, v := range m.StringData {
		s.set.Register(v)
	}
}

// generator takes what a secretGenerator makes a Secret of; read reads its files.
func (s *secrets) generator(g types.SecretArgs, read func(string) []byte) {
	for _, l := range g.LiteralSources {
		_, value, _ := strings.Cut(l, "=")
		s.set.Register(l, value, strings.Trim(value, `"'`))
	}
	for _, name := range sources(g.KvPairSources) {
		data := string(read(name))
		s.set.Register(data)
		for _, line := range strings.Split(data, "\n") {
			_, value, _ := strings.Cut(line, "=")
			s.set.Register(strings.TrimSpace(line), strings.TrimSpace(value))
		}
	}
}
