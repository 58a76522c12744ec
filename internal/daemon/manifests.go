package daemon

import (
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/pipeline"
	"github.com/gitopsd/gitopsd/internal/source"
	"sigs.k8s.io/yaml"
)

// Install is what the manifests say that run the engine inside a cluster.
type Install struct {
	Namespace    string
	Image        string
	Tenants      []string // namespaces whose service accounts Applications may act as, besides the engine's own
	ClusterAdmin bool     // the engine may do everything itself
	Root         RootSource
}

// DefaultInstall is `gitopsd install` without flags, of this version.
func DefaultInstall(version string) Install {
	return Install{Namespace: pipeline.DefaultNamespace, Image: "gitopsd:" + version}
}

//go:embed manifests.yaml.tmpl
var manifestsText string

var manifestsTemplate = template.Must(template.New("manifests").Funcs(template.FuncMap{"quote": quote}).Parse(manifestsText))

// quote writes a text as YAML on one line, whatever is in it.
func quote(s string) (string, error) {
	b, err := yaml.Marshal(s)
	return strings.TrimSpace(string(b)), err
}

var namespaceForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Manifests is what kubectl apply -f has to be given, as YAML.
func (i Install) Manifests() (string, error) {
	for _, ns := range append([]string{i.Namespace}, i.Tenants...) {
		if !namespaceForm.MatchString(ns) {
			return "", fmt.Errorf("%q is no name of a namespace", ns)
		}
	}
	if i.Image == "" || strings.ContainsAny(i.Image, " \n") {
		return "", fmt.Errorf("--image %q is no name of an image", i.Image)
	}
	if i.Root.Credentials != "" {
		return "", errors.New("manifests hold no credentials: make a Secret of them and name it with --git-secret")
	}
	args, err := i.arguments()
	if err != nil {
		return "", err
	}
	tenants := slices.Clone(i.Tenants)
	slices.Sort(tenants)
	var b strings.Builder
	err = manifestsTemplate.Execute(&b, struct {
		Install
		Arguments []string
		Tenants   []string
		CRD       string
	}{i, args, slices.Compact(tenants), definitions()})
	return b.String(), err
}

// definitions are the custom resource definitions, as documents.
func definitions() string {
	var out []string
	for _, crd := range [][]byte{v1alpha1.CRD, v1alpha1.SetCRD} {
		out = append(out, strings.TrimPrefix(strings.TrimSpace(string(crd)), "---\n"))
	}
	return strings.Join(out, "\n---\n")
}

// RootAccount is the service account as which the first Application acts inside a cluster.
const RootAccount = "gitopsd-root"

func (i Install) arguments() ([]string, error) {
	args := []string{"server", "--in-cluster", "--install-crd=false", "--data-dir=/data"}
	if !i.ClusterAdmin {
		args = append(args, "--require-service-account")
	}
	if i.Root.Repo == "" {
		if i.Root.Ref != "" || i.Root.Path != "" || i.Root.Secret != "" {
			return nil, errors.New("--ref, --path and --git-secret are about the repository that is followed first; name it with --repo")
		}
		return args, nil
	}
	repo, err := source.Canonical(i.Root.Repo)
	if err != nil {
		return nil, fmt.Errorf("--repo: %w", err)
	}
	if repo != i.Root.Repo && strings.Contains(i.Root.Repo, "@") && !strings.HasPrefix(repo, "ssh://") {
		return nil, errors.New("--repo holds a password, and manifests hold none: make a Secret of it and name it with --git-secret")
	}
	args = append(args, "--repo="+repo)
	for _, a := range []struct{ flag, value string }{{"--ref", i.Root.Ref}, {"--path", i.Root.Path}, {"--git-secret", i.Root.Secret}} {
		if a.value != "" {
			args = append(args, a.flag+"="+a.value)
		}
	}
	if !i.ClusterAdmin {
		args = append(args, "--service-account="+RootAccount)
	}
	return args, nil
}
