package signature

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
)

const (
	publicKey  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINYIrPlaQ3AQ5xNmpU9Txj1YsI7rMq33FNzCBzOYFeOe"
	anotherKey = "ecdsa-sha2-nistp256 AAAA"
)

func TestParseKeysRefuses(t *testing.T) {
	for _, c := range []struct{ name, value, says string }{
		{"readme", "x", "holds no public key"},
		{"ann.pub", "\n# nothing\n", "holds no SSH key"},
		{"ann.pub", anotherKey, "read SSH key"},
		{"ann.pub", "ssh-rsa" + strings.TrimPrefix(publicKey, "ssh-ed25519"), "says that it is ssh-rsa"},
		{"ann.pub", "-----BEGIN OPENSSH PRIVATE KEY-----", "neither a public key nor"},
		{"allowed_signers", "ann cert-authority " + publicKey, "certificate authorities are not supported"},
		{"allowed_signers", "ann valid-after=\"soon\" " + publicKey, "is no time"},
		{"allowed_signers", "ann magic " + publicKey, `unknown option "magic"`},
		{"ann.asc", "hello", "read OpenPGP key"},
		{"ann.asc", "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nAAAA\n-----END PGP PRIVATE KEY BLOCK-----", "not a public key"},
		{"ann.gpg", "\x99\x01", "read OpenPGP key"},
	} {
		_, err := ParseKeys(map[string][]byte{c.name: []byte(c.value)})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %q: %v; wants %q", c.name, c.value, err, c.says)
		}
	}
}

// What strangers sign is refused or, with nobody's signature at hand, never taken; and it is never answered with a panic.
func FuzzVerify(f *testing.F) {
	f.Add([]byte("tree 0\ngpgsig -----BEGIN SSH SIGNATURE-----\n U1NIU0lHAAAAAQ==\n -----END SSH SIGNATURE-----\n\nx\n"))
	f.Add([]byte("tree 0\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n iHUEABYIAB0WIQQ=\n -----END PGP SIGNATURE-----\n\nx\n"))
	f.Add([]byte("object 0\ntag v1\n\nx\n-----BEGIN PGP SIGNATURE-----\n\niHUE\n=AAAA\n-----END PGP SIGNATURE-----\n"))
	keys, err := ParseKeys(map[string][]byte{"ann.pub": []byte(publicKey)})
	if err != nil {
		f.Fatal(err)
	}
	entity, err := openpgp.NewEntity("Ann", "", "ann@example.org", nil)
	if err != nil {
		f.Fatal(err)
	}
	keys.pgp = append(keys.pgp, entity)
	var other bytes.Buffer // a signature by a key that counts, of something else
	if err := openpgp.ArmoredDetachSign(&other, entity, strings.NewReader("something else"), nil); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("tree 0\ngpgsig " + strings.ReplaceAll(strings.TrimSpace(other.String()), "\n", "\n ") + "\n\nx\n"))
	f.Add([]byte("object 0\ntag v1\n\nx\n" + other.String()))
	f.Fuzz(func(t *testing.T, object []byte) {
		if signer, err := keys.VerifyCommit(object, time.Unix(1e9, 0)); err == nil {
			t.Fatalf("signed by %s", signer)
		}
		if signer, err := keys.VerifyTag(object, "v1", time.Unix(1e9, 0)); err == nil {
			t.Fatalf("signed by %s", signer)
		}
	})
}

// Keys of a Secret are read or refused.
func FuzzParseKeys(f *testing.F) {
	f.Add("allowed_signers", `a,b namespaces="git" `+publicKey)
	f.Add("x.asc", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDME\n-----END PGP PUBLIC KEY BLOCK-----")
	f.Add("x.gpg", "\x98\x33\x04")
	f.Fuzz(func(_ *testing.T, name, value string) {
		_, _ = ParseKeys(map[string][]byte{name: []byte(value)})
	})
}
