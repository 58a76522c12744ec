package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/internal/daemon"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Flags of the server that both of its forms know, and those of an engine on somebody else's cluster.
var (
	serverCommon  = []string{"data-dir", "repo", "ref", "path", "git-credentials", "allow-file-sources", "source-cache-size", "source-cache-unused", "webhook-address", "webhook-tls-cert", "webhook-tls-key"}
	serverForeign = []string{"kubeconfig", "in-cluster", "namespace", "git-secret", "service-account", "require-service-account", "install-crd", "metrics-address", "lease-duration"}
)

func serverCommand() *cobra.Command {
	own, foreign := daemon.DefaultOptions(), daemon.DefaultServerOptions()
	var inCluster bool
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the engine against a cluster that exists, or with a control plane of its own",
		Long: `Run the engine, in the foreground: with --kubeconfig against any Kubernetes cluster, with --in-cluster against the one whose pod
this is, and otherwise with a control plane of its own on this machine, without a node.

Against a cluster that exists it starts no store, no container and no node, and needs no root. What revisions were and the ledger are kept
in Secrets of --namespace. Several may run: one leads, and when it is not heard of for --lease-duration another takes over; nothing that
the earlier one still writes survives.`,
		Example: `  gitopsd server --kubeconfig ~/.kube/config --data-dir ~/.gitopsd --repo https://github.com/acme/infra --path clusters/prod
  gitopsd server --in-cluster --data-dir /data
  gitopsd server --data-dir /srv/gitopsd`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			guest := foreign.Kubeconfig != "" || inCluster
			if err := oneForm(cmd.Flags(), guest); err != nil {
				return err
			}
			if !guest {
				own.NoNode = true
				return daemon.Run(cmd.Context(), own, os.Stderr)
			}
			foreign.DataDir, foreign.Root, foreign.Sources = own.DataDir, own.Root, own.Sources
			return daemon.Serve(cmd.Context(), foreign, os.Stderr)
		},
	}
	f := cmd.Flags()
	instanceFlags(f, &own)
	f.StringVar(&foreign.Kubeconfig, "kubeconfig", "", "the cluster to work on")
	f.BoolVar(&inCluster, "in-cluster", false, "work on the cluster whose pod this is, with the pod's service account")
	f.StringVar(&foreign.Namespace, "namespace", "", "where the engine keeps its revisions, ledger and lease (default gitopsd, in a pod its own)")
	f.StringVar(&own.Root.Secret, "git-secret", "", "a Secret of --namespace with the repository's credentials, instead of --git-credentials")
	f.StringVar(&own.Root.ServiceAccount, "service-account", "", "the account of --namespace as which the first Application acts (default the engine itself)")
	f.BoolVar(&foreign.InstallCRD, "install-crd", true, "make the cluster know Applications, and make --namespace; off: somebody else has")
	f.BoolVar(&foreign.RequireAccount, "require-service-account", false, "refuse Applications that name no service account: the engine does nothing with rights of its own")
	f.StringVar(&foreign.MetricsAddress, "metrics-address", foreign.MetricsAddress, "where /metrics, /healthz and /readyz answer holders of a token of the cluster")
	f.DurationVar(&foreign.LeaseDuration, "lease-duration", foreign.LeaseDuration, "how long a leader may be silent before another takes over")
	return cmd
}

// oneForm refuses flags of the other form of the server, so that none is ignored.
func oneForm(flags *pflag.FlagSet, guest bool) error {
	if flags.Changed("kubeconfig") && flags.Changed("in-cluster") {
		return fmt.Errorf("--kubeconfig and --in-cluster name two clusters; use one of them")
	}
	var wrong []string
	flags.Visit(func(f *pflag.Flag) {
		if slices.Contains(serverForeign, f.Name) != guest && !slices.Contains(serverCommon, f.Name) {
			wrong = append(wrong, "--"+f.Name)
		}
	})
	switch {
	case len(wrong) > 0 && guest:
		return fmt.Errorf("%s: of a control plane of our own, and this one is somebody else's; leave it out", strings.Join(wrong, ", "))
	case len(wrong) > 0:
		return fmt.Errorf("%s: of an engine on somebody else's cluster; name that with --kubeconfig or --in-cluster", strings.Join(wrong, ", "))
	}
	return nil
}
