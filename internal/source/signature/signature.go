// Package signature says by whom a Git commit or annotated tag is signed. It takes the object as Git stores it and the
// keys that are trusted, OpenPGP or SSH, and answers with the signer or with the reason why there is none. It reads no
// repository, asks no key server and trusts no key but those it is given; a key that has expired or is revoked now counts
// for nothing, whatever time a signature claims for itself.
package signature

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Signer is who signed, as far as the trusted key says.
type Signer struct {
	Key  string // "OpenPGP key FINGERPRINT" or "SSH key SHA256:…"
	Name string // of the key: a user ID, a comment or a principal; may be empty
}

// String is how people are told of a signer.
func (s Signer) String() string {
	if s.Name == "" {
		return s.Key
	}
	return s.Key + " (" + s.Name + ")"
}

// ErrUnsigned is the reason of an object without a signature.
var ErrUnsigned = errors.New("it is not signed")

// MaxObject is the size in bytes up to which a commit or tag is read.
const MaxObject = 1 << 20

// The beginnings of signatures that Git itself writes.
const (
	armorPGP     = "-----BEGIN PGP SIGNATURE-----"
	armorMessage = "-----BEGIN PGP MESSAGE-----"
	armorSSH     = "-----BEGIN SSH SIGNATURE-----"
)

// VerifyCommit checks a commit object against the keys, as of now.
func (k *Keys) VerifyCommit(commit []byte, now time.Time) (Signer, error) {
	payload, armored, err := splitCommit(commit)
	if err != nil {
		return Signer{}, err
	}
	return k.verify(payload, armored, now)
}

// VerifyTag checks an annotated tag object against the keys, as of now. name is the tag's short name: a signature for
// another name counts for nothing, so that nobody can pass an old release off as a new one by moving refs.
func (k *Keys) VerifyTag(tag []byte, name string, now time.Time) (Signer, error) {
	payload, armored, err := splitTag(tag)
	if err != nil {
		return Signer{}, err
	}
	if said := header(payload, "tag"); said != name {
		return Signer{}, fmt.Errorf("the tag object calls itself %q and not %q", said, name)
	}
	return k.verify(payload, armored, now)
}

func (k *Keys) verify(payload, armored []byte, now time.Time) (Signer, error) {
	switch text := string(armored); {
	case strings.HasPrefix(text, armorSSH):
		return k.verifySSH(payload, armored, now)
	case strings.HasPrefix(text, armorPGP), strings.HasPrefix(text, armorMessage):
		return k.verifyPGP(payload, armored, now)
	}
	return Signer{}, errors.New("its signature is neither OpenPGP nor SSH; sign with gpg.format openpgp or ssh")
}

// splitCommit takes the signature out of a commit's headers: what was signed is the commit without it (gitformat-signature(5)).
func splitCommit(commit []byte) (payload, armored []byte, err error) {
	if len(commit) > MaxObject {
		return nil, nil, fmt.Errorf("it is longer than %d bytes", MaxObject)
	}
	head, body, found := bytes.Cut(commit, []byte("\n\n"))
	if !found {
		head, body = bytes.TrimSuffix(commit, []byte("\n")), nil
	}
	var kept, signed [][]byte
	signatures, inSignature, other := 0, false, false
	for line := range bytes.SplitSeq(head, []byte("\n")) {
		if after, continues := bytes.CutPrefix(line, []byte(" ")); continues && (inSignature || other) {
			if inSignature {
				signed = append(signed, after)
			}
			continue
		}
		first, isOurs := bytes.CutPrefix(line, []byte("gpgsig "))
		inSignature, other = isOurs, bytes.HasPrefix(line, []byte("gpgsig-sha256 "))
		switch {
		case isOurs:
			signatures++
			signed = append(signed, first)
		case !other:
			kept = append(kept, line)
		}
	}
	switch {
	case signatures == 0:
		return nil, nil, ErrUnsigned
	case signatures > 1:
		return nil, nil, errors.New("it has more than one signature")
	}
	payload = append(bytes.Join(kept, []byte("\n")), '\n')
	if found {
		payload = append(append(payload, '\n'), body...)
	}
	return payload, append(bytes.Join(signed, []byte("\n")), '\n'), nil
}

// splitTag cuts a tag where its last signature begins: it stands at the end of the message.
func splitTag(tag []byte) (payload, armored []byte, err error) {
	if len(tag) > MaxObject {
		return nil, nil, fmt.Errorf("it is longer than %d bytes", MaxObject)
	}
	begins := -1
	for at, rest := 0, tag; len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		for _, mark := range []string{armorPGP, armorMessage, armorSSH} {
			if bytes.HasPrefix(line, []byte(mark)) {
				begins = at
			}
		}
		at += len(line) + 1
		rest = after
	}
	if begins < 0 {
		return nil, nil, ErrUnsigned
	}
	return tag[:begins], tag[begins:], nil
}

// header returns the value of an object's header, "" when it is not there exactly once.
func header(object []byte, name string) string {
	head, _, _ := bytes.Cut(object, []byte("\n\n"))
	value, times := "", 0
	for line := range strings.SplitSeq(string(head), "\n") {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			value = v
			times++
		}
	}
	if times != 1 {
		return ""
	}
	return value
}
