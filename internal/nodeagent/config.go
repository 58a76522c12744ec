// Package nodeagent makes a machine a node: it runs the pods that are bound to it, through a container runtime that
// speaks CRI, and tells the API what became of them.
//
// In goes the API, as the identity of one node and with no more rights than that has; out come the Node object and its
// lease, containers, pod statuses, events, and a server for logs, exec, attach, port-forward and metrics. Run is the
// whole of it. What happens to a pod is decided in package lifecycle and nowhere else; this package carries it out.
//
// It refuses to schedule, to configure the network, and to remember: a restart adopts what the runtime shows.
package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/gitopsd/gitopsd/internal/nodeagent/podspec"
)

// Config is what Run needs to know. Fields without a default must be set.
type Config struct {
	// Client speaks as system:node:NodeName in the group system:nodes.
	Client   kubernetes.Interface
	NodeName string
	Hostname string   // default NodeName
	NodeIPs  []string // the primary one first

	RuntimeEndpoint string // unix socket of the CRI runtime
	DataDir         string // holds pods/<uid>
	PodLogsDir      string // default DataDir/pod-logs
	CgroupParent    string // default /gitopsd

	ListenAddress   string // default all addresses
	Port            int    // default 10250; negative: no server
	ServingCertFile string // read again when it changes
	ServingKeyFile  string
	ClientCAFile    string
	AllowedClients  []string // common names that may use the server, besides the group system:masters

	ClusterDNS    []string // may be empty: pods then use the host's resolver
	ClusterDomain string   // default cluster.local
	ResolvConf    string   // default the host's

	Labels   map[string]string
	Taints   []v1.Taint // set at registration only
	MaxPods  int        // default 110
	PodPids  int64      // processes per pod; default 16384, negative: unbounded
	Reserved v1.ResourceList

	// OnPodCIDR is told the node's pod ranges once they are known and when they change; the network part writes the
	// CNI configuration then. It is tried again when it fails.
	OnPodCIDR func(ctx context.Context, cidrs []string) error

	// Drain returns once no Service leads new connections to a pod that is being deleted; its containers are stopped after that, or when
	// ctx ends. Default: nothing is waited for.
	Drain func(ctx context.Context, pod types.UID) error

	// Version is the kubelet version to report; default that of the Kubernetes release this agent follows.
	Version string
	Log     *slog.Logger

	// Relist is how often the runtime is compared with what is known, besides its events; default 5 s.
	Relist time.Duration
	// WithoutCgroups leaves pod cgroups alone: for runtimes that only pretend.
	WithoutCgroups bool
}

// followed is the Kubernetes release whose kubelet this agent stands in for.
const followed = "v1.36.3"

func (c *Config) complete() error {
	if c.Client == nil || c.NodeName == "" || c.RuntimeEndpoint == "" || c.DataDir == "" || len(c.NodeIPs) == 0 {
		return errors.New("configure node agent: Client, NodeName, NodeIPs, RuntimeEndpoint and DataDir must be set")
	}
	fill(&c.Hostname, c.NodeName)
	fill(&c.PodLogsDir, filepath.Join(c.DataDir, "pod-logs"))
	fill(&c.CgroupParent, "/gitopsd")
	fill(&c.ClusterDomain, "cluster.local")
	fill(&c.Version, followed)
	if c.Port == 0 {
		c.Port = 10250
	}
	if c.MaxPods == 0 {
		c.MaxPods = 110
	}
	if c.PodPids == 0 {
		c.PodPids = 16384
	}
	if c.Drain == nil {
		c.Drain = func(context.Context, types.UID) error { return nil }
	}
	if c.Relist == 0 {
		c.Relist = 5 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Port > 0 && (c.ServingCertFile == "" || c.ServingKeyFile == "" || c.ClientCAFile == "") {
		return errors.New("configure node agent: the server needs ServingCertFile, ServingKeyFile and ClientCAFile")
	}
	return nil
}

func fill(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

// shared is what the pod configurations of this node have in common.
func (c *Config) shared() (podspec.Node, error) {
	dns, err := hostDNS(c.ResolvConf)
	if err != nil {
		return podspec.Node{}, err
	}
	return podspec.Node{
		Name: c.NodeName, Hostname: c.Hostname, ClusterDNS: c.ClusterDNS, ClusterDomain: c.ClusterDomain, HostDNS: dns, LogsDir: c.PodLogsDir,
	}, nil
}

// resolvedConf is the list of real servers where the host's resolver is systemd-resolved on a loopback address, which
// no pod can reach.
const resolvedConf = "/run/systemd/resolve/resolv.conf"

func hostDNS(path string) (podspec.DNS, error) {
	if path != "" {
		b, err := os.ReadFile(path)
		if err != nil {
			return podspec.DNS{}, fmt.Errorf("read resolver configuration: %w", err)
		}
		return podspec.ParseResolv(string(b)), nil
	}
	b, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return podspec.DNS{}, fmt.Errorf("read resolver configuration: %w", err)
	}
	dns := podspec.ParseResolv(string(b))
	for _, s := range dns.Servers {
		if !strings.HasPrefix(s, "127.") && s != "::1" {
			return dns, nil
		}
	}
	if b, err := os.ReadFile(resolvedConf); err == nil {
		return podspec.ParseResolv(string(b)), nil
	}
	return dns, nil
}
