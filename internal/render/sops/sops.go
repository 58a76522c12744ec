// Package sops decrypts files that SOPS (github.com/getsops/sops) encrypted for age and OpenPGP keys: YAML, JSON, dotenv, INI and
// binary, wholly or in part, with the MAC over the whole file checked. What comes out are the bytes of sops --decrypt.
//
// SOPS' own module links the clients of five clouds, which a renderer can do without: 38 MB. The format is small, so it is
// written out here over the libraries of the two kinds of keys; SOPS itself is the oracle of the tests. It reaches for nothing:
// keys are given, and keys of clouds are an error that says so.
package sops

import (
	"bytes"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"
)

// Format is how a file is written.
type Format string

const (
	YAML   Format = "yaml"
	JSON   Format = "json"
	Dotenv Format = "dotenv"
	INI    Format = "ini"
	Binary Format = "binary"
)

// ErrPlain says that a file is not one that SOPS encrypted.
var ErrPlain = errors.New("the file is not encrypted by SOPS")

// Marked says whether text holds a value that SOPS encrypted. It is what a file has to hold to be worth a closer look.
func Marked(text []byte) bool { return bytes.Contains(text, []byte("ENC[AES256_GCM,")) }

// formatOf finds out the format from a file's name, as sops does, and where that says nothing from its content, as the files of
// generators have any name.
func formatOf(name string, data []byte) Format {
	switch path.Ext(name) {
	case ".yaml", ".yml":
		return YAML
	case ".json":
		return JSON
	case ".env":
		return Dotenv
	case ".ini":
		return INI
	}
	switch {
	case bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")):
		return Binary
	case flatMark.Match(data):
		return Dotenv
	case sectionMark.Match(data):
		return INI
	}
	return YAML
}

var (
	flatMark    = regexp.MustCompile(`(?m)^sops_mac=`)
	sectionMark = regexp.MustCompile(`(?m)^\[sops\]`)
)

// Decrypt returns a file's plain text, and the values in it that were secret. The error is ErrPlain where there is nothing to
// decrypt. No error holds anything of the file.
func Decrypt(name string, data []byte, keys *Keys) (plain []byte, secret []string, err error) {
	if !Marked(data) {
		return nil, nil, ErrPlain
	}
	format := formatOf(name, data)
	f, err := load(format, data)
	if err != nil {
		return nil, nil, err
	}
	for _, docs := range f.together() {
		found, err := f.open(docs, keys)
		if err != nil {
			return nil, nil, err
		}
		secret = append(secret, found...)
	}
	plain, err = f.emit()
	return plain, secret, err
}

// file is a file in its format: one tree, or in YAML one for each document.
type file struct {
	format Format
	docs   []*doc
}

// doc is one tree and what SOPS says of it.
type doc struct {
	tree branch
	meta *metadata // nil: none
}

func load(format Format, data []byte) (*file, error) {
	f := &file{format: format}
	trees, err := parse(format, data)
	if err != nil {
		return nil, ErrPlain // a template, perhaps, or a file that only looks so
	}
	encrypted := false
	for _, tree := range trees {
		d := &doc{}
		if d.tree, d.meta, err = extract(format, tree); err != nil {
			return nil, err
		}
		encrypted = encrypted || d.meta != nil
		f.docs = append(f.docs, d)
	}
	if !encrypted {
		return nil, ErrPlain
	}
	return f, nil
}

// together are the documents that were encrypted together, under one MAC. People also put documents into one file that were
// encrypted one by one, some of them not at all.
func (f *file) together() [][]*doc {
	var out [][]*doc
	for _, d := range f.docs {
		if d.meta == nil {
			continue
		}
		if n := len(out); n > 0 && out[n-1][0].meta.MAC == d.meta.MAC {
			out[n-1] = append(out[n-1], d)
			continue
		}
		out = append(out, []*doc{d})
	}
	return out
}

// open decrypts documents that belong together.
func (f *file) open(docs []*doc, keys *Keys) (secret []string, err error) {
	meta := docs[0].meta
	rules, err := meta.rules()
	if err != nil {
		return nil, err
	}
	key, err := meta.dataKey(keys)
	if err != nil {
		return nil, err
	}
	w := &walker{key: key, rules: rules, mac: sha512.New()}
	if w.only = meta.MACOnlyEncrypted; w.only {
		w.mac.Write(onlyEncrypted)
	}
	for _, d := range docs {
		if d.tree, err = w.branch(d.tree, nil, nil); err != nil {
			return nil, err
		}
	}
	modified, err := time.Parse(time.RFC3339, meta.LastModified)
	if err != nil {
		return nil, errors.New("sops.lastmodified is no time")
	}
	said, err := open(meta.MAC, key, modified.Format(time.RFC3339))
	if err != nil {
		return nil, errors.New("sops.mac cannot be decrypted")
	}
	if text, ok := said.(string); !ok || subtle.ConstantTimeCompare([]byte(text), []byte(fmt.Sprintf("%X", w.mac.Sum(nil)))) != 1 {
		return nil, errors.New("the MAC does not fit: the file was changed after it was encrypted")
	}
	return w.secret, nil
}

// onlyEncrypted is what the MAC begins with where it covers encrypted values alone (sops.MACOnlyEncryptedInitialization).
var onlyEncrypted = []byte{0x8a, 0x3f, 0xd2, 0xad, 0x54, 0xce, 0x66, 0x52, 0x7b, 0x10, 0x34, 0xf3, 0xd1, 0x47, 0xbe, 0x0b,
	0x0b, 0x97, 0x5b, 0x3b, 0xf4, 0x4f, 0x72, 0xc6, 0xfd, 0xad, 0xec, 0x81, 0x76, 0xf2, 0x7d, 0x69}

// metadata is the entry "sops".
type metadata struct {
	ShamirThreshold         int        `json:"shamir_threshold"`
	KeyGroups               []keyGroup `json:"key_groups"`
	LastModified            string     `json:"lastmodified"`
	MAC                     string     `json:"mac"`
	UnencryptedSuffix       string     `json:"unencrypted_suffix"`
	EncryptedSuffix         string     `json:"encrypted_suffix"`
	UnencryptedRegex        string     `json:"unencrypted_regex"`
	EncryptedRegex          string     `json:"encrypted_regex"`
	UnencryptedCommentRegex string     `json:"unencrypted_comment_regex"`
	EncryptedCommentRegex   string     `json:"encrypted_comment_regex"`
	MACOnlyEncrypted        bool       `json:"mac_only_encrypted"`
	keyGroup
}

// keyGroup are keys each of which opens the same part of the data key.
type keyGroup struct {
	Age   []sealedKey `json:"age"`
	PGP   []sealedKey `json:"pgp"`
	KMS   []any       `json:"kms"`
	GCP   []any       `json:"gcp_kms"`
	Azure []any       `json:"azure_kv"`
	Vault []any       `json:"hc_vault"`
	HC    []any       `json:"hckms"`
}

// sealedKey is a part of the data key for one recipient.
type sealedKey struct {
	Enc         string `json:"enc"`
	Recipient   string `json:"recipient"` // age
	Fingerprint string `json:"fp"`        // OpenPGP
}

// extract takes what SOPS says of a tree out of it.
func extract(format Format, tree branch) (branch, *metadata, error) {
	var rest, said branch
	found := false
	for _, i := range tree {
		name, _ := i.key.(string)
		switch {
		case format == Dotenv && strings.HasPrefix(name, "sops_"):
			said, found = append(said, item{strings.TrimPrefix(name, "sops_"), i.value}), true
		case format != Dotenv && name == "sops":
			below, ok := i.value.(branch)
			if !ok {
				return nil, nil, ErrPlain
			}
			said, found = below, true
		default:
			rest = append(rest, i)
		}
	}
	if !found {
		return tree, nil, nil
	}
	var content any = said.plain()
	if format == Dotenv || format == INI {
		content = unflatten(said, format == INI)
	}
	text, err := json.Marshal(content)
	meta := &metadata{}
	if err == nil {
		err = json.Unmarshal(text, meta)
	}
	if err != nil {
		return nil, nil, errors.New("the entry sops is not as SOPS writes it")
	}
	if meta.MAC == "" {
		return tree, nil, nil // somebody's own entry of that name
	}
	return rest, meta, nil
}

// unflatten is the inverse of how SOPS writes its entry where values cannot be nested: age__list_0__map_enc.
func unflatten(flat branch, escaped bool) map[string]any {
	root := map[string]any{}
	for _, i := range flat {
		name, isText := i.key.(string)
		value, _ := i.value.(string)
		if !isText {
			continue
		}
		if escaped {
			value = strings.ReplaceAll(value, `\n`, "\n")
		}
		steps := strings.Split(strings.ReplaceAll(name, "__list_", "__map_\x00"), "__map_")
		at := root
		for _, step := range steps[:len(steps)-1] {
			below, ok := at[step].(map[string]any)
			if !ok {
				below = map[string]any{}
				at[step] = below
			}
			at = below
		}
		at[steps[len(steps)-1]] = typed(steps[len(steps)-1], value)
	}
	return lists(root).(map[string]any)
}

// typed is a value of the entry that is no text.
func typed(name, value string) any {
	switch name {
	case "mac_only_encrypted":
		return strings.EqualFold(value, "true")
	case "shamir_threshold":
		var n int
		_, _ = fmt.Sscan(value, &n) // 0 stands for none
		return n
	}
	return value
}

// lists makes lists of the maps whose keys are places.
func lists(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	var list []any
	for n := 0; ; n++ {
		below, there := m[fmt.Sprintf("\x00%d", n)]
		if !there {
			break
		}
		list = append(list, lists(below))
	}
	if len(list) > 0 {
		return list
	}
	for k, below := range m {
		m[k] = lists(below)
	}
	return m
}
