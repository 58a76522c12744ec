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

// store is the embedded etcd: one member, for the API's stores by its functions, for the API's checks of it by a socket in a folder of ours alone, and on loopback
// for holders of a certificate of etcd's own authority, as operators with etcdctl.
type store struct{ etcd *embed.Etcd }

// etcdSocket is where the API asks after etcd: without TLS, and past the network.
func etcdSocket(cfg Config) url.URL {
	return url.URL{Scheme: "unix", Path: filepath.Join(cfg.RunDir, "etcd", "grpc.sock")}
}

// longestSocket is how long the path of a socket may be: sun_path of unix(7), with its end.
const longestSocket = 107

func startEtcd(cfg Config, keys *pki.PKI) (*store, error) {
	if err := os.MkdirAll(cfg.LogDir, 0o700); err != nil {
		return nil, fmt.Errorf("create log folder: %w", err)
	}
	socket := etcdSocket(cfg)
	if len(socket.Path) > longestSocket {
		return nil, fmt.Errorf("the path of etcd's socket %s is longer than the %d bytes of a socket's name; use a shorter --run-dir", socket.Path, longestSocket)
	}
	if err := os.MkdirAll(cfg.RunDir, 0o711); err != nil {
		return nil, fmt.Errorf("create run folder: %w", err)
	}
	// Made anew: one that is there may have been made by somebody else, for others to open.
	folder := filepath.Dir(socket.Path)
	if err := os.RemoveAll(folder); err != nil {
		return nil, fmt.Errorf("remove the sockets of an earlier etcd: %w", err)
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		return nil, fmt.Errorf("create folder for sockets of etcd: %w", err)
	}
	c := embed.NewConfig()
	c.Dir = filepath.Join(cfg.DataDir, "etcd")
	c.LogLevel = "error"
	c.LogOutputs = []string{filepath.Join(cfg.LogDir, "etcd.log")}
	clients, peers := loopback(cfg.EtcdPort), loopback(cfg.EtcdPeerPort)
	c.ListenClientUrls, c.AdvertiseClientUrls = append(clients, socket), clients
	// What is not gRPC has a door of its own, so that gRPC is served by its own library and not through net/http, as etcd's documentation recommends.
	plain := socket
	plain.Path = filepath.Join(folder, "http.sock")
	c.ListenClientHttpUrls = []url.URL{plain}
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
