package main

import (
	"fmt"

	"github.com/gitopsd/gitopsd/internal/daemon"
	"github.com/spf13/cobra"
)

func installCommand() *cobra.Command {
	o := daemon.DefaultInstall(version)
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Print the manifests that run the engine inside a cluster",
		Long: `Print the manifests that run the engine inside a cluster: two replicas of which one leads, with the least rights.

The engine is no cluster-admin. It looks after Applications, keeps its own things in its namespace, and does everything else as the service
account that an Application names; --tenant allows it to act as those of a namespace. With --repo the first Application acts as the account
gitopsd-root, which may make Applications beside itself and nothing more: bind roles to it as you see fit.

Nothing is sent to any cluster, and the manifests hold no secret.`,
		Example: `  gitopsd install | kubectl apply --server-side -f -
  gitopsd install --image registry.example.org/gitopsd:v1 --repo https://github.com/acme/infra --path clusters/prod --git-secret infra-credentials
  gitopsd install --tenant team-a --tenant team-b`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := o.Manifests()
			if err != nil {
				return err
			}
			if o.ClusterAdmin {
				fmt.Fprintln(cmd.ErrOrStderr(), "gitopsd: WARNING: --cluster-admin: the engine may do everything in the cluster, and so may whoever writes an Application without a service account")
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Namespace, "namespace", o.Namespace, "where the engine lives")
	f.StringVar(&o.Image, "image", o.Image, "image with gitopsd as its entry point")
	f.StringSliceVar(&o.Tenants, "tenant", nil, "a namespace whose service accounts Applications there may act as; may be given several times")
	f.StringVar(&o.Root.Repo, "repo", "", "URL of the Git repository that the first Application follows")
	f.StringVar(&o.Root.Ref, "ref", "", "branch, refs/tags/NAME, or a whole commit (default the repository's default branch)")
	f.StringVar(&o.Root.Path, "path", "", "folder inside the repository")
	f.StringVar(&o.Root.Secret, "git-secret", "", "a Secret of --namespace with the repository's credentials")
	f.BoolVar(&o.ClusterAdmin, "cluster-admin", false, "let the engine do everything itself; Applications need no service account then")
	return cmd
}
