package intent

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// sealer compresses and encrypts: AES-256-GCM with random nonces.
type sealer struct {
	seal cipher.AEAD
	zip  *zstd.Encoder
	open *zstd.Decoder
}

// window is how far back the compressor looks, in bytes: it keeps several of them in memory, and most revisions are smaller.
const window = 256 << 10

func newSealer(key []byte) (s sealer, err error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return s, fmt.Errorf("use the key of revisions: %w", err)
	}
	if s.seal, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		return s, err
	}
	if s.zip, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window)); err != nil {
		return s, err
	}
	s.open, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	return s, err
}

// close seals a content under a name, which opening it needs.
func (s sealer) close(content []byte, name string) []byte {
	return s.seal.Seal(nil, nil, s.zip.EncodeAll(content, nil), []byte(name))
}

func (s sealer) unseal(sealed []byte, name string) ([]byte, error) {
	zipped, err := s.seal.Open(nil, nil, sealed, []byte(name))
	if err != nil {
		return nil, fmt.Errorf("read revision %.12s: it is damaged, or the key is another one: %w", name, err)
	}
	content, err := s.open.DecodeAll(zipped, nil)
	if err != nil {
		return nil, fmt.Errorf("read revision %.12s: %w", name, err)
	}
	return content, nil
}

// nameOf is what a content is called: the SHA-256 of its bytes.
func nameOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
