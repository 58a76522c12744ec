package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gitopsd/gitopsd/internal/daemon"
	"github.com/gitopsd/gitopsd/internal/ledger"
	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
)

// book is where an instance keeps its ledger: in its data directory, or in its namespace of somebody else's cluster.
type book struct {
	connection
	namespace string
}

func (b *book) addFlags(cmd *cobra.Command) {
	b.connection.addFlags(cmd)
	cmd.Flags().StringVar(&b.namespace, "namespace", "", "with --kubeconfig: where the engine lives (default gitopsd)")
}

func (b *book) dir() string { return filepath.Join(b.dataDir, "ledger") }

// open gives the folder of the ledger to read; of one in a cluster that is a copy, which goes again.
func (b *book) open(ctx context.Context, read func(dir string) error) error {
	o, err := daemon.LoadOptions(b.dataDir)
	if b.kubeconfig == "" && (err != nil || !o.EngineOnly) {
		return read(b.dir())
	}
	cfg, err := b.config()
	if err != nil {
		return err
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	if b.namespace == "" {
		b.namespace = daemon.EngineNamespace(b.dataDir)
	}
	dir, err := os.MkdirTemp("", "gitopsd-ledger-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	err = ledger.Fetch(ctx, kube.CoreV1().Secrets(b.namespace), dir)
	if errors.Is(err, ledger.ErrNoLedger) {
		return fmt.Errorf("there is no ledger in namespace %s; name the engine's with --namespace, or the data directory of an instance with --data-dir", b.namespace)
	}
	if err != nil {
		return b.explain(err)
	}
	return read(dir)
}
