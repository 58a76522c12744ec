package controlplane

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/gitopsd/gitopsd/internal/controlplane/pki"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

// store is the embedded etcd: one member, on loopback, for holders of a certificate of etcd's own authority only.
type store struct{ etcd *embed.Etcd }

func startEtcd(cfg Config, keys *pki.PKI) (*store, error) {
	if err := os.MkdirAll(cfg.LogDir, 0o700); err != nil {
		return nil, fmt.Errorf("create log folder: %w", err)
	}
	c := embed.NewConfig()
	c.Dir = filepath.Join(cfg.DataDir, "etcd")
	c.LogLevel = "error"
	c.LogOutputs = []string{filepath.Join(cfg.LogDir, "etcd.log")}
	clients, peers := loopback(cfg.EtcdPort), loopback(cfg.EtcdPeerPort)
	c.ListenClientUrls, c.AdvertiseClientUrls = clients, clients
	c.ListenPeerUrls, c.AdvertisePeerUrls = peers, peers
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.ClientTLSInfo = etcdTLS(keys)
	c.PeerTLSInfo = etcdTLS(keys)
	// The raft log is for followers, and there are none: a short one keeps memory small.
	c.SnapshotCount, c.SnapshotCatchUpEntries = 5000, 500
	e, err := embed.StartEtcd(c)
	if err != nil {
		return nil, fmt.Errorf("start etcd in %s: %w", c.Dir, err)
	}
	select {
	case <-e.Server.ReadyNotify():
		return &store{e}, nil
	case err := <-e.Err():
		e.Close()
		return nil, fmt.Errorf("start etcd in %s: %w", c.Dir, err)
	case <-e.Server.StopNotify():
		e.Close()
		return nil, fmt.Errorf("start etcd in %s: it stopped; see %s", c.Dir, c.LogOutputs[0])
	}
}

func (s *store) failed() <-chan error { return s.etcd.Err() }

func (s *store) close() { s.etcd.Close() }

func loopback(port int) []url.URL {
	return []url.URL{{Scheme: "https", Host: fmt.Sprintf("127.0.0.1:%d", port)}}
}

func etcdTLS(keys *pki.PKI) transport.TLSInfo {
	ca, _ := keys.AuthorityFiles(pki.EtcdCA)
	cert, key := keys.Files(pki.EtcdServer)
	return transport.TLSInfo{CertFile: cert, KeyFile: key, ClientCertFile: cert, ClientKeyFile: key,
		TrustedCAFile: ca, ClientCertAuth: true}
}
