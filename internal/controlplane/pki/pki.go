// Package pki keeps the certificates and keys of a control plane in one folder: it makes what is missing, renews what
// grows old or names other addresses than asked for, and leaves the rest as it is.
//
// In goes who the control plane is (names, addresses, how long a certificate lives); out come files of mode 0600,
// each replaced as a whole. It refuses to touch a key that exists: certificates change, keys stay.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/gitopsd/gitopsd/internal/durable"
)

// PKI is the folder of certificates and keys of one control plane: three authorities (the cluster's, etcd's own, and
// the aggregator's, so that a certificate of one opens nothing of another), the leaves they issued, the key that signs
// service account tokens and the key that encrypts Secrets in etcd. All files have mode 0600.
type PKI struct {
	dir    string
	leaves []leaf
	life   time.Duration
}

// Config says who the control plane is that the certificates are for.
type Config struct {
	Dir         string
	NodeName    string        // the machine's node
	NodeAddress net.IP        // of the machine's agent
	APINames    []string      // names and addresses of the API, besides those that every cluster has
	ServiceCIDR *net.IPNet    // its first address is the API's inside the cluster
	Life        time.Duration // of an issued certificate
}

// CAFile is the certificate of the cluster's authority: what clients of the API and of the agents trust.
func (p *PKI) CAFile() string { return p.Path(string(ClusterCA) + ".crt") }

// Files returns the certificate and key of an identity.
func (p *PKI) Files(id Identity) (cert, key string) {
	return p.Path(string(id) + ".crt"), p.Path(string(id) + ".key")
}

// Subject is the user that an identity's certificate names, and the user's groups.
func (p *PKI) Subject(id Identity) (name string, groups []string) {
	for _, l := range p.leaves {
		if l.id != id {
			continue
		}
		if l.group != "" {
			groups = []string{l.group}
		}
		return l.name, groups
	}
	panic("no identity " + string(id))
}

// Path of a file in the folder.
func (p *PKI) Path(name string) string { return filepath.Join(p.dir, name) }

// AuthorityFiles returns the certificate and key of an authority.
func (p *PKI) AuthorityFiles(a Authority) (cert, key string) {
	return p.Path(string(a) + ".crt"), p.Path(string(a) + ".key")
}

// ServiceAccountFiles returns the key that signs service account tokens and the public one that checks them.
func (p *PKI) ServiceAccountFiles() (private, public string) {
	return p.Path("sa.key"), p.Path("sa.pub")
}

// EncryptionConfig is the file that tells the API how to encrypt Secrets at rest.
func (p *PKI) EncryptionConfig() string { return p.Path("encryption.yaml") }

// Open makes what is missing in the folder, issues anew what expires soon or names other addresses than now
// asked for, and keeps the rest as it is.
func Open(cfg Config) (*PKI, error) {
	p := &PKI{dir: cfg.Dir, leaves: leavesOf(cfg), life: cfg.Life}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, err
	}
	for _, a := range []Authority{ClusterCA, EtcdCA, FrontProxyCA} {
		if err := p.ensureAuthority(a); err != nil {
			return nil, fmt.Errorf("authority %s: %w", a, err)
		}
	}
	if err := p.ensureServiceAccountKey(); err != nil {
		return nil, err
	}
	if err := p.ensureEncryption(); err != nil {
		return nil, err
	}
	_, err := p.Renew(time.Now())
	return p, err
}

// Renew issues every leaf that is missing, does not fit what is asked for, or has less than a third of its life left.
func (p *PKI) Renew(now time.Time) (renewed []Identity, err error) {
	for _, l := range p.leaves {
		certFile, keyFile := p.Files(l.id)
		if p.fresh(certFile, keyFile, l, now) {
			continue
		}
		if err := p.issue(l, certFile, keyFile, now); err != nil {
			return renewed, fmt.Errorf("issue certificate %s: %w", l.id, err)
		}
		renewed = append(renewed, l.id)
	}
	return renewed, nil
}

func (p *PKI) fresh(certFile, keyFile string, want leaf, now time.Time) bool {
	cert, err := readCert(certFile)
	if err != nil {
		return false
	}
	if ok, err := exists(keyFile); err != nil || !ok {
		return false
	}
	life := cert.NotAfter.Sub(cert.NotBefore)
	return cert.NotAfter.Sub(now) > life/3 && want.matches(cert)
}

func (p *PKI) issue(l leaf, certFile, keyFile string, now time.Time) error {
	caFile, caKeyFile := p.AuthorityFiles(l.authority)
	ca, err := readCert(caFile)
	if err != nil {
		return err
	}
	caKey, err := readKey(caKeyFile)
	if err != nil {
		return err
	}
	// The key stays when the certificate is renewed: replacing the two files is then never half done.
	key, err := readKey(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = newKey(keyFile)
	}
	if err != nil {
		return err
	}
	template := l.template(now, p.life)
	if template.NotAfter.After(ca.NotAfter) {
		template.NotAfter = ca.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	return WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (p *PKI) ensureAuthority(a Authority) error {
	if ok, err := exists(p.Path(string(a) + ".crt")); err != nil || ok {
		return err
	}
	certFile, keyFile := p.AuthorityFiles(a)
	key, err := newKey(keyFile)
	if err != nil {
		return err
	}
	template := a.template(time.Now())
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	return WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// ensureServiceAccountKey makes the pair that signs and checks service account tokens. The public file is derived, so
// a crash between the two writes is mended by the next start.
func (p *PKI) ensureServiceAccountKey() error {
	key, err := readKey(p.Path("sa.key"))
	if errors.Is(err, fs.ErrNotExist) {
		key, err = newKey(p.Path("sa.key"))
	}
	if err != nil {
		return fmt.Errorf("service account key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return WriteFile(p.Path("sa.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// ensureEncryption makes the configuration under which the API encrypts Secrets before they reach etcd (XSalsa20 with
// Poly1305). The key lies on the same disk: it protects copies of the store, not the machine.
func (p *PKI) ensureEncryption() error {
	if ok, err := exists(p.EncryptionConfig()); err != nil || ok {
		return err
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	return WriteFile(p.EncryptionConfig(), fmt.Appendf(nil, encryptionConfig, base64.StdEncoding.EncodeToString(key)))
}

const encryptionConfig = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - secretbox: {keys: [{name: key1, secret: %s}]}
  - identity: {}
`

func newKey(file string) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

func readCert(file string) (*x509.Certificate, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return x509.ParseCertificate(block.Bytes)
}

func readKey(file string) (crypto.Signer, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s holds no key", file)
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// WriteFile replaces a file as a whole, with mode 0600, and leaves it alone when it holds these bytes already.
func WriteFile(path string, b []byte) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == string(b) {
		return os.Chmod(path, 0o600)
	}
	return durable.WriteFile(path, b, 0o600)
}
