package controlplane

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/gitopsd/gitopsd/internal/controlplane/pki"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// AdminKubeconfig is the path of the kubeconfig for people, inside a data directory.
func AdminKubeconfig(dataDir string) string { return filepath.Join(dataDir, "admin.kubeconfig") }

// writeKubeconfigs writes the kubeconfig for people, which carries everything inside, so that it can be copied to
// another machine, and the one for kube-controller-manager, which points at files that are renewed.
func writeKubeconfigs(cfg Config, api API) error {
	if err := writeAdminKubeconfig(cfg.DataDir, api.Server, api.PKI); err != nil {
		return err
	}
	cert, key := api.PKI.Files(pki.ControllerManager)
	byFile := kubeconfig(
		&clientcmdapi.Cluster{Server: api.URL, CertificateAuthority: api.PKI.CAFile()},
		&clientcmdapi.AuthInfo{ClientCertificate: cert, ClientKey: key})
	return writeKubeconfig(api.PKI.Path("controller-manager.kubeconfig"), byFile)
}

// writeAdminKubeconfig is called again whenever the admin's certificate is renewed.
func writeAdminKubeconfig(dataDir, server string, keys *pki.PKI) error {
	ca, err := os.ReadFile(keys.CAFile())
	if err != nil {
		return err
	}
	certFile, keyFile := keys.Files(pki.Admin)
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	c := kubeconfig(
		&clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca},
		&clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key})
	return writeKubeconfig(AdminKubeconfig(dataDir), c)
}

func kubeconfig(cluster *clientcmdapi.Cluster, user *clientcmdapi.AuthInfo) *clientcmdapi.Config {
	c := clientcmdapi.NewConfig()
	c.Clusters["gitopsd"], c.AuthInfos["gitopsd"] = cluster, user
	c.Contexts["gitopsd"] = &clientcmdapi.Context{Cluster: "gitopsd", AuthInfo: "gitopsd"}
	c.CurrentContext = "gitopsd"
	return c
}

func writeKubeconfig(path string, c *clientcmdapi.Config) error {
	b, err := clientcmd.Write(*c)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	return pki.WriteFile(path, b)
}
