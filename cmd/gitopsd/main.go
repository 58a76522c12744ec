// gitopsd is the whole product: `gitopsd help` lists what it does, docs/ explains it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/gitopsd/gitopsd/internal/redact"
	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := rootCommand().ExecuteContext(ctx); err != nil {
		os.Exit(report(err))
	}
}

// exitCode is an error that carries the exit code of the process; an empty message prints nothing.
type exitCode struct {
	code    int
	message string
}

func (e exitCode) Error() string { return e.message }

// report prints an error for people and returns the exit code.
func report(err error) int {
	code := 1
	var e exitCode
	if errors.As(err, &e) {
		code = e.code
	}
	if msg := redact.String(err.Error()); msg != "" {
		fmt.Fprintln(os.Stderr, "gitopsd:", msg)
	}
	return code
}

func rootCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "gitopsd",
		Short:         "Make machines run what a Git repository says",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(upCommand(), serverCommand(), installCommand(), downCommand(), uninstallCommand(), serviceCommand(), statusCommand(), syncCommand(), planCommand(), generateCommand(), driftCommand(),
		suspendCommand(), resumeCommand(), historyCommand(), rollbackCommand(), auditCommand(), renderCommand(), imageCommand(), kubectlCommand(), versionCommand())
	return cmd
}
