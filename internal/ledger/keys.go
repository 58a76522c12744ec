package ledger

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gitopsd/gitopsd/internal/durable"
)

const (
	keyFile = "key.pem"
	// PublicKeyFile is the name of the public key in a ledger's folder.
	PublicKeyFile = "public.pem"
)

// loadKeys reads the key of a ledger and makes it where there is neither key nor ledger yet.
func loadKeys(dir string, empty bool) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, keyFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if !empty {
			return nil, fmt.Errorf("open ledger: %s is missing; restore it from a backup, or move %s aside: a new ledger is begun then", path, dir)
		}
		return makeKeys(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	key, err := parsePEM[ed25519.PrivateKey](text, "PRIVATE KEY", x509.ParsePKCS8PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %s: %w; restore it from a backup", path, err)
	}
	return key, writePublicKey(dir, key.Public().(ed25519.PublicKey))
}

func makeKeys(dir string) (ed25519.PrivateKey, error) {
	key, private, _, err := newKey()
	if err != nil {
		return nil, err
	}
	if err := durable.WriteFile(filepath.Join(dir, keyFile), private, 0o600); err != nil {
		return nil, fmt.Errorf("make key of ledger: %w", err)
	}
	return key, writePublicKey(dir, key.Public().(ed25519.PublicKey))
}

// newKey makes a key, with the text of both halves in PEM.
func newKey() (key ed25519.PrivateKey, private, public []byte, err error) {
	half, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, nil, err
	}
	public, err = publicPEM(half)
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), public, err
}

func publicPEM(key ed25519.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// writePublicKey puts the public key beside the other one, unless it is there already. It never replaces a different one: that is
// either damaged or another ledger's, and a person has to know.
func writePublicKey(dir string, key ed25519.PublicKey) error {
	path := filepath.Join(dir, PublicKeyFile)
	there, err := ReadPublicKey(path)
	if err == nil && there.Equal(key) {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open ledger: %s does not belong to %s; remove it, and it is made again", path, keyFile)
	}
	text, err := publicPEM(key)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("write public key of ledger: %w", err)
	}
	return nil
}

// ReadPublicKey reads a public key in PEM, as it lies in a ledger's folder.
func ReadPublicKey(path string) (ed25519.PublicKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read public key: %w", err)
	}
	key, err := parsePEM[ed25519.PublicKey](text, "PUBLIC KEY", x509.ParsePKIXPublicKey)
	if err != nil {
		return nil, fmt.Errorf("read public key %s: %w", path, err)
	}
	return key, nil
}

func parsePEM[K any](text []byte, kind string, parse func([]byte) (any, error)) (K, error) {
	var none K
	block, _ := pem.Decode(text)
	if block == nil || block.Type != kind {
		return none, fmt.Errorf("it holds no %s in PEM", kind)
	}
	parsed, err := parse(block.Bytes)
	if err != nil {
		return none, err
	}
	key, ok := parsed.(K)
	if !ok {
		return none, fmt.Errorf("its key is a %T and not one of Ed25519", parsed)
	}
	return key, nil
}

// Fingerprint is a short name of a public key, for comparing by eye.
func Fingerprint(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// Keyed is a hash of a content, or of its digest, that nobody without the ledger's key can try guesses against: what an entry names
// instead of a plain hash wherever the content may hold a Secret. The same content has the same one as long as the key lives.
func (l *Ledger) Keyed(content []byte) string {
	mac := hmac.New(sha256.New, l.hashKey)
	mac.Write(content)
	return "hmac-sha256:" + hex.EncodeToString(mac.Sum(nil))
}

func deriveHashKey(key ed25519.PrivateKey) ([]byte, error) {
	return hkdf.Key(sha256.New, key.Seed(), nil, "gitopsd ledger keyed hash v1", sha256.Size)
}
