package controlplane

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/gitopsd/gitopsd/internal/controlplane/pki"
	"k8s.io/client-go/transport"
)

// openPKI opens <data-dir>/pki for the addresses that cfg names.
func openPKI(cfg Config) (*pki.PKI, error) {
	names := append([]string{cfg.AdvertiseAddress.String()}, cfg.ExtraNames...)
	if !cfg.BindAddress.IsUnspecified() {
		names = append(names, cfg.BindAddress.String())
	}
	dir := filepath.Join(cfg.DataDir, "pki")
	keys, err := pki.Open(pki.Config{Dir: dir, NodeName: cfg.NodeName, NodeAddress: cfg.NodeAddress,
		APINames: names, ServiceCIDR: cfg.ServiceCIDR, Life: cfg.CertificateLife})
	if err != nil {
		return nil, fmt.Errorf("prepare certificates in %s: %w", dir, err)
	}
	// Clients look for renewed certificates this often; far oftener than a certificate's last third.
	if every := cfg.CertificateLife / 10; every < transport.CertCallbackRefreshDuration {
		transport.CertCallbackRefreshDuration = every
	}
	return keys, nil
}

// keepFresh renews certificates until ctx ends. Servers and clients of this process read them from the files again.
func keepFresh(ctx context.Context, cfg Config, keys *pki.PKI) error {
	tick := time.NewTicker(min(cfg.CertificateLife/12, time.Hour))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			renewed, err := keys.Renew(now)
			if err == nil && len(renewed) > 0 {
				err = writeAdminKubeconfig(cfg.DataDir, serverURL(cfg), keys)
			}
			if err != nil {
				cfg.Log.Error("certificates could not be renewed; tried again within the hour", "err", err)
			} else if len(renewed) > 0 {
				cfg.Log.Info("certificates renewed", "names", renewed)
			}
		}
	}
}
