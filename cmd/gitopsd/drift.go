package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/daemon"
	"github.com/gitopsd/gitopsd/internal/diff"
	"github.com/spf13/cobra"
)

func driftCommand() *cobra.Command {
	var c connection
	var output string
	cmd := &cobra.Command{
		Use:   "drift [APP]",
		Short: "Show what others have changed since a revision was applied",
		Long: `Show what others have changed since a revision was applied: of one Application, or of all.

Drift is a declared field with another value, and an object that is gone: told with the manager that wrote it, when, and whether it
is undone by itself. Fields that others have added, and that the repository does not declare, are shown as theirs; they are no drift.

Exit code 0: no drift. 2: drift. 1: it cannot be told.`,
		Example:           "  gitopsd drift\n  gitopsd drift web -o json",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			var show func([]finding[diff.Drift]) (string, error)
			switch output {
			case "text":
				show = func(found []finding[diff.Drift]) (string, error) {
					var b strings.Builder
					for _, d := range good(found) {
						b.WriteString(d.Text(textStyle(cmd.OutOrStdout())))
					}
					return b.String(), nil
				}
			case "json":
				show = func(found []finding[diff.Drift]) (string, error) { return encodeFindings("drift", found) }
			default:
				return fmt.Errorf("-o %s is unknown; use text or json", output)
			}
			return lookAt(cmd, &c, args, false, show, func(ctx context.Context, l *daemon.Look, app *v1alpha1.Application) (diff.Drift, error) {
				return l.Drift(ctx, app)
			})
		},
	}
	c.addFlags(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
