package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/daemon"
	"github.com/gitopsd/gitopsd/internal/diff"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

func generateCommand() *cobra.Command {
	var c connection
	var file, output string
	cmd := &cobra.Command{
		Use:   "generate [NAMESPACE/]SET | -f FILE",
		Short: "Show which Applications an ApplicationSet would make, change and delete",
		Long: `Show which Applications an ApplicationSet would make, change and delete: one of the instance, or one in a file. Repositories and forges are asked,
and nothing is written.

Exit code 0: nothing would change. 2: something would. 1: it cannot be told; the message says why.`,
		Example: "  gitopsd generate previews\n  gitopsd generate -f applicationset.yaml\n  gitopsd generate team/previews -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (file != "") {
				return errors.New("name an ApplicationSet, or a file with -f")
			}
			show, err := printPlans(output, textStyle(cmd.OutOrStdout()))
			if err != nil {
				return err
			}
			plan, err := generatePlan(cmd.Context(), &c, args, file)
			if err != nil {
				return err
			}
			text, err := show([]finding[diff.Plan]{{app: plan.Application, value: plan}})
			if err != nil {
				return err
			}
			fmt.Fprint(cmd.OutOrStdout(), text)
			if !plan.Empty() {
				return exitCode{code: 2}
			}
			return nil
		},
	}
	c.addFlags(cmd)
	cmd.Flags().StringVarP(&file, "filename", "f", "", "a file with one ApplicationSet")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text, json or markdown")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json", "markdown"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func generatePlan(ctx context.Context, c *connection, args []string, file string) (diff.Plan, error) {
	cfg, err := c.config()
	if err != nil {
		return diff.Plan{}, err
	}
	var set *v1alpha1.ApplicationSet
	if file != "" {
		set, err = readSet(file)
	} else {
		set, err = c.set(ctx, args[0])
	}
	if err != nil {
		return diff.Plan{}, err
	}
	plan, err := daemon.Generate(ctx, c.dataDir, cfg, set)
	return plan, c.explain(err)
}

func readSet(file string) (*v1alpha1.ApplicationSet, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	set := &v1alpha1.ApplicationSet{}
	if err := yaml.UnmarshalStrict(text, set); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if set.Kind != "ApplicationSet" || set.APIVersion != v1alpha1.GroupVersion.String() {
		return nil, fmt.Errorf("%s holds no ApplicationSet of %s; its kind is %q", file, v1alpha1.GroupVersion, set.Kind)
	}
	set.Namespace = cmp.Or(set.Namespace, v1alpha1.RootNamespace)
	return set, nil
}

// set resolves NAME or NAMESPACE/NAME. A name alone has to be one set's in all namespaces.
func (c *connection) set(ctx context.Context, name string) (*v1alpha1.ApplicationSet, error) {
	cs, err := c.connect()
	if err != nil {
		return nil, err
	}
	all := &v1alpha1.ApplicationSetList{}
	if err := cs.apps.Get().Resource("applicationsets").Do(ctx).Into(all); err != nil {
		return nil, c.explain(err)
	}
	var names []types.NamespacedName
	for _, set := range all.Items {
		names = append(names, types.NamespacedName{Namespace: set.Namespace, Name: set.Name})
	}
	if len(names) == 0 {
		return nil, errors.New("there is no ApplicationSet; try one out with: gitopsd generate -f FILE")
	}
	n, err := pick("ApplicationSet", names, name)
	if err != nil {
		return nil, err
	}
	return &all.Items[n], nil
}
