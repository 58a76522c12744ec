package main

import (
	"os"

	"github.com/gitopsd/gitopsd/internal/daemon"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func upCommand() *cobra.Command {
	o := daemon.DefaultOptions()
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run one machine: control plane, engine and node agent",
		Long: `Run one machine: control plane, engine and node agent, in the foreground.

With --repo the first Application, root in the namespace gitopsd, follows that repository. Containers keep running
when gitopsd ends or is killed; the next start takes them over. gitopsd down stops them.`,
		Example: `  gitopsd up --repo https://github.com/acme/infra --ref main --path clusters/prod
  gitopsd up --data-dir /srv/gitopsd --api-port 7443
  gitopsd service install -- --repo git@github.com:acme/infra.git --git-credentials /root/git.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return daemon.Run(cmd.Context(), o, os.Stderr)
		},
	}
	instanceFlags(cmd.Flags(), &o)
	return cmd
}

func instanceFlags(f *pflag.FlagSet, o *daemon.Options) {
	f.StringVar(&o.DataDir, "data-dir", o.DataDir, "where everything is kept")
	f.StringVar(&o.RunDir, "run-dir", o.RunDir, "sockets and runtime state, gone after a reboot (default /run/gitopsd, or a name of its own for another data directory)")
	f.StringVar(&o.Root.Repo, "repo", "", "URL of the Git repository that the first Application follows")
	f.StringVar(&o.Root.Ref, "ref", "", "branch, refs/tags/NAME, or a whole commit (default the repository's default branch)")
	f.StringVar(&o.Root.Path, "path", "", "folder inside the repository")
	f.StringVar(&o.Root.Credentials, "git-credentials", "", "file with the repository's credentials")
	f.BoolVar(&o.Sources.AllowFiles, "allow-file-sources", false, "let Applications of every namespace read folders of this machine (file://), not those of gitopsd's own alone")
	f.StringVar(&o.Sources.CacheSize, "source-cache-size", o.Sources.CacheSize, "how much of repositories is kept on disk; what is in use is never deleted")
	f.DurationVar(&o.Sources.Unused, "source-cache-unused", o.Sources.Unused, "how long the copy of a repository is kept that no Application reads")
	f.StringVar(&o.Sources.Webhook.Address, "webhook-address", "", "where forges may say that a repository has changed, as ADDRESS:PORT (default nowhere); the Secret gitopsd-webhook holds what they sign with")
	f.StringVar(&o.Sources.Webhook.Certificate, "webhook-tls-cert", "", "certificate of --webhook-address (default plain HTTP, behind a proxy)")
	f.StringVar(&o.Sources.Webhook.Key, "webhook-tls-key", "", "key of --webhook-tls-cert")
	f.StringVar(&o.NodeName, "node-name", "", "name of this machine's node (default the host name)")
	f.StringVar(&o.BindAddress, "bind-address", o.BindAddress, "where the API listens")
	f.StringVar(&o.AdvertiseAddress, "advertise-address", "", "how pods and others reach this machine (default the address of the default route)")
	f.StringSliceVar(&o.ExtraNames, "tls-san", nil, "more names and addresses for the API's certificate")
	f.IntVar(&o.APIPort, "api-port", o.APIPort, "port of the API")
	f.IntVar(&o.AgentPort, "agent-port", o.AgentPort, "port of the node agent")
	f.IntVar(&o.EtcdPort, "etcd-port", o.EtcdPort, "port of etcd, on loopback")
	f.IntVar(&o.EtcdPeerPort, "etcd-peer-port", o.EtcdPeerPort, "second port of etcd, on loopback")
	f.IntVar(&o.MetricsPort, "metrics-port", o.MetricsPort, "port of /metrics, /healthz and /readyz, on loopback")
	f.StringVar(&o.PodCIDR, "pod-cidr", o.PodCIDR, "addresses of pods")
	f.StringVar(&o.ServiceCIDR, "service-cidr", o.ServiceCIDR, "addresses of Services")
	f.StringVar(&o.NodePortRange, "node-port-range", o.NodePortRange, "ports of NodePort Services")
	f.StringVar(&o.Bridge, "bridge", o.Bridge, "name of the pods' bridge")
	f.StringVar(&o.Table, "nft-table", o.Table, "name of the nftables table")
	f.StringVar(&o.CgroupParent, "cgroup-parent", o.CgroupParent, "cgroup below which all pods are")
	f.StringVar(&o.RuntimeEndpoint, "container-runtime-endpoint", "", "CRI socket of the host's containerd or CRI-O (default the embedded containerd)")
	f.DurationVar(&o.CertificateLife, "certificate-life", o.CertificateLife, "how long certificates are valid; they renew by themselves")
	f.BoolVar(&o.AuditLog, "audit-log", false, "write the API's audit log to <data-dir>/logs/audit.log")
}
