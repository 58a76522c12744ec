package intent

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
)

// Box seals what others keep in files of their own, as contents are sealed: compressed, then AES-256-GCM under a key beside them.
type Box struct {
	sealer
	key []byte
}

// OpenBox uses the key in a file, which it makes where there is none.
func OpenBox(keyFile string) (*Box, error) {
	key, err := loadKey(keyFile)
	if err != nil {
		return nil, err
	}
	b := &Box{key: key}
	b.sealer, err = newSealer(key)
	return b, err
}

// Seal seals a content for a name; only under that name can it be opened.
func (b *Box) Seal(content []byte, name string) []byte { return b.close(content, name) }

// Open is the inverse of Seal. It fails for what is torn, changed or sealed under another name or key.
func (b *Box) Open(sealed []byte, name string) ([]byte, error) { return b.unseal(sealed, name) }

// Name is a name for a content that tells nobody without the key what the content is.
func (b *Box) Name(content []byte) string {
	h := hmac.New(sha256.New, b.key)
	h.Write(content)
	return hex.EncodeToString(h.Sum(nil))
}
