package pki

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"slices"
	"time"
)

// Identity names a certificate: who presents it, and thereby what its holder may do.
type Identity string

const (
	Admin             Identity = "admin"              // people; system:masters
	Engine            Identity = "engine"             // the GitOps engine on its own control plane; system:masters
	Scheduler         Identity = "scheduler"          // system:kube-scheduler
	NetworkProxy      Identity = "network"            // system:kube-proxy: reads Services and endpoints
	ControllerManager Identity = "controller-manager" // system:kube-controller-manager
	Node              Identity = "node"               // this machine's agent as a client: system:node:<name>
	NodeServing       Identity = "node-serving"       // this machine's agent as a server
	AgentClient       Identity = "agent-client"       // the API as a client of the agents
	APIServer         Identity = "apiserver"          // the API's server certificate
	EtcdServer        Identity = "etcd-server"        // etcd for its clients and for itself
	EtcdClient        Identity = "etcd-client"        // a client of etcd over loopback, for operators
	FrontProxyClient  Identity = "front-proxy-client" // the API as a client of aggregated APIs
)

// AgentClientName is the common name under which the API calls an agent's server; agents admit nobody else but
// system:masters.
const AgentClientName = "gitopsd:apiserver"

// Authority is a certificate authority of a control plane.
type Authority string

const (
	ClusterCA    Authority = "ca"
	EtcdCA       Authority = "etcd-ca"
	FrontProxyCA Authority = "front-proxy-ca"
)

const authorityLife = 10 * 365 * 24 * time.Hour

func (a Authority) template(now time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "gitopsd-" + string(a)},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(authorityLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true,
	}
}

// leaf is a certificate as it ought to be.
type leaf struct {
	id        Identity
	authority Authority
	name      string // common name: the user
	group     string // organization: the user's group
	server    bool
	hosts     []string // DNS names and addresses
}

func leavesOf(cfg Config) []leaf {
	api := append([]string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		"localhost", "127.0.0.1", firstAddress(cfg.ServiceCIDR).String(), cfg.NodeName, cfg.NodeAddress.String()}, cfg.APINames...)
	nodeHosts := []string{cfg.NodeName, cfg.NodeAddress.String(), "127.0.0.1", "localhost"}
	return []leaf{
		{id: Admin, authority: ClusterCA, name: "gitopsd:admin", group: "system:masters"},
		{id: Engine, authority: ClusterCA, name: "gitopsd:engine", group: "system:masters"},
		{id: Scheduler, authority: ClusterCA, name: "system:kube-scheduler"},
		{id: NetworkProxy, authority: ClusterCA, name: "system:kube-proxy"},
		{id: ControllerManager, authority: ClusterCA, name: "system:kube-controller-manager"},
		{id: Node, authority: ClusterCA, name: "system:node:" + cfg.NodeName, group: "system:nodes"},
		{id: NodeServing, authority: ClusterCA, name: "system:node:" + cfg.NodeName, group: "system:nodes", server: true, hosts: nodeHosts},
		{id: AgentClient, authority: ClusterCA, name: AgentClientName},
		{id: APIServer, authority: ClusterCA, name: "kube-apiserver", server: true, hosts: api},
		{id: EtcdServer, authority: EtcdCA, name: "etcd", server: true, hosts: []string{"localhost", "127.0.0.1"}},
		{id: EtcdClient, authority: EtcdCA, name: "kube-apiserver"},
		{id: FrontProxyClient, authority: FrontProxyCA, name: "front-proxy-client"},
	}
}

// template is the certificate to be signed. Server certificates are client certificates too where the server calls
// its like (etcd); for the API and the agents they are not.
func (l leaf) template(now time.Time, life time.Duration) *x509.Certificate {
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: l.name},
		// The clock of another machine may be behind; a short-lived certificate must not be born old.
		NotBefore: now.Add(-min(time.Hour, life/20)), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	if l.group != "" {
		t.Subject.Organization = []string{l.group}
	}
	t.ExtKeyUsage = l.usage()
	t.DNSNames, t.IPAddresses = splitHosts(l.hosts)
	return t
}

func (l leaf) usage() []x509.ExtKeyUsage {
	switch {
	case l.id == EtcdServer:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	case l.server:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
}

func (l leaf) matches(c *x509.Certificate) bool {
	names, ips := splitHosts(l.hosts)
	return c.Subject.CommonName == l.name && slices.Equal(c.DNSNames, names) &&
		slices.EqualFunc(c.IPAddresses, ips, net.IP.Equal)
}

// splitHosts sorts names from addresses and drops repetitions.
func splitHosts(hosts []string) (names []string, ips []net.IP) {
	seen := map[string]bool{}
	for _, h := range hosts {
		if h == "" || seen[h] {
			continue
		}
		seen[h] = true
		if ip := net.ParseIP(h); ip != nil {
			ips = append(ips, ip)
		} else {
			names = append(names, h)
		}
	}
	return names, ips
}

// firstAddress of a range: the one that Kubernetes gives to the Service "kubernetes".
func firstAddress(n *net.IPNet) net.IP {
	ip := slices.Clone(n.IP)
	ip[len(ip)-1]++
	return ip
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // crypto/rand does not fail on Linux
	}
	return n.Add(n, big.NewInt(1))
}
