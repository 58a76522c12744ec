package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/gitopsd/gitopsd/internal/overview"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

func statusCommand() *cobra.Command {
	var c connection
	var output string
	var watch bool
	cmd := &cobra.Command{
		Use:   "status [APP]",
		Short: "Say what runs, from which commit, and what is wrong",
		Long: `Say what runs, from which commit, and what is wrong, with the file or object and the next step.

With APP, one Application with its objects and with what others have changed.`,
		Example: `  gitopsd status
  gitopsd status web
  gitopsd status -o json
  gitopsd status --watch`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains([]string{"", "json", "yaml", "wide"}, output) {
				return fmt.Errorf("-o %s is unknown; use json, yaml or wide", output)
			}
			cs, err := c.connect()
			if err != nil {
				return err
			}
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			if watch {
				return cs.watchStatus(cmd.Context(), cmd.OutOrStdout(), name, output)
			}
			text, err := cs.status(cmd.Context(), name, output, styleOf(cmd.OutOrStdout()))
			if err != nil {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), text)
			return err
		},
	}
	c.addFlags(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, yaml or wide")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show again whenever something changes")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json", "yaml", "wide"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// watchStatus shows the status again whenever it differs: in place on a terminal, one after another elsewhere.
func (c *clients) watchStatus(ctx context.Context, w io.Writer, name, output string) error {
	last := ""
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		text, err := c.status(ctx, name, output, styleOf(w))
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil
		}
		if err != nil {
			text = "gitopsd: " + err.Error() + "\n"
		}
		if text != last {
			if isTerminal(w) {
				fmt.Fprint(w, "\033[H\033[2J")
			} else if last != "" {
				fmt.Fprintln(w)
			}
			fmt.Fprint(w, text)
			last = text
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// status asks the instance and prints one Application or all.
func (c *clients) status(ctx context.Context, name, output string, s overview.Style) (string, error) {
	if name != "" {
		app, err := c.find(ctx, name)
		if err != nil {
			return "", err
		}
		if output == "json" || output == "yaml" {
			return encode(app, output)
		}
		return overview.One(app, time.Now(), s), nil
	}
	all, err := c.list(ctx)
	if err != nil {
		return "", err
	}
	if output == "json" || output == "yaml" {
		return encode(all, output)
	}
	nodes, err := c.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", c.explain(err)
	}
	pods, err := c.kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return "", c.explain(err)
	}
	return overview.All(all.Items, nodes.Items, pods.Items, output == "wide", time.Now(), s), nil
}

func encode(v any, format string) (string, error) {
	if format == "yaml" {
		b, err := yaml.Marshal(v)
		return string(b), err
	}
	b, err := json.MarshalIndent(v, "", "  ")
	return string(b) + "\n", err
}
