package podspec

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/gitopsd/gitopsd/internal/nodeagent/cri"
)

// Node is what all pods of a node share.
type Node struct {
	Name          string
	Hostname      string
	ClusterDNS    []string
	ClusterDomain string
	HostDNS       DNS
	LogsDir       string
}

// DNS is a resolver configuration.
type DNS struct{ Servers, Searches, Options []string }

// LogDir is where the logs of a pod are.
func (n Node) LogDir(pod *v1.Pod) string {
	return filepath.Join(n.LogsDir, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

// Sandbox configures the sandbox of a pod.
func (n Node) Sandbox(pod *v1.Pod, attempt uint32, cgroupParent string) (*runtimeapi.PodSandboxConfig, error) {
	dns, err := n.dns(pod)
	if err != nil {
		return nil, err
	}
	hostname, err := n.HostnameOf(pod)
	if err != nil {
		return nil, err
	}
	c := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		Hostname:     hostname,
		LogDirectory: n.LogDir(pod),
		DnsConfig:    &runtimeapi.DNSConfig{Servers: dns.Servers, Searches: dns.Searches, Options: dns.Options},
		PortMappings: portMappings(pod),
		Labels:       map[string]string{},
		Annotations:  map[string]string{},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    cgroupParent,
			Sysctls:         sysctls(pod),
			SecurityContext: sandboxSecurity(pod),
			Overhead:        &runtimeapi.LinuxContainerResources{},
			Resources:       PodResources(pod),
		},
	}
	if pod.Spec.HostNetwork {
		c.Hostname = "" // the machine's, which a pod must not set
	}
	for k, v := range pod.Labels {
		c.Labels[k] = v
	}
	for k, v := range pod.Annotations {
		c.Annotations[k] = v
	}
	c.Labels[cri.LabelNode] = n.Name
	c.Labels[cri.LabelPodName], c.Labels[cri.LabelPodNamespace], c.Labels[cri.LabelPodUID] = pod.Name, pod.Namespace, string(pod.UID)
	return c, nil
}

func portMappings(pod *v1.Pod) []*runtimeapi.PortMapping {
	if pod.Spec.HostNetwork {
		return nil
	}
	var out []*runtimeapi.PortMapping
	all := append(append([]v1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...)
	for i := range all {
		for _, p := range all[i].Ports {
			if p.HostPort == 0 {
				continue
			}
			proto := runtimeapi.Protocol_TCP
			switch p.Protocol {
			case v1.ProtocolUDP:
				proto = runtimeapi.Protocol_UDP
			case v1.ProtocolSCTP:
				proto = runtimeapi.Protocol_SCTP
			}
			out = append(out, &runtimeapi.PortMapping{Protocol: proto, ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP})
		}
	}
	return out
}

func sysctls(pod *v1.Pod) map[string]string {
	out := map[string]string{}
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			out[strings.ReplaceAll(s.Name, "/", ".")] = s.Value
		}
	}
	return out
}

// HostnameOf is the pod's hostname: its own, never longer than Linux allows, or the node's on the host network.
func (n Node) HostnameOf(pod *v1.Pod) (string, error) {
	if o := pod.Spec.HostnameOverride; o != nil && *o != "" {
		return *o, nil
	}
	if pod.Spec.HostNetwork {
		return n.Hostname, nil
	}
	name := pod.Spec.Hostname
	if name == "" {
		name = pod.Name
		if len(name) > 63 {
			name = strings.TrimRight(name[:63], "-.")
		}
	}
	if f := pod.Spec.SetHostnameAsFQDN; f != nil && *f {
		if d := n.domain(pod); d != "" {
			name += "." + d
		}
		if len(name) > 64 {
			return "", fmt.Errorf("host name %s is longer than 64 characters: shorten the pod's name or drop setHostnameAsFQDN", name)
		}
	}
	return name, nil
}

// domain is the pod's domain in the cluster's DNS, if it has one.
func (n Node) domain(pod *v1.Pod) string {
	if pod.Spec.Subdomain == "" {
		return ""
	}
	return pod.Spec.Subdomain + "." + pod.Namespace + ".svc." + n.ClusterDomain
}

// dns is the resolver configuration by the pod's policy.
func (n Node) dns(pod *v1.Pod) (DNS, error) {
	var d DNS
	policy := pod.Spec.DNSPolicy
	cluster := policy == v1.DNSClusterFirstWithHostNet || (policy == v1.DNSClusterFirst && !pod.Spec.HostNetwork) || policy == ""
	switch {
	case policy == v1.DNSNone:
		if pod.Spec.DNSConfig == nil || len(pod.Spec.DNSConfig.Nameservers) == 0 {
			return d, errors.New("dnsPolicy None needs a nameserver in dnsConfig")
		}
	case cluster && len(n.ClusterDNS) > 0:
		d.Servers = append(d.Servers, n.ClusterDNS...)
		d.Searches = []string{pod.Namespace + ".svc." + n.ClusterDomain, "svc." + n.ClusterDomain, n.ClusterDomain}
		d.Searches = append(d.Searches, n.HostDNS.Searches...)
		d.Options = []string{"ndots:5"}
	default:
		d.Servers = append(d.Servers, n.HostDNS.Servers...)
		d.Searches = append(d.Searches, n.HostDNS.Searches...)
		d.Options = append(d.Options, n.HostDNS.Options...)
	}
	if c := pod.Spec.DNSConfig; c != nil {
		d.Servers = unique(append(d.Servers, c.Nameservers...))
		d.Searches = unique(append(d.Searches, c.Searches...))
		d.Options = mergeOptions(d.Options, c.Options)
	}
	d.Servers = d.Servers[:min(len(d.Servers), 3)] // resolv.conf(5): more are ignored
	d.Searches = d.Searches[:min(len(d.Searches), 32)]
	return d, nil
}

func unique(in []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range in {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

// mergeOptions lets the pod's options replace those of the same name.
func mergeOptions(base []string, own []v1.PodDNSConfigOption) []string {
	var out []string
	replaced := map[string]bool{}
	for _, o := range own {
		replaced[o.Name] = true
	}
	for _, b := range base {
		name, _, _ := strings.Cut(b, ":")
		if !replaced[name] {
			out = append(out, b)
		}
	}
	for _, o := range own {
		if o.Value != nil {
			out = append(out, o.Name+":"+*o.Value)
		} else {
			out = append(out, o.Name)
		}
	}
	return out
}

// HostsFile is the text of the pod's /etc/hosts; host is that of the machine, for pods of its network.
func (n Node) HostsFile(pod *v1.Pod, ips []string, host []byte) []byte {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.Write(host)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		name, _ := n.HostnameOf(pod)
		for _, ip := range ips {
			if d := n.domain(pod); d != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, strings.TrimSuffix(name, "."+d), d, strings.TrimSuffix(name, "."+d))
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, name)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return []byte(b.String())
}

// ParseResolv reads a resolv.conf.
func ParseResolv(text string) DNS {
	var d DNS
	for _, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			d.Servers = append(d.Servers, f[1])
		case "search", "domain":
			d.Searches = f[1:]
		case "options":
			d.Options = append(d.Options, f[1:]...)
		}
	}
	return d
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
