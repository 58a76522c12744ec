package signature

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"golang.org/x/crypto/ssh"
)

// Keys are the public keys whose signatures count.
type Keys struct {
	pgp openpgp.EntityList
	ssh []sshKey
}

// sshKey is a key of an allowed_signers file (ssh-keygen(1), ALLOWED SIGNERS), or a public key alone.
type sshKey struct {
	key           ssh.PublicKey
	name          string
	after, before time.Time // zero: no bound
}

// ParseKeys reads the data of a Secret: OpenPGP keys, armored or not, under keys that end in .asc or .gpg; SSH keys under
// keys that end in .pub, or lines of allowed_signers(5) under allowed_signers. What ends otherwise is left alone. At least
// one key has to be there.
func ParseKeys(data map[string][]byte) (*Keys, error) {
	k := &Keys{}
	names := make([]string, 0, len(data))
	for name := range data {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		var err error
		switch ext := path.Ext(name); {
		case ext == ".asc", ext == ".gpg":
			err = k.addPGP(data[name])
		case ext == ".pub", name == "allowed_signers", ext == ".allowed_signers":
			err = k.addSSH(string(data[name]))
		}
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", name, err)
		}
	}
	if len(k.pgp)+len(k.ssh) == 0 {
		return nil, errors.New("it holds no public key; give it OpenPGP keys as NAME.asc or NAME.gpg, SSH keys as NAME.pub or allowed_signers")
	}
	return k, nil
}

func (k *Keys) addPGP(data []byte) error {
	before := len(k.pgp)
	if !bytes.Contains(data, []byte("-----BEGIN PGP")) {
		list, err := openpgp.ReadKeyRing(bytes.NewReader(data))
		if err != nil {
			return fmt.Errorf("read OpenPGP key: %w; export it with: gpg --export --armor", err)
		}
		k.pgp = append(k.pgp, list...)
	}
	for rest := bytes.NewReader(data); bytes.Contains(data, []byte("-----BEGIN PGP")); {
		block, err := armor.Decode(rest)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read OpenPGP key: %w; export it with: gpg --export --armor", err)
		}
		if block.Type != openpgp.PublicKeyType {
			return fmt.Errorf("it holds a %s and not a public key; export it with: gpg --export --armor", strings.ToLower(block.Type))
		}
		list, err := openpgp.ReadKeyRing(block.Body)
		if err != nil {
			return fmt.Errorf("read OpenPGP key: %w", err)
		}
		k.pgp = append(k.pgp, list...)
	}
	if len(k.pgp) == before {
		return errors.New("it holds no OpenPGP key; export it with: gpg --export --armor")
	}
	return nil
}

func (k *Keys) addSSH(text string) error {
	found := false
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, counts, err := parseSSHLine(line)
		if err != nil {
			return err
		}
		found = true
		if counts {
			k.ssh = append(k.ssh, key)
		}
	}
	if !found {
		return errors.New("it holds no SSH key; write the line of a .pub file into it")
	}
	return nil
}

// parseSSHLine reads "keytype base64 [comment]" or "principals [options] keytype base64 [comment]". False for a key that is
// meant for other things than Git.
func parseSSHLine(line string) (key sshKey, counts bool, err error) {
	fields := splitQuoted(line)
	at := slices.IndexFunc(fields, isKeyType)
	if at < 0 || at > 2 || len(fields) < at+2 {
		return key, false, errors.New("a line is neither a public key nor one of allowed_signers")
	}
	blob, err := base64.StdEncoding.DecodeString(fields[at+1])
	if err == nil {
		key.key, err = ssh.ParsePublicKey(blob)
	}
	if err != nil {
		return key, false, fmt.Errorf("read SSH key: %w", err)
	}
	if key.key.Type() != fields[at] {
		return key, false, fmt.Errorf("a key says that it is %s and is %s", fields[at], key.key.Type())
	}
	key.name = strings.Join(fields[at+2:], " ")
	if at > 0 {
		key.name = strings.Trim(fields[0], `"`)
	}
	if at < 2 {
		return key, true, nil
	}
	counts, err = key.options(fields[1])
	return key, counts, err
}

// options reads the options of an allowed_signers line.
func (s *sshKey) options(text string) (counts bool, err error) {
	counts = true
	for _, option := range splitOptions(text) {
		name, value, _ := strings.Cut(option, "=")
		value = strings.Trim(value, `"`)
		switch strings.ToLower(name) {
		case "namespaces":
			counts = slices.ContainsFunc(strings.Split(value, ","), func(pattern string) bool {
				ok, err := path.Match(pattern, namespace)
				return ok && err == nil
			})
		case "valid-after":
			s.after, err = signerTime(value)
		case "valid-before":
			s.before, err = signerTime(value)
		case "cert-authority":
			err = errors.New("certificate authorities are not supported; list the keys themselves")
		default:
			err = fmt.Errorf("unknown option %q of allowed_signers", name)
		}
		if err != nil {
			return false, err
		}
	}
	return counts, nil
}

// signerTime reads YYYYMMDD[Z] and YYYYMMDDHHMM[SS][Z], here always as UTC.
func signerTime(text string) (time.Time, error) {
	digits := strings.TrimSuffix(text, "Z")
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if t, err := time.Parse(layout, digits); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time; write YYYYMMDDHHMMSSZ", text)
}

func isKeyType(field string) bool {
	return strings.HasPrefix(field, "ssh-") || strings.HasPrefix(field, "ecdsa-sha2-") || strings.HasPrefix(field, "sk-ssh-") || strings.HasPrefix(field, "sk-ecdsa-")
}

// splitQuoted splits at spaces outside of double quotes.
func splitQuoted(line string) []string {
	return splitOutsideQuotes(line, func(r rune) bool { return r == ' ' || r == '\t' })
}

func splitOptions(text string) []string {
	return splitOutsideQuotes(text, func(r rune) bool { return r == ',' })
}

func splitOutsideQuotes(text string, separates func(rune) bool) []string {
	quoted := false
	return strings.FieldsFunc(text, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && separates(r)
	})
}
