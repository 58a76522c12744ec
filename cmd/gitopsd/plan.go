package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/daemon"
	"github.com/gitopsd/gitopsd/internal/diff"
	"github.com/gitopsd/gitopsd/internal/redact"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func planCommand() *cobra.Command {
	var c connection
	var r daemon.Revision
	var output string
	cmd := &cobra.Command{
		Use:   "plan [APP]",
		Short: "Show what a revision would change, field by field, before it is applied",
		Long: `Show what a revision would change, field by field, before it is applied: of one Application, or of all.

The API is asked by server-side dry-run with the rights that a sync would have, and nothing is written. Without --rev and --dir it
is the newest commit that the instance has seen. --dir takes the files of a working copy as they lie there, before any push.

Exit code 0: nothing would change. 2: something would. 1: it cannot be told, or an object is refused; the message names each.`,
		Example: `  gitopsd plan web
  gitopsd plan web --dir .
  gitopsd plan web --rev feature/new-image
  gitopsd plan -o markdown > comment.md`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.Rev != "" && r.Dir != "" {
				return errors.New("--rev and --dir name two revisions; use one of them")
			}
			show, err := printPlans(output, textStyle(cmd.OutOrStdout()))
			if err != nil {
				return err
			}
			return lookAt(cmd, &c, args, r != daemon.Revision{}, show,
				func(ctx context.Context, l *daemon.Look, app *v1alpha1.Application) (diff.Plan, error) {
					return l.Plan(ctx, app, r)
				})
		},
	}
	c.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&r.Rev, "rev", "", "a branch, a tag, a commit, or the first digits of a commit that the instance has seen")
	f.StringVar(&r.Dir, "dir", "", "a working copy of the Application's repository, or any folder in it")
	f.StringVarP(&output, "output", "o", "text", "text, json or markdown")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json", "markdown"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// printPlans is how plans are printed in a format.
func printPlans(format string, s diff.Style) (func([]finding[diff.Plan]) (string, error), error) {
	switch format {
	case "text":
		return func(found []finding[diff.Plan]) (string, error) {
			var texts []string
			var all diff.Plan
			for _, p := range good(found) {
				texts = append(texts, p.Text(s))
				all.Changes = append(all.Changes, p.Changes...)
			}
			if n := len(texts); n > 1 {
				texts = append(texts, fmt.Sprintf("%d Applications: %s\n", n, all.Summary()))
			}
			return strings.Join(texts, "\n"), nil
		}, nil
	case "json":
		return func(found []finding[diff.Plan]) (string, error) { return encodeFindings("plans", found) }, nil
	case "markdown":
		return func(found []finding[diff.Plan]) (string, error) { return diff.Markdown(good(found)...), nil }, nil
	}
	return nil, fmt.Errorf("-o %s is unknown; use text, json or markdown", format)
}

// finding is what looking at one Application gave.
type finding[T interface{ Empty() bool }] struct {
	app   string
	value T
	err   error
}

func good[T interface{ Empty() bool }](found []finding[T]) []T {
	var out []T
	for _, f := range found {
		if f.err == nil {
			out = append(out, f.value)
		}
	}
	return out
}

// encodeFindings writes one document, whether it is about one Application or several.
func encodeFindings[T interface{ Empty() bool }](name string, found []finding[T]) (string, error) {
	list := make([]any, len(found))
	for i, f := range found {
		list[i] = f.value
		if f.err != nil {
			list[i] = map[string]string{"application": f.app, "error": redact.String(f.err.Error())}
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(map[string]any{name: list})
	return b.String(), err
}

// lookAt looks at the Application that is named, or at all, prints what was found and says by the exit code what that is.
func lookAt[T interface{ Empty() bool }](cmd *cobra.Command, c *connection, args []string, one bool, show func([]finding[T]) (string, error),
	look func(context.Context, *daemon.Look, *v1alpha1.Application) (T, error)) error {
	cs, err := c.connect()
	if err != nil {
		return err
	}
	apps, all, err := cs.choose(cmd.Context(), args, one)
	if err != nil {
		return err
	}
	client, err := c.config()
	if err != nil {
		return err
	}
	l, err := daemon.NewLook(c.dataDir, client, all)
	if err != nil {
		return err
	}
	var found []finding[T]
	var errs []error
	differs := false
	for _, app := range apps {
		f := finding[T]{app: app.Namespace + "/" + app.Name}
		if f.value, f.err = look(cmd.Context(), l, app); f.err != nil {
			errs = append(errs, fmt.Errorf("%s: %s", f.app, indented(c.explain(f.err).Error())))
		} else {
			differs = differs || !f.value.Empty()
		}
		found = append(found, f)
	}
	text, err := show(found)
	if err != nil {
		return err
	}
	if strings.TrimSpace(text) != "" {
		if _, err := io.WriteString(cmd.OutOrStdout(), text); err != nil {
			return err
		}
	}
	switch {
	case len(errs) > 0:
		return errors.Join(errs...)
	case differs:
		return exitCode{code: 2}
	}
	return nil
}

// indented puts a message of several lines below what it is about.
func indented(message string) string {
	if !strings.Contains(message, "\n") {
		return message
	}
	return "\n  " + strings.ReplaceAll(message, "\n", "\n  ")
}

// choose finds the Application that is named, or all of them by namespace and name. Where only one can be meant, it has
// to be the only one.
func (c *clients) choose(ctx context.Context, args []string, one bool) (chosen []*v1alpha1.Application, all []v1alpha1.Application, err error) {
	list, err := c.list(ctx)
	if err != nil {
		return nil, nil, err
	}
	if len(args) == 1 {
		app, err := c.find(ctx, args[0])
		return []*v1alpha1.Application{app}, list.Items, err
	}
	slices.SortFunc(list.Items, func(a, b v1alpha1.Application) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	var names []string
	for i := range list.Items {
		chosen = append(chosen, &list.Items[i])
		names = append(names, list.Items[i].Namespace+"/"+list.Items[i].Name)
	}
	switch {
	case len(chosen) == 0:
		return nil, nil, errors.New("there is no Application yet; make one with: gitopsd up --repo URL")
	case one && len(chosen) > 1:
		return nil, nil, fmt.Errorf("name the Application; there are: %s", strings.Join(names, ", "))
	}
	return chosen, list.Items, nil
}

// textStyle colours and cuts where the reader is a terminal.
func textStyle(w io.Writer) diff.Style {
	s := diff.Style{Colour: bool(styleOf(w))}
	if f, ok := w.(*os.File); ok && isTerminal(w) {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			s.Width = width
		}
	}
	return s
}
