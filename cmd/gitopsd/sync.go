package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/user"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/overview"
	"github.com/spf13/cobra"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func syncCommand() *cobra.Command {
	var c connection
	var timeout time.Duration
	var wait, retry, allowPrune, ignoreWindows bool
	cmd := &cobra.Command{
		Use:   "sync APP",
		Short: "Look at the repository and at every object now",
		Long: `Look at the repository and at every object of an Application now, and wait until it is applied and healthy.

A revision that failed and was rolled back is not tried again by itself; --retry does. A commit that would delete more than half of
the objects waits until --allow-prune agrees to it. Outside of the Application's sync windows nothing begins but with --ignore-windows.

Exit code 0: applied and healthy. 1: it is not, and the message says why; a revision that was rolled back is no success.`,
		Example: `  gitopsd sync web
  gitopsd sync web --retry
  gitopsd sync prod/web --timeout 10m
  gitopsd sync root --wait=false`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			cs, app, err := c.application(cmd, args[0])
			if err != nil {
				return err
			}
			request := time.Now().UTC().Format(time.RFC3339Nano)
			asked := map[string]any{v1alpha1.AnnotationSync: request}
			if retry {
				asked[v1alpha1.AnnotationRetry] = request
			}
			if allowPrune {
				asked[v1alpha1.AnnotationAllowPrune] = app.Status.ObservedCommit
			}
			if ignoreWindows {
				asked[v1alpha1.AnnotationIgnoreWindows] = app.Status.ObservedCommit
			}
			if err := cs.annotate(cmd.Context(), app, asked); err != nil {
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
	cmd.Flags().BoolVar(&retry, "retry", false, "try a revision again that was rolled back, or is held")
	cmd.Flags().BoolVar(&ignoreWindows, "ignore-windows", false, "sync the newest commit that the instance has seen now, outside of the sync windows too")
	cmd.Flags().BoolVar(&allowPrune, "allow-prune", false, "agree that the newest commit deletes many objects")
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
				if st.Reason == "Drifted" {
					return fmt.Errorf("%s/%s: applied, but it is not as declared: %s", now.Namespace, now.Name, st.Message)
				}
				line.clear()
				fmt.Fprintf(out, "%s/%s: applied %s, %s, after %s\n", now.Namespace, now.Name, overview.Short(st.AppliedRevision.Commit), st.Health, time.Since(started).Round(100*time.Millisecond))
				return nil
			case v1alpha1.Failed, v1alpha1.Suspended, v1alpha1.Waiting:
				return fmt.Errorf("%s/%s: %s: %s", now.Namespace, now.Name, st.Reason, st.Message)
			case v1alpha1.RolledBack, v1alpha1.Held, v1alpha1.Incomplete:
				return fmt.Errorf("%s/%s: %s: %s: %s", now.Namespace, now.Name, st.Phase, st.Reason, st.Message)
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

// annotate sets annotations; nil removes one.
func (c *clients) annotate(ctx context.Context, app *v1alpha1.Application, annotations map[string]any) error {
	annotations = maps.Clone(annotations)
	annotations[v1alpha1.AnnotationAskedBy] = time.Now().UTC().Format(time.RFC3339Nano) + " " + c.whoami(ctx)
	merge, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	if err != nil {
		return err
	}
	return c.patch(ctx, app, merge)
}

func suspendCommand() *cobra.Command {
	return annotateCommand("suspend", "Stop syncing, healing and pruning an Application", map[string]any{v1alpha1.AnnotationSuspend: "true"},
		"suspended; go on with: gitopsd resume %s\n")
}

func resumeCommand() *cobra.Command {
	return annotateCommand("resume", "Go on with an Application that was suspended or rolled back by hand",
		map[string]any{v1alpha1.AnnotationSuspend: nil, v1alpha1.AnnotationPin: nil}, "resumed: %s\n")
}

func annotateCommand(verb, short string, annotations map[string]any, done string) *cobra.Command {
	var c connection
	cmd := &cobra.Command{
		Use: verb + " APP", Short: short, Example: "  gitopsd " + verb + " web",
		Args: cobra.ExactArgs(1), ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			cs, app, err := c.application(cmd, args[0])
			if err != nil {
				return err
			}
			if err := cs.annotate(cmd.Context(), app, annotations); err != nil {
				return err
			}
			if annotations[v1alpha1.AnnotationSuspend] == nil && app.Spec.Sync.Suspend {
				return fmt.Errorf("%s is suspended by spec.sync.suspend; set that to false in its manifest", app.Name)
			}
			fmt.Fprintf(cmd.OutOrStdout(), done, app.Name)
			return nil
		},
	}
	c.addFlags(cmd)
	return cmd
}

// whoami is who runs this command: the user of this machine, and the one that the API knows.
func (c *clients) whoami(ctx context.Context) string {
	who := os.Getenv("SUDO_USER")
	if who == "" {
		if u, err := user.Current(); err == nil {
			who = u.Username
		}
	}
	review, err := c.kube.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || review.Status.UserInfo.Username == "" {
		return who
	}
	return fmt.Sprintf("%s as %s", who, review.Status.UserInfo.Username)
}
