package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/gitopsd/gitopsd/internal/daemon"
	"github.com/spf13/cobra"
)

// version is set by the build.
var version = "dev"

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			goVersion := ""
			if info, ok := debug.ReadBuildInfo(); ok {
				goVersion = ", " + info.GoVersion
			}
			fmt.Fprintf(cmd.OutOrStdout(), "gitopsd %s (Kubernetes API 1.36.3%s)\n", version, goVersion)
		},
	}
}

func downCommand() *cobra.Command {
	var dataDir string
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "down",
		Short: "End the daemon and stop all of its containers",
		Long: `End the daemon and stop all of its containers. Data stays: gitopsd up goes on from it.

A daemon that a service manager started is better stopped by that first: systemctl stop gitopsd.`,
		Example: "  gitopsd down\n  gitopsd down --data-dir /srv/gitopsd --grace 5s",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return daemon.Down(cmd.Context(), dataDir, grace, cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", daemon.DefaultDataDir, "data directory of the instance")
	cmd.Flags().DurationVar(&grace, "grace", 30*time.Second, "how long a container may take to end before it is killed")
	return cmd
}

func uninstallCommand() *cobra.Command {
	var dataDir string
	var yes bool
	cmd := &cobra.Command{
		Use:     "uninstall",
		Short:   "Remove everything that gitopsd has put on this machine",
		Long:    "Remove everything that gitopsd has put on this machine: containers, images, mounts, cgroups, network rules and\ninterfaces, its systemd unit, and the data directory with the cluster's whole state.",
		Example: "  gitopsd uninstall\n  gitopsd uninstall --data-dir /srv/gitopsd --yes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes && !confirm(cmd, "This removes the instance in "+dataDir+" with all of its data. Go on?") {
				return errors.New("nothing was removed; say yes, or use --yes")
			}
			if err := removeService(dataDir); err != nil {
				return err
			}
			return daemon.Uninstall(cmd.Context(), dataDir, cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", daemon.DefaultDataDir, "data directory of the instance")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func confirm(cmd *cobra.Command, question string) bool {
	if !isTerminal(os.Stdin) {
		return false
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s [y/N] ", question)
	answer, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	return strings.EqualFold(strings.TrimSpace(answer), "y") || strings.EqualFold(strings.TrimSpace(answer), "yes")
}

func imageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Work with the images of this machine"}
	var dataDir string
	load := &cobra.Command{
		Use:     "load FILE...",
		Short:   "Load images from OCI or docker archives",
		Example: "  docker save web:v1 | gitopsd image load -\n  gitopsd image load web.tar",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range args {
				if err := loadImage(cmd, dataDir, name); err != nil {
					return err
				}
			}
			return nil
		},
	}
	load.Flags().StringVar(&dataDir, "data-dir", daemon.DefaultDataDir, "data directory of the instance")
	cmd.AddCommand(load)
	return cmd
}

func loadImage(cmd *cobra.Command, dataDir, name string) error {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	images, err := daemon.LoadImages(cmd.Context(), dataDir, in)
	if err != nil {
		return fmt.Errorf("load %s: %w", name, err)
	}
	for _, image := range images {
		fmt.Fprintln(cmd.OutOrStdout(), image)
	}
	return nil
}

func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl [--data-dir DIR] [ARGS...]",
		Short:              "Run kubectl against this instance",
		Example:            "  gitopsd kubectl get pods -A\n  gitopsd kubectl --data-dir /srv/gitopsd logs deploy/web",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			dataDir, args := takeDataDir(args)
			program, err := daemon.KubectlPath(dataDir)
			if err != nil {
				return err
			}
			env := os.Environ()
			if os.Getenv("KUBECONFIG") == "" {
				env = append(env, "KUBECONFIG="+daemon.AdminKubeconfig(dataDir))
			}
			err = syscall.Exec(program, append([]string{"kubectl"}, args...), env)
			return fmt.Errorf("run %s: %w", program, err)
		},
	}
}

// takeDataDir finds --data-dir in front of kubectl's own arguments.
func takeDataDir(args []string) (string, []string) {
	dir := daemon.DefaultDataDir
	for i, a := range args {
		if v, ok := strings.CutPrefix(a, "--data-dir="); ok {
			return v, append(append([]string{}, args[:i]...), args[i+1:]...)
		}
		if a == "--data-dir" && i+1 < len(args) {
			return args[i+1], append(append([]string{}, args[:i]...), args[i+2:]...)
		}
		if a == "--" {
			break
		}
	}
	return dir, args
}

const unitPath = "/etc/systemd/system/gitopsd.service"

func serviceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "service",
		Short:   "Print or install a systemd unit",
		Example: "  gitopsd service print -- --repo https://github.com/acme/infra\n  gitopsd service install -- --repo https://github.com/acme/infra --ref main",
	}
	cmd.AddCommand(
		&cobra.Command{
			Use: "print [-- FLAGS OF UP]", Short: "Print the unit",
			RunE: func(cmd *cobra.Command, args []string) error {
				unit, err := unitText(args)
				if err == nil {
					fmt.Fprint(cmd.OutOrStdout(), unit)
				}
				return err
			},
		},
		&cobra.Command{
			Use: "install [-- FLAGS OF UP]", Short: "Write the unit and say how to start it",
			RunE: func(cmd *cobra.Command, args []string) error {
				unit, err := unitText(args)
				if err != nil {
					return err
				}
				if err := os.WriteFile(unitPath, []byte(unit), 0o644); err != nil {
					return fmt.Errorf("write unit: %w", err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "wrote %s; start it with: systemctl daemon-reload && systemctl enable --now gitopsd\n", unitPath)
				return nil
			},
		})
	return cmd
}

// unitText is the systemd unit. KillMode=process and Delegate leave the containers alone when the daemon stops.
func unitText(args []string) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	for i, a := range args {
		if strings.ContainsAny(a, " \t\"'\\$%") {
			args[i] = fmt.Sprintf("%q", strings.NewReplacer("$", "$$", "%", "%%").Replace(a))
		}
	}
	return fmt.Sprintf(`[Unit]
Description=gitopsd
Documentation=https://github.com/gitopsd/gitopsd
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
ExecStart=%s
Restart=on-failure
RestartSec=2
KillMode=process
Delegate=yes
OOMScoreAdjust=-999
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=0
TasksMax=infinity
TimeoutStartSec=0

[Install]
WantedBy=multi-user.target
`, strings.Join(append([]string{exe, "up"}, args...), " ")), nil
}

// removeService takes the unit away when it is this instance's.
func removeService(dataDir string) error {
	unit, err := os.ReadFile(unitPath)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read unit: %w", err)
	}
	text := string(unit)
	ours := strings.Contains(text, "--data-dir "+dataDir) || strings.Contains(text, "--data-dir="+dataDir) ||
		(filepath.Clean(dataDir) == daemon.DefaultDataDir && !strings.Contains(text, "--data-dir"))
	if !ours {
		return nil
	}
	return os.Remove(unitPath)
}
