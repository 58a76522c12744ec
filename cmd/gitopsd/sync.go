package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/overview"
	"github.com/spf13/cobra"
)

func syncCommand() *cobra.Command {
	var c connection
	var timeout time.Duration
	var wait bool
	cmd := &cobra.Command{
		Use:   "sync APP",
		Short: "Look at the repository and at every object now",
		Long: `Look at the repository and at every object of an Application now, and wait until it is applied and healthy.

Exit code 0: applied and healthy. 1: it is not, and the message says why.`,
		Example: `  gitopsd sync web
  gitopsd sync prod/web --timeout 10m
  gitopsd sync root --wait=false`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			cs, err := c.connect()
			if err != nil {
				return err
			}
			app, err := cs.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			request := time.Now().UTC().Format(time.RFC3339Nano)
			if err := cs.annotate(cmd.Context(), app, v1alpha1.AnnotationSync, request); err != nil {
				return err
			}
			if !wait {
				return nil
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return cs.awaitSync(ctx, cmd.ErrOrStderr(), cmd.OutOrStdout(), app, request)
		},
	}
	c.addFlags(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait")
	cmd.Flags().BoolVar(&wait, "wait", true, "wait until the Application is applied and healthy")
	return cmd
}

// awaitSync follows an Application until its request is handled and it came to an end, good or bad.
func (c *clients) awaitSync(ctx context.Context, progress, out io.Writer, app *v1alpha1.Application, request string) error {
	started := time.Now()
	line := newProgress(progress)
	defer line.clear()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := c.get(ctx, app.Namespace, app.Name)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil && now.Status.HandledSyncRequest == request {
			switch st := now.Status; st.Phase {
			case v1alpha1.Applied:
				line.clear()
				fmt.Fprintf(out, "%s/%s: applied %s, %s, after %s\n", now.Namespace, now.Name, overview.Short(st.AppliedRevision.Commit), st.Health, time.Since(started).Round(100*time.Millisecond))
				return nil
			case v1alpha1.Failed, v1alpha1.Suspended, v1alpha1.Waiting:
				return fmt.Errorf("%s/%s: %s: %s", now.Namespace, now.Name, st.Reason, st.Message)
			}
		}
		if err == nil {
			line.show(fmt.Sprintf("%s/%s: %s %s", app.Namespace, app.Name, now.Status.Phase, now.Status.Message))
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("%s/%s is not done after %s; look with: gitopsd status %s", app.Namespace, app.Name, time.Since(started).Round(time.Second), app.Name)
			}
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (c *clients) annotate(ctx context.Context, app *v1alpha1.Application, key string, value any) error {
	merge, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{key: value}}})
	if err != nil {
		return err
	}
	return c.patch(ctx, app, merge)
}

func suspendCommand() *cobra.Command {
	return annotateCommand("suspend", "Stop syncing, healing and pruning an Application", "true", "suspended; go on with: gitopsd resume %s\n")
}

func resumeCommand() *cobra.Command {
	return annotateCommand("resume", "Go on with a suspended Application", nil, "resumed: %s\n")
}

func annotateCommand(verb, short string, value any, done string) *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use: verb + " APP", Short: short, Example: "  gitopsd " + verb + " web",
		Args: cobra.ExactArgs(1), ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			cs, err := c.connect()
			if err != nil {
				return err
			}
			app, err := cs.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := cs.annotate(cmd.Context(), app, v1alpha1.AnnotationSuspend, value); err != nil {
				return err
			}
			if value == nil && app.Spec.Sync.Suspend {
				return fmt.Errorf("%s is suspended by spec.sync.suspend; set that to false in its manifest", app.Name)
			}
			fmt.Fprintf(cmd.OutOrStdout(), done, app.Name)
			return nil
		},
	}
	c.addFlags(cmd)
	return cmd
}
