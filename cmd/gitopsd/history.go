package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/overview"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
)

func historyCommand() *cobra.Command {
	var c connection
	var output string
	cmd := &cobra.Command{
		Use: "history APP", Short: "Show the revisions of an Application that were applied, newest first",
		Long: `Show the revisions of an Application that were applied, newest first: what gitopsd rollback can go back to.

A revision that was rolled back is listed above them, with the reason.`,
		Example: "  gitopsd history web\n  gitopsd history web -o json",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, app, err := c.application(cmd, args[0])
			if err != nil {
				return err
			}
			switch output {
			case "":
				fmt.Fprint(cmd.OutOrStdout(), history(app, time.Now()))
				return nil
			case "json":
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(records(app))
			}
			return fmt.Errorf("-o %s: there is json", output)
		},
	}
	c.addFlags(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, or a table when absent")
	return cmd
}

// record is a revision of an Application and what became of it.
type record struct {
	v1alpha1.Revision
	Outcome string `json:"outcome"`
	Current bool   `json:"current,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// records are the revisions that the status knows of, newest first: the one under way, the one that was rolled back, those that were applied.
func records(app *v1alpha1.Application) []record {
	st, out := app.Status, []record{}
	if in := st.Intent; in != nil {
		out = append(out, record{Revision: in.Revision, Outcome: in.Phase, Reason: in.Reason, Message: in.Message})
	}
	if r := st.Rejected; r != nil {
		out = append(out, record{Revision: r.Revision, Outcome: string(v1alpha1.RolledBack), Reason: r.Reason, Message: r.Message})
	}
	for _, r := range st.History {
		current := st.AppliedRevision != nil && r.Digest == st.AppliedRevision.Digest
		out = append(out, record{Revision: r, Outcome: string(v1alpha1.Applied), Current: current})
	}
	return out
}

func history(app *v1alpha1.Application, now time.Time) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "COMMIT\tOUTCOME\tAGE\tDIGEST")
	for _, r := range records(app) {
		age, outcome := "-", r.Outcome
		if !r.Time.IsZero() {
			age = duration.HumanDuration(now.Sub(r.Time.Time))
		}
		switch {
		case r.Current:
			outcome += ", current"
		case r.Outcome == string(v1alpha1.RolledBack):
			outcome += ": " + r.Reason
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.19s\n", overview.Short(r.Commit), outcome, age, r.Digest)
	}
	w.Flush()
	return b.String()
}

func rollbackCommand() *cobra.Command {
	var c connection
	var to string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "rollback APP", Short: "Go back to a revision that was applied before",
		Long: `Go back to a revision that was applied before, as it was rendered then, and stay there until a newer commit comes or gitopsd
resume ends it. The ordinary way back is git revert; this one is for when Git is out of reach.`,
		Example: "  gitopsd rollback web                # the one before the current\n  gitopsd rollback web --to 1a2b3c4d",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			cs, app, err := c.application(cmd, args[0])
			if err != nil {
				return err
			}
			r, err := target(app, to)
			if err != nil {
				return err
			}
			request := time.Now().UTC().Format(time.RFC3339Nano)
			err = cs.annotate(cmd.Context(), app, map[string]any{v1alpha1.AnnotationPin: r.Digest + "@" + app.Status.ObservedCommit + "@" + request, v1alpha1.AnnotationSync: request})
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return cs.awaitSync(ctx, cmd.ErrOrStderr(), cmd.OutOrStdout(), app, request)
		},
	}
	c.addFlags(cmd)
	cmd.Flags().StringVar(&to, "to", "", "commit to go back to, or its first digits (default: the one applied before the current)")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait")
	return cmd
}

// target is the revision of the history that a person means.
func target(app *v1alpha1.Application, to string) (v1alpha1.Revision, error) {
	st := app.Status
	for _, r := range st.History {
		if to != "" && (strings.HasPrefix(r.Commit, to) || strings.HasPrefix(r.Commit, "sha256:"+to)) || to == "" && (st.AppliedRevision == nil || r.Digest != st.AppliedRevision.Digest) {
			return r, nil
		}
	}
	if to == "" {
		return v1alpha1.Revision{}, fmt.Errorf("%s has no earlier revision; look with: gitopsd history %s", app.Name, app.Name)
	}
	return v1alpha1.Revision{}, fmt.Errorf("%s was never applied, or too long ago; look with: gitopsd history %s", to, app.Name)
}
