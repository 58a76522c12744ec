package main

import (
	"bufio"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gitopsd/gitopsd/internal/ledger"
	"github.com/gitopsd/gitopsd/internal/overview"
	"github.com/spf13/cobra"
)

func auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "audit", Short: "Read and verify the ledger of what the engine did",
		Long: `Read and verify the ledger of what the engine did: every sync, rollback, drift, prune, refusal and manual act, each signed and
chained to the one before. None of these commands needs a running gitopsd.`,
	}
	cmd.AddCommand(auditVerifyCommand(), auditLogCommand(), auditExportCommand())
	return cmd
}

func auditVerifyCommand() *cobra.Command {
	var b book
	var keyFile, head string
	cmd := &cobra.Command{
		Use: "verify [FILE | DIR | -]", Short: "Look for changed, missing and reordered entries",
		Long: `Look for changed, missing and reordered entries: in the ledger of an instance, a copy of it, one of its files, or an export.
The public key is all that is needed.

A ledger proves what it contains. That its end was cut off, or that root of its machine wrote it anew, shows only against a head that
was kept elsewhere: keep the one that this command prints, and give it back as --head. Keep the public key elsewhere, too.

Exit code 0: it is whole. 1: it is not, and the message names the first place.`,
		Example: `  gitopsd audit verify
  gitopsd audit verify --head 1240:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  gitopsd audit verify /backup/ledger --public-key /etc/gitopsd-ledger.pem
  gitopsd audit export | gitopsd audit verify -`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return auditVerify(cmd, b.dir(), args, keyFile, head)
			}
			return b.open(cmd.Context(), func(dir string) error { return auditVerify(cmd, dir, args, keyFile, head) })
		},
	}
	b.addFlags(cmd)
	cmd.Flags().StringVar(&keyFile, "public-key", "", "public key in PEM (default the one beside the ledger)")
	cmd.Flags().StringVar(&head, "head", "", "head that was kept elsewhere: NUMBER:HASH or HASH")
	return cmd
}

// auditVerify prints the one line that says what was proven.
func auditVerify(cmd *cobra.Command, dir string, args []string, keyFile, head string) error {
	line, err := verified(cmd.InOrStdin(), dir, args, keyFile, head)
	if err == nil {
		fmt.Fprintln(cmd.OutOrStdout(), line)
	}
	return err
}

func verified(in io.Reader, dir string, args []string, keyFile, head string) (string, error) {
	path := dir
	if len(args) > 0 && args[0] != "-" {
		path = args[0]
	}
	given := keyFile != ""
	if !given {
		keyFile = filepath.Join(path, ledger.PublicKeyFile)
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			keyFile = filepath.Join(filepath.Dir(path), ledger.PublicKeyFile)
		}
	}
	var want ledger.Head
	var err error
	if head != "" {
		if want, err = ledger.ParseHead(head); err != nil {
			return "", fmt.Errorf("--head: %w", err)
		}
	}
	key, err := ledger.ReadPublicKey(keyFile)
	if err != nil && given {
		return "", err
	}
	if err != nil {
		return "", explainLedger(err, filepath.Dir(keyFile), "; or name the key with --public-key")
	}
	var sum ledger.Summary
	if len(args) > 0 && args[0] == "-" {
		sum, err = ledger.VerifyStream("standard input", in, key, want)
	} else {
		sum, err = ledger.Verify(path, key, want)
	}
	if err != nil {
		return "", explainLedger(err, path, "")
	}
	return verdict(sum, key, head), nil
}

func verdict(sum ledger.Summary, key ed25519.PublicKey, head string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "whole: %d entries, lines %d to %d, head %s, key %s", sum.Entries, sum.First, sum.Head.Seq, sum.Head, ledger.Fingerprint(key))
	if sum.Torn {
		b.WriteString("; an unfinished line follows")
	}
	if head == "" {
		fmt.Fprintf(&b, "; without --head this proves nothing beyond line %d", sum.Head.Seq)
	}
	return b.String()
}

func auditExportCommand() *cobra.Command {
	var b book
	var output string
	var which selection
	cmd := &cobra.Command{
		Use: "export", Short: "Print the ledger as JSON lines",
		Long: `Print the ledger as JSON lines, byte for byte as they are kept: entry, hash and signature. The whole of it can be verified
wherever it goes; of a selection, each line's hash and signature can.`,
		Example: `  gitopsd audit export > ledger.jsonl
  gitopsd audit export --app prod/web --since 24h | jq .entry`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "jsonl" {
				return fmt.Errorf("-o %s: there is jsonl", output)
			}
			return b.open(cmd.Context(), func(dir string) error {
				w := bufio.NewWriter(cmd.OutOrStdout())
				for e, err := range which.entries(dir, true) {
					if err != nil {
						return errors.Join(w.Flush(), err)
					}
					if _, err := fmt.Fprintf(w, "%s\n", e.Line()); err != nil {
						return err
					}
				}
				return w.Flush()
			})
		},
	}
	b.addFlags(cmd)
	which.addFlags(cmd, &b)
	cmd.Flags().StringVarP(&output, "output", "o", "jsonl", "jsonl")
	return cmd
}

func auditLogCommand() *cobra.Command {
	var b book
	var last int
	var which selection
	cmd := &cobra.Command{
		Use: "log", Short: "Show the entries of the ledger, newest last",
		Example: "  gitopsd audit log\n  gitopsd audit log --app web --since 2026-01-31 -n 100",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return b.open(cmd.Context(), func(dir string) error {
				var shown []ledger.Entry
				for e, err := range which.entries(dir, false) {
					if err != nil {
						return err
					}
					if shown = append(shown, e); len(shown) > max(last, 0) && last != 0 {
						shown = shown[1:]
					}
				}
				fmt.Fprint(cmd.OutOrStdout(), auditLog(shown))
				return nil
			})
		},
	}
	b.addFlags(cmd)
	which.addFlags(cmd, &b)
	cmd.Flags().IntVarP(&last, "last", "n", 20, "how many entries, 0 for all")
	return cmd
}

func auditLog(entries []ledger.Entry) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LINE\tTIME\tAPPLICATION\tKIND\tOUTCOME\tFROM\tTO\tOBJECTS\tACTOR\tMESSAGE")
	for _, e := range entries {
		message := strings.TrimPrefix(strings.Join(strings.Fields(e.Reason+": "+e.Message), " "), ": ")
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", e.Seq, e.Time.Format("2006-01-02T15:04:05Z"), dash(e.App), e.Kind, dash(e.Outcome),
			dash(overview.Short(e.From)), dash(overview.Short(e.To)), len(e.Objects), dash(e.Actor), overview.Cut(strings.TrimSuffix(message, ":"), 100))
	}
	w.Flush()
	return b.String()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// selection is which entries a command is about.
type selection struct{ app, since string }

func (s *selection) addFlags(cmd *cobra.Command, b *book) {
	cmd.Flags().StringVar(&s.app, "app", "", "entries of this Application only: NAME or NAMESPACE/NAME")
	cmd.Flags().StringVar(&s.since, "since", "", "entries from then on: a time (2026-01-31T12:00:00Z), a day, or how long ago (24h)")
	_ = cmd.RegisterFlagCompletionFunc("app", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		seen := map[string]bool{}
		var apps []string
		_ = b.open(cmd.Context(), func(dir string) error { // what cannot be read completes nothing
			for e, err := range ledger.Read(dir) {
				if err == nil && e.App != "" && !seen[e.App] {
					seen[e.App] = true
					apps = append(apps, e.App)
				}
			}
			return nil
		})
		return apps, cobra.ShellCompDirectiveNoFileComp
	})
}

// entries are the selected ones. Where nothing is selected and the chain is wanted, checkpoints come with them.
func (s selection) entries(dir string, chain bool) iter.Seq2[ledger.Entry, error] {
	return func(yield func(ledger.Entry, error) bool) {
		since, err := parseSince(s.since, time.Now())
		if err != nil {
			yield(ledger.Entry{}, err)
			return
		}
		filter := ledger.Filter{App: s.app, Since: since}
		whole := chain && s.app == "" && since.IsZero()
		for e, err := range ledger.Read(dir) {
			if err != nil {
				yield(ledger.Entry{}, explainLedger(err, dir, ""))
				return
			}
			if (whole || filter.Match(e)) && !yield(e, nil) {
				return
			}
		}
	}
}

// parseSince reads a time, a day of UTC, or a duration before now; nothing is the beginning.
func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(s); err == nil {
		return now.Add(-ago.Abs()), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("--since %s: write a time (2026-01-31T12:00:00Z), a day (2026-01-31), or how long ago (24h)", s)
}

// explainLedger says what to do about a ledger that cannot be read.
func explainLedger(err error, path, besides string) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no ledger, or no public key, in %s; gitopsd makes both on its first start: name its directory with --data-dir%s", path, besides)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s may be read by root only; run the command with sudo", path)
	}
	return err
}
