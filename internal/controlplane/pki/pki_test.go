package pki

import (
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func testConfig(dir string) Config {
	_, services, _ := net.ParseCIDR("10.43.0.0/16")
	return Config{Dir: dir, NodeName: "n1", NodeAddress: net.ParseIP("192.0.2.7"), APINames: []string{"api.example.org"},
		ServiceCIDR: services, Life: 90 * time.Minute}
}

func TestAFolderOpenedTwiceStaysAsItIs(t *testing.T) {
	dir := t.TempDir()
	mustOpen(t, testConfig(dir))
	before := contents(t, dir)
	mustOpen(t, testConfig(dir))
	for name, b := range contents(t, dir) {
		if before[name] != b {
			t.Errorf("%s changed", name)
		}
	}
}

func TestEveryFileIsForItsOwnerOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	mustOpen(t, testConfig(dir))
	for name := range contents(t, dir) {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", name, info.Mode().Perm())
		}
	}
}

func TestAnotherAddressRenewsTheServerCertificateAlone(t *testing.T) {
	dir := t.TempDir()
	mustOpen(t, testConfig(dir))
	before := contents(t, dir)
	cfg := testConfig(dir)
	cfg.APINames = append(cfg.APINames, "198.51.100.9")
	p := mustOpen(t, cfg)
	for name, b := range contents(t, dir) {
		if changed := before[name] != b; changed != (name == "apiserver.crt") {
			t.Errorf("%s changed: %v", name, changed)
		}
	}
	cert := read(t, p, APIServer)
	for _, host := range []string{"api.example.org", "198.51.100.9", "10.43.0.1", "kubernetes.default.svc", "n1"} {
		if err := cert.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
}

func TestRenewalAtTheLastThirdKeepsTheKey(t *testing.T) {
	dir := t.TempDir()
	p := mustOpen(t, testConfig(dir))
	before := contents(t, dir)
	if renewed, err := p.Renew(time.Now().Add(50 * time.Minute)); err != nil || len(renewed) != 0 {
		t.Fatalf("renewed %v, %v before the last third", renewed, err)
	}
	later := time.Now().Add(65 * time.Minute)
	renewed, err := p.Renew(later)
	if err != nil || len(renewed) != len(p.leaves) {
		t.Fatalf("renewed %v, %v", renewed, err)
	}
	for name, b := range contents(t, dir) {
		if strings.HasSuffix(name, ".key") && before[name] != b {
			t.Errorf("%s changed", name)
		}
	}
	if end := read(t, p, Admin).NotAfter; end.Before(later.Add(89 * time.Minute)) {
		t.Errorf("the renewed certificate ends at %v", end)
	}
}

func TestAuthoritiesVouchForTheirOwnOnly(t *testing.T) {
	p := mustOpen(t, testConfig(t.TempDir()))
	for _, c := range []struct {
		id        Identity
		authority Authority
		usage     x509.ExtKeyUsage
		ok        bool
	}{
		{Admin, ClusterCA, x509.ExtKeyUsageClientAuth, true},
		{Admin, EtcdCA, x509.ExtKeyUsageClientAuth, false},
		{Node, EtcdCA, x509.ExtKeyUsageClientAuth, false},
		{Node, FrontProxyCA, x509.ExtKeyUsageClientAuth, false},
		{EtcdClient, EtcdCA, x509.ExtKeyUsageClientAuth, true},
		{EtcdClient, ClusterCA, x509.ExtKeyUsageClientAuth, false},
		{FrontProxyClient, ClusterCA, x509.ExtKeyUsageClientAuth, false},
		{APIServer, ClusterCA, x509.ExtKeyUsageClientAuth, false},
		{NodeServing, ClusterCA, x509.ExtKeyUsageClientAuth, false},
	} {
		caFile, _ := p.AuthorityFiles(c.authority)
		ca, err := readCert(caFile)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AddCert(ca)
		_, err = read(t, p, c.id).Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{c.usage}})
		if (err == nil) != c.ok {
			t.Errorf("%s under %s: %v", c.id, c.authority, err)
		}
	}
}

func TestALostCertificateOrDerivedFileIsMadeAnew(t *testing.T) {
	dir := t.TempDir()
	p := mustOpen(t, testConfig(dir))
	before := contents(t, dir)
	for _, name := range []string{"admin.crt", "sa.pub"} {
		if err := os.Remove(p.Path(name)); err != nil {
			t.Fatal(err)
		}
	}
	mustOpen(t, testConfig(dir))
	after := contents(t, dir)
	if after["sa.pub"] != before["sa.pub"] {
		t.Error("sa.pub is not the public half of the key that stayed")
	}
	if after["admin.crt"] == "" {
		t.Error("admin.crt was not made anew")
	}
}

func mustOpen(t *testing.T, cfg Config) *PKI {
	t.Helper()
	p, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func read(t *testing.T, p *PKI, id Identity) *x509.Certificate {
	t.Helper()
	file, _ := p.Files(id)
	c, err := readCert(file)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[f.Name()] = string(b)
	}
	return out
}
