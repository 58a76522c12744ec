package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"
)

// DefaultDataDir is where an instance lives when nothing else is said.
const DefaultDataDir = "/var/lib/gitopsd"

// Options are everything that can be said about an instance. They are kept in <data-dir>/instance.json, from which
// down, uninstall and status know what the last start made.
type Options struct {
	DataDir          string        `json:"dataDir"`
	RunDir           string        `json:"runDir"`
	NodeName         string        `json:"nodeName"`
	BindAddress      string        `json:"bindAddress"`
	AdvertiseAddress string        `json:"advertiseAddress"`
	ExtraNames       []string      `json:"extraNames,omitempty"`
	APIPort          int           `json:"apiPort"`
	AgentPort        int           `json:"agentPort"`
	EtcdPort         int           `json:"etcdPort"`
	EtcdPeerPort     int           `json:"etcdPeerPort"`
	MetricsPort      int           `json:"metricsPort"`
	PodCIDR          string        `json:"podCIDR"`
	ServiceCIDR      string        `json:"serviceCIDR"`
	NodePortRange    string        `json:"nodePortRange"`
	Bridge           string        `json:"bridge"`
	Table            string        `json:"table"`
	CgroupParent     string        `json:"cgroupParent"`
	RuntimeEndpoint  string        `json:"runtimeEndpoint,omitempty"` // empty: the embedded containerd
	CertificateLife  time.Duration `json:"certificateLife"`
	AuditLog         bool          `json:"auditLog,omitempty"`
	Root             RootSource    `json:"root,omitzero"`
	Sources          SourceOptions `json:"sources,omitzero"`

	NoNode     bool   `json:"noNode,omitempty"`     // control plane and engine alone
	EngineOnly bool   `json:"engineOnly,omitempty"` // the cluster is somebody else's: the one that Kubeconfig names, or whose pod this is
	Kubeconfig string `json:"kubeconfig,omitempty"`
	Namespace  string `json:"namespace,omitempty"` // of the engine, with EngineOnly
}

// RootSource is what `up --repo` makes the first Application of.
type RootSource struct {
	Repo        string `json:"repo,omitempty"`
	Ref         string `json:"ref,omitempty"` // branch, tag or commit; found out from its form and the repository
	Path        string `json:"path,omitempty"`
	Credentials string `json:"-"` // file

	Secret         string `json:"secret,omitempty"`         // a Secret with credentials that is there
	ServiceAccount string `json:"serviceAccount,omitempty"` // as which the first Application acts
}

// DefaultOptions are those of `gitopsd up` without flags.
func DefaultOptions() Options {
	return Options{
		DataDir: DefaultDataDir, BindAddress: "0.0.0.0",
		APIPort: 6443, AgentPort: 10250, EtcdPort: 2379, EtcdPeerPort: 2380, MetricsPort: 10249,
		PodCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16", NodePortRange: "30000-32767",
		Bridge: "gitopsd0", Table: "gitopsd", CgroupParent: "/gitopsd",
		CertificateLife: 365 * 24 * time.Hour, Sources: defaultSourceOptions(),
	}
}

// complete fills in what is found out from the machine and checks the rest. Its errors name the flag.
func (o *Options) complete() error {
	abs, err := filepath.Abs(o.DataDir)
	if err != nil {
		return fmt.Errorf("--data-dir %s: %w", o.DataDir, err)
	}
	o.DataDir = abs
	if o.RunDir == "" {
		o.RunDir = defaultRunDir(abs)
	}
	if o.NodeName == "" {
		if o.NodeName, err = os.Hostname(); err != nil {
			return fmt.Errorf("find this machine's name: %w; use --node-name", err)
		}
	}
	if o.AdvertiseAddress == "" {
		ip, err := defaultRouteAddress()
		if err != nil {
			return err
		}
		o.AdvertiseAddress = ip.String()
	}
	if err := o.Sources.complete(); err != nil {
		return err
	}
	return o.check()
}

func (o *Options) check() error {
	for _, a := range []struct{ flag, value string }{{"--bind-address", o.BindAddress}, {"--advertise-address", o.AdvertiseAddress}} {
		if net.ParseIP(a.value) == nil {
			return fmt.Errorf("%s %q is not an IP address", a.flag, a.value)
		}
	}
	if net.ParseIP(o.AdvertiseAddress).IsLoopback() {
		return fmt.Errorf("--advertise-address %s is loopback, which pods cannot reach; use an address of this machine", o.AdvertiseAddress)
	}
	pods, err := o.cidr("--pod-cidr", o.PodCIDR, 24)
	if err != nil {
		return err
	}
	services, err := o.cidr("--service-cidr", o.ServiceCIDR, 28)
	if err != nil {
		return err
	}
	if pods.Contains(services.IP) || services.Contains(pods.IP) {
		return fmt.Errorf("--pod-cidr %s and --service-cidr %s overlap; choose ranges apart", pods, services)
	}
	if o.CertificateLife < 10*time.Second {
		return fmt.Errorf("--certificate-life %s is too short; at least 10s", o.CertificateLife)
	}
	if len(o.Bridge) == 0 || len(o.Bridge) > 15 {
		return fmt.Errorf("--bridge %q: the name of an interface has 1 to 15 characters", o.Bridge)
	}
	return nil
}

// cidr parses a range of at least 2^(32-bits) addresses.
func (o *Options) cidr(flag, value string, bits int) (*net.IPNet, error) {
	_, n, err := net.ParseCIDR(value)
	if err != nil || n.IP.To4() == nil {
		return nil, fmt.Errorf("%s %q is not an IPv4 range such as 10.42.0.0/16", flag, value)
	}
	if ones, _ := n.Mask.Size(); ones > bits {
		return nil, fmt.Errorf("%s %s is too small: at most /%d", flag, value, bits)
	}
	return n, nil
}

// defaultRunDir is /run/gitopsd for the default data directory and a name of its own for every other: sockets have
// short paths, and two instances do not meet.
func defaultRunDir(dataDir string) string {
	if dataDir == DefaultDataDir {
		return "/run/gitopsd"
	}
	sum := sha256.Sum256([]byte(dataDir))
	return "/run/gitopsd-" + hex.EncodeToString(sum[:4])
}

// defaultRouteAddress is the address under which this machine speaks to others. Nothing is sent.
func defaultRouteAddress() (net.IP, error) {
	conn, err := net.Dial("udp4", "198.51.100.1:9")
	if err != nil {
		return nil, errors.New("this machine has no default route, so its address cannot be guessed; use --advertise-address")
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP, nil
}

const instanceFile = "instance.json"

// LoadOptions reads what the last start of the instance in dataDir was told.
func LoadOptions(dataDir string) (Options, error) {
	b, err := os.ReadFile(filepath.Join(dataDir, instanceFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Options{}, fmt.Errorf("no gitopsd in %s; start one with: gitopsd up --data-dir %s", dataDir, dataDir)
	}
	if err != nil {
		return Options{}, err
	}
	var o Options
	if err := json.Unmarshal(b, &o); err != nil {
		return Options{}, fmt.Errorf("read %s: %w", filepath.Join(dataDir, instanceFile), err)
	}
	return o, nil
}

func (o *Options) save() error {
	b, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(o.DataDir, "."+instanceFile)
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(o.DataDir, instanceFile))
}
