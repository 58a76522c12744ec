package sops

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	agearmor "filippo.io/age/armor"
	"github.com/ProtonMail/go-crypto/openpgp"
	pgparmor "github.com/ProtonMail/go-crypto/openpgp/armor"
)

// Keys open data keys.
type Keys struct {
	age  []age.Identity
	ring openpgp.EntityList
}

// ParseKeys reads key files as age-keygen writes them, and private OpenPGP keys. No error holds anything of them.
func ParseKeys(ageFiles, pgpFiles []string) (*Keys, error) {
	k := &Keys{}
	for _, text := range ageFiles {
		ids, err := age.ParseIdentities(strings.NewReader(text))
		if err != nil {
			return nil, errors.New("an age key cannot be read: it has to be a file as age-keygen writes it")
		}
		k.age = append(k.age, ids...)
	}
	for _, text := range pgpFiles {
		ring, err := openpgp.ReadArmoredKeyRing(strings.NewReader(text))
		if err != nil {
			ring, err = openpgp.ReadKeyRing(strings.NewReader(text))
		}
		if err != nil {
			return nil, errors.New("an OpenPGP key cannot be read: it has to be as gpg --export-secret-keys --armor writes it")
		}
		for _, e := range ring {
			if e.PrivateKey == nil {
				return nil, errors.New("an OpenPGP key has no private part: export it with gpg --export-secret-keys")
			}
			if e.PrivateKey.Encrypted {
				return nil, errors.New("an OpenPGP key has a passphrase: export one without")
			}
		}
		k.ring = append(k.ring, ring...)
	}
	return k, nil
}

// mostKey bounds a part of a data key.
const mostKey = 1 << 10

// dataKey opens the key of the values: with one group any of its keys gives it, with several each group gives a part.
func (m *metadata) dataKey(keys *Keys) ([]byte, error) {
	if len(m.KeyGroups) == 0 {
		return m.keyGroup.open(keys)
	}
	var parts [][]byte
	var last error
	for _, g := range m.KeyGroups {
		part, err := g.open(keys)
		if err != nil {
			last = err
			continue
		}
		parts = append(parts, part)
	}
	if len(m.KeyGroups) == 1 {
		if last != nil {
			return nil, last
		}
		return parts[0], nil
	}
	threshold := m.ShamirThreshold
	if threshold == 0 {
		threshold = len(m.KeyGroups)
	}
	if len(parts) < threshold {
		return nil, fmt.Errorf("of %d key groups %d are needed, and %d were opened: %w", len(m.KeyGroups), threshold, len(parts), last)
	}
	return combine(parts)
}

// open tries the group's keys until one gives the part.
func (g *keyGroup) open(keys *Keys) ([]byte, error) {
	for _, k := range g.Age {
		r, err := age.Decrypt(agearmor.NewReader(strings.NewReader(k.Enc)), keys.age...)
		if len(keys.age) == 0 || err != nil {
			continue
		}
		if part, err := io.ReadAll(io.LimitReader(r, mostKey)); err == nil {
			return part, nil
		}
	}
	for _, k := range g.PGP {
		block, err := pgparmor.Decode(strings.NewReader(k.Enc))
		if len(keys.ring) == 0 || err != nil {
			continue
		}
		message, err := openpgp.ReadMessage(block.Body, keys.ring, nil, nil)
		if err != nil {
			continue
		}
		if part, err := io.ReadAll(io.LimitReader(message.UnverifiedBody, mostKey)); err == nil {
			return part, nil
		}
	}
	return nil, g.closed()
}

// closed says for whom the group is.
func (g *keyGroup) closed() error {
	var who []string
	for _, k := range g.Age {
		who = append(who, "age "+k.Recipient)
	}
	for _, k := range g.PGP {
		who = append(who, "OpenPGP "+k.Fingerprint)
	}
	for name, of := range map[string][]any{"AWS KMS": g.KMS, "GCP KMS": g.GCP, "Azure Key Vault": g.Azure, "HashiCorp Vault": g.Vault, "HuaweiCloud KMS": g.HC} {
		if len(of) > 0 && len(who) == 0 {
			return fmt.Errorf("it is encrypted for %s alone, which gitopsd does not ask; add an age or OpenPGP key with sops updatekeys", name)
		}
	}
	return fmt.Errorf("none of the given keys opens it; it is encrypted for %s", strings.Join(who, ", "))
}

// combine puts a key together from parts by Shamir's scheme over GF(2^8), as HashiCorp Vault's library splits it: the last byte of
// a part is where the polynomials were evaluated.
func combine(parts [][]byte) ([]byte, error) {
	size := len(parts[0])
	seen := map[byte]bool{}
	for _, p := range parts {
		if len(p) != size || size < 2 || seen[p[size-1]] || p[size-1] == 0 {
			return nil, errors.New("the parts of the data key do not belong together")
		}
		seen[p[size-1]] = true
	}
	key := make([]byte, size-1)
	for n := range key {
		for i, p := range parts {
			basis := byte(1)
			for j, q := range parts {
				if i != j {
					basis = multiply(basis, multiply(q[size-1], invert(p[size-1]^q[size-1])))
				}
			}
			key[n] ^= multiply(p[n], basis)
		}
	}
	return key, nil
}

// multiply is of GF(2^8) with AES' polynomial.
func multiply(a, b byte) (out byte) {
	for ; b > 0; b >>= 1 {
		out ^= a * (b & 1)
		a = a<<1 ^ 0x1b*(a>>7)
	}
	return out
}

// invert is a^254, the inverse in GF(2^8).
func invert(a byte) byte {
	out := byte(1)
	for range 254 {
		out = multiply(out, a)
	}
	return out
}
