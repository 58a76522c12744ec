package sops

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// branch is a map whose order counts. Its items may be comments.
type branch []item

// item is an entry; its key is a string, or a comment that has no value.
type item struct{ key, value any }

// comment is one line of a comment.
type comment struct {
	text   string
	inline bool
}

// plain is the branch as JSON has it, without comments and order.
func (b branch) plain() map[string]any {
	out := make(map[string]any, len(b))
	for _, i := range b {
		if name, ok := i.key.(string); ok {
			out[name] = plainValue(i.value)
		}
	}
	return out
}

func plainValue(v any) any {
	switch v := v.(type) {
	case branch:
		return v.plain()
	case []any:
		var out []any
		for _, below := range v {
			if _, ok := below.(comment); !ok {
				out = append(out, plainValue(below))
			}
		}
		return out
	case time.Time:
		return v.Format(time.RFC3339)
	}
	return v
}

// rules say which values are encrypted, by the keys above them and the comments before them.
type rules struct {
	suffix     string
	keys       *regexp.Regexp
	comments   *regexp.Regexp
	otherwise  bool // of what no rule names
	selfExcept bool // the comment that a rule names is not encrypted itself
}

// rules reads the one rule of a file. Without any, keys that end in _unencrypted are plain.
func (m *metadata) rules() (rules, error) {
	var all []rules
	var errs []error
	add := func(text string, r rules, into **regexp.Regexp) {
		if text == "" {
			return
		}
		if into != nil {
			compiled, err := regexp.Compile(text)
			if err != nil {
				errs = append(errs, errors.New("the entry sops has a rule that is no regular expression"))
			}
			*into = compiled
		}
		all = append(all, r)
	}
	var unKeys, enKeys, unComments, enComments *regexp.Regexp
	add(m.UnencryptedSuffix, rules{suffix: m.UnencryptedSuffix, otherwise: true}, nil)
	add(m.EncryptedSuffix, rules{suffix: m.EncryptedSuffix}, nil)
	add(m.UnencryptedRegex, rules{otherwise: true}, &unKeys)
	add(m.EncryptedRegex, rules{}, &enKeys)
	add(m.UnencryptedCommentRegex, rules{otherwise: true}, &unComments)
	add(m.EncryptedCommentRegex, rules{selfExcept: true}, &enComments)
	switch {
	case len(errs) > 0:
		return rules{}, errs[0]
	case len(all) == 0:
		return rules{suffix: "_unencrypted", otherwise: true}, nil
	case len(all) > 1:
		return rules{}, errors.New("the entry sops has more than one rule of what is encrypted")
	}
	r := all[0]
	for _, keys := range []*regexp.Regexp{unKeys, enKeys} {
		if keys != nil {
			r.keys = keys
		}
	}
	for _, comments := range []*regexp.Regexp{unComments, enComments} {
		if comments != nil {
			r.comments = comments
		}
	}
	return r, nil
}

// encrypted says whether a value, or a comment, is encrypted.
func (r rules) encrypted(path []string, before [][]string, isComment bool) bool {
	if r.comments != nil {
		return r.byComment(before, isComment) != r.otherwise
	}
	for _, key := range path {
		if r.suffix != "" && strings.HasSuffix(key, r.suffix) || r.keys != nil && r.keys.MatchString(key) {
			return !r.otherwise
		}
	}
	return r.otherwise
}

func (r rules) byComment(before [][]string, isComment bool) bool {
	for i, lines := range before {
		for j, line := range lines {
			if r.selfExcept && isComment && i == len(before)-1 && j == len(lines)-1 {
				continue
			}
			if r.comments.MatchString(line) {
				return true
			}
		}
	}
	return false
}

// walker goes through trees in their order, decrypts, and sums up the MAC.
type walker struct {
	key    []byte
	rules  rules
	mac    hash.Hash
	secret []string // what was decrypted
	only   bool     // the MAC covers encrypted values alone
}

func (w *walker) branch(in branch, path []string, before [][]string) (branch, error) {
	before = append(before[:len(before):len(before)], nil)
	lines := &before[len(before)-1]
	for n, i := range in {
		if c, ok := i.key.(comment); ok {
			*lines = append(*lines, c.text)
			out, err := w.comment(c, path, before)
			if err != nil {
				return nil, err
			}
			in[n].key = out
			continue
		}
		name, ok := i.key.(string)
		if !ok {
			return nil, errors.New("a key is no text")
		}
		out, err := w.value(i.value, append(path[:len(path):len(path)], name), before)
		if err != nil {
			return nil, err
		}
		in[n].value, *lines = out, nil
	}
	return in, nil
}

func (w *walker) list(in []any, path []string, before [][]string) ([]any, error) {
	before = append(before[:len(before):len(before)], nil)
	lines := &before[len(before)-1]
	for n, v := range in {
		c, isComment := v.(comment)
		var err error
		if isComment {
			*lines = append(*lines, c.text)
			in[n], err = w.comment(c, path, before)
		} else {
			in[n], err = w.value(v, path, before)
			*lines = nil
		}
		if err != nil {
			return nil, err
		}
	}
	return in, nil
}

func (w *walker) value(v any, path []string, before [][]string) (any, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case branch:
		return w.branch(v, path, before)
	case []any:
		return w.list(v, path, before)
	}
	encrypted := w.rules.encrypted(path, before, false)
	if encrypted {
		text, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("the value of %s is not encrypted, and should be", strings.Join(path, "."))
		}
		var err error
		if v, err = open(text, w.key, strings.Join(path, ":")+":"); err != nil {
			return nil, fmt.Errorf("the value of %s cannot be decrypted: %w", strings.Join(path, "."), err)
		}
	}
	text, err := bytesOf(v)
	if err != nil {
		return nil, fmt.Errorf("the value of %s: %w", strings.Join(path, "."), err)
	}
	if encrypted {
		w.secret = append(w.secret, string(text))
	}
	if encrypted || !w.only {
		w.mac.Write(text)
	}
	return v, nil
}

// comment decrypts a comment that is encrypted. One that is not, though it should be, is from an old version of SOPS. Comments are
// not in the MAC.
func (w *walker) comment(c comment, path []string, before [][]string) (any, error) {
	if !w.rules.encrypted(path, before, true) {
		return c, nil
	}
	v, err := open(c.text, w.key, strings.Join(path, ":")+":")
	switch text := v.(type) {
	case comment:
		c = text // SOPS forgets that it stood beside its value, and puts it above
	case string:
		c.text = text
	}
	if err == nil {
		w.secret = append(w.secret, c.text)
	}
	return c, nil
}

var sealedValue = regexp.MustCompile(`^ENC\[AES256_GCM,data:(.+),iv:(.+),tag:(.+),type:(.+)\]`)

// open decrypts one value. Its place in the file is part of what is authenticated.
func open(text string, key []byte, place string) (any, error) {
	if text == "" {
		return "", nil
	}
	m := sealedValue.FindStringSubmatch(text)
	if m == nil {
		return nil, errors.New("it is not encrypted, and should be")
	}
	var parts [3][]byte
	for n := range parts {
		var err error
		if parts[n], err = base64.StdEncoding.DecodeString(m[n+1]); err != nil {
			return nil, errors.New("it is damaged")
		}
	}
	data, nonce, tag := parts[0], parts[1], parts[2]
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, errors.New("the data key is none")
	}
	gcm, err := cipher.NewGCMWithNonceSize(block, len(nonce))
	if err != nil {
		return nil, errors.New("it is damaged")
	}
	plain, err := gcm.Open(nil, nonce, append(data, tag...), []byte(place))
	if err != nil {
		return nil, errors.New("it was changed, moved, or encrypted with another key")
	}
	return typedValue(m[4], string(plain))
}

// typedValue is a value of the type that it had.
func typedValue(kind, text string) (v any, err error) {
	switch kind {
	case "str":
		return text, nil
	case "bytes":
		return []byte(text), nil
	case "comment":
		return comment{text: text}, nil
	case "int":
		v, err = strconv.Atoi(text)
	case "float":
		v, err = strconv.ParseFloat(text, 64)
	case "bool":
		v, err = strconv.ParseBool(text)
	case "time":
		var t time.Time
		err = t.UnmarshalText([]byte(text))
		v = t
	default:
		return nil, errors.New("its type is not known")
	}
	if err != nil {
		return nil, errors.New("it is not of the type that it claims")
	}
	return v, nil
}

// bytesOf is a value as the MAC covers it.
func bytesOf(v any) ([]byte, error) {
	switch v := v.(type) {
	case string:
		return []byte(v), nil
	case []byte:
		return v, nil
	case int:
		return []byte(strconv.Itoa(v)), nil
	case float64:
		return []byte(strconv.FormatFloat(v, 'f', -1, 64)), nil
	case bool:
		if v {
			return []byte("True"), nil
		}
		return []byte("False"), nil
	case time.Time:
		return v.MarshalText()
	case comment: // in a list SOPS encrypts it to an item
		return []byte(v.text), nil
	}
	return nil, errors.New("it has a type that SOPS does not know")
}
