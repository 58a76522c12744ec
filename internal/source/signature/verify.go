package signature

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"sort"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// namespace is what Git signs under with SSH keys, so that a signature made for something else is none of a commit.
const namespace = "git"

func (k *Keys) verifySSH(payload, armored []byte, now time.Time) (Signer, error) {
	sig, err := sshsig.Unarmor(armored)
	if err != nil {
		return Signer{}, fmt.Errorf("its SSH signature cannot be read: %w", err)
	}
	signer := Signer{Key: "SSH key " + ssh.FingerprintSHA256(sig.PublicKey)}
	known := false
	for _, trusted := range k.ssh {
		if !bytes.Equal(trusted.key.Marshal(), sig.PublicKey.Marshal()) {
			continue
		}
		known = true
		if !trusted.after.IsZero() && now.Before(trusted.after) || !trusted.before.IsZero() && !now.Before(trusted.before) {
			continue
		}
		if err := sshsig.Verify(bytes.NewReader(payload), sig, trusted.key, sig.HashAlgorithm, namespace); err != nil {
			return signer, fmt.Errorf("its signature by %s does not fit: %w", signer.Key, err)
		}
		signer.Name = trusted.name
		return signer, nil
	}
	if known {
		return signer, fmt.Errorf("it is signed by %s, which allowed_signers lets count at other times only", signer.Key)
	}
	return signer, fmt.Errorf("it is signed by %s, which is none of the given keys", signer.Key)
}

func (k *Keys) verifyPGP(payload, armored []byte, now time.Time) (Signer, error) {
	block, err := armor.Decode(bytes.NewReader(armored))
	if err != nil {
		return Signer{}, fmt.Errorf("its OpenPGP signature cannot be read: %w", err)
	}
	raw, err := io.ReadAll(block.Body)
	if err != nil {
		return Signer{}, fmt.Errorf("its OpenPGP signature cannot be read: %w", err)
	}
	check := func(at time.Time) (*packet.Signature, *openpgp.Entity, error) {
		return openpgp.VerifyDetachedSignature(k.pgp, bytes.NewReader(payload), bytes.NewReader(raw), &packet.Config{Time: func() time.Time { return at }})
	}
	sig, entity, err := check(now)
	if sig != nil && sig.CreationTime.After(now) && !sig.CreationTime.After(now.Add(day)) {
		// The clock of whoever signed is ahead. The library takes what is still to come for expired; what expires until then counts as expired now.
		sig, entity, err = check(sig.CreationTime)
	}
	if entity == nil {
		if errors.Is(err, pgperrors.ErrUnknownIssuer) {
			return Signer{}, fmt.Errorf("it is signed by OpenPGP key %s, which is none of the given keys that may sign", issuer(raw))
		}
		return Signer{}, fmt.Errorf("its OpenPGP signature does not fit: %w", err)
	}
	signer := Signer{Key: fmt.Sprintf("OpenPGP key %X", entity.PrimaryKey.Fingerprint), Name: identity(entity)}
	switch {
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		return signer, fmt.Errorf("it is signed by %s, which is revoked", signer)
	case sig.CreationTime.After(now.Add(day)):
		return signer, fmt.Errorf("its signature by %s is of %s, which is still to come; are the clocks right?", signer, sig.CreationTime.UTC().Format(time.RFC3339))
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return signer, fmt.Errorf("it is signed by %s, which has expired", signer)
	case errors.Is(err, pgperrors.ErrSignatureExpired):
		return signer, fmt.Errorf("its signature by %s has expired", signer)
	case err != nil:
		return signer, fmt.Errorf("its signature by %s does not count: %w", signer, err)
	case sig.Hash == crypto.SHA1, sig.Hash == crypto.MD5, sig.Hash == crypto.RIPEMD160:
		return signer, fmt.Errorf("its signature by %s is made with %s, which can be forged; sign with SHA-256 or better", signer, sig.Hash)
	}
	return signer, nil
}

// day is by how much clocks may differ.
const day = 24 * time.Hour

// issuer is the ID of the key that a signature names, as far as it names one.
func issuer(signature []byte) string {
	for packets := packet.NewReader(bytes.NewReader(signature)); ; {
		p, err := packets.Next()
		if err != nil {
			return "of an unknown name"
		}
		sig, ok := p.(*packet.Signature)
		switch {
		case !ok:
		case len(sig.IssuerFingerprint) > 0:
			return fmt.Sprintf("%X", sig.IssuerFingerprint)
		case sig.IssuerKeyId != nil:
			return fmt.Sprintf("%016X", *sig.IssuerKeyId)
		}
	}
}

// identity is the primary user ID of a key, or the first by its bytes.
func identity(e *openpgp.Entity) string {
	if _, primary := e.PrimarySelfSignature(); primary != nil {
		return primary.Name
	}
	var names []string
	for name := range e.Identities {
		names = append(names, name)
	}
	sort.Strings(names)
	if len(names) == 0 {
		return ""
	}
	return names[0]
}
