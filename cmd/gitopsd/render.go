package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gitopsd/gitopsd/internal/daemon"
	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/spf13/cobra"
)

func renderCommand() *cobra.Command {
	var c connection
	var dir string
	var o render.Options
	cmd := &cobra.Command{
		Use:   "render [APP | --dir DIR]",
		Short: "Print the objects that files stand for",
		Long: `Print the objects that files stand for: of an Application at the commit that was seen last, or of a folder
before any push. Each object's bytes are those of kustomize build or helm template.`,
		Example: `  gitopsd render web
  gitopsd render --dir overlays/prod
  gitopsd render --dir charts/web --release-name web --values values-prod.yaml -n web`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			result, err := renderWhat(cmd, &c, args, dir, o)
			if err != nil {
				return err
			}
			w := bufio.NewWriter(cmd.OutOrStdout())
			for _, object := range result.Objects {
				fmt.Fprintf(w, "---\n%s", object.YAML)
			}
			return w.Flush()
		},
	}
	c.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&dir, "dir", "", "folder to render")
	f.StringVarP(&o.Namespace, "namespace", "n", "default", "with --dir: what a chart sees as its namespace")
	f.StringVar(&o.Helm.ReleaseName, "release-name", "", "with --dir: what a chart sees as its release (default the folder's name)")
	f.StringSliceVar(&o.Helm.ValuesFiles, "values", nil, "with --dir: values files, relative to the chart")
	return cmd
}

func renderWhat(cmd *cobra.Command, c *connection, args []string, dir string, o render.Options) (*render.Result, error) {
	switch {
	case dir != "" && len(args) > 0:
		return nil, errors.New("name an Application or a --dir, not both")
	case dir != "":
		return renderDir(cmd, c.dataDir, dir, o)
	case len(args) == 0:
		return nil, errors.New("name an Application, or a folder with --dir")
	}
	cs, err := c.connect()
	if err != nil {
		return nil, err
	}
	app, err := cs.find(cmd.Context(), args[0])
	if err != nil {
		return nil, err
	}
	client, err := c.config()
	if err != nil {
		return nil, err
	}
	return daemon.RenderApplication(cmd.Context(), c.dataDir, client, app)
}

// renderDir renders a folder of the working copy. What its files may refer to ends at the repository's root.
func renderDir(cmd *cobra.Command, dataDir, dir string, o render.Options) (*render.Result, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	top := repositoryRoot(abs)
	path, err := filepath.Rel(top, abs)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(top)
	if err != nil {
		return nil, fmt.Errorf("--dir: %w", err)
	}
	defer root.Close()
	if o.Helm.ReleaseName == "" {
		o.Helm.ReleaseName = filepath.Base(abs)
	}
	return daemon.Render(cmd.Context(), dataDir, render.Request{FS: root.FS(), Path: filepath.ToSlash(path), Options: o})
}

// repositoryRoot is the folder at or above dir that holds .git, or dir itself.
func repositoryRoot(dir string) string {
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, ".git")); err == nil {
			return d
		}
		if d == filepath.Dir(d) {
			return dir
		}
	}
}
