package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/daemon"
	"github.com/gitopsd/gitopsd/internal/pipeline"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// connection is how a command reaches an instance: by its data directory, or by any kubeconfig.
type connection struct {
	dataDir    string
	kubeconfig string
}

func (c *connection) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.dataDir, "data-dir", daemon.DefaultDataDir, "data directory of the instance on this machine")
	cmd.Flags().StringVar(&c.kubeconfig, "kubeconfig", "", "kubeconfig of an instance elsewhere (default <data-dir>/admin.kubeconfig)")
}

// file is the kubeconfig to use.
func (c *connection) file() string {
	if c.kubeconfig != "" {
		return c.kubeconfig
	}
	return daemon.AdminKubeconfig(c.dataDir)
}

func (c *connection) config() (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", c.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no gitopsd in %s; start one with: gitopsd up --data-dir %s", c.dataDir, c.dataDir)
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%s may be read by root only; run the command with sudo", c.file())
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.file(), err)
	}
	cfg.QPS = -1
	return cfg, nil
}

// explain turns a refused connection, and an API that knows nothing of ours, into what they mean here.
func (c *connection) explain(err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		if c.kubeconfig != "" {
			return fmt.Errorf("nothing answers at the address in %s: %w", c.kubeconfig, err)
		}
		if pid, lockErr := daemon.RunningPID(c.dataDir); lockErr == nil && pid == 0 {
			return fmt.Errorf("gitopsd does not run on %s; start it with: gitopsd up --data-dir %s", c.dataDir, c.dataDir)
		}
		return fmt.Errorf("the API of %s does not answer yet; try again in a few seconds", c.dataDir)
	}
	if apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse) {
		if c.kubeconfig != "" {
			return fmt.Errorf("gitopsd has not started yet on the cluster of %[1]s, which knows no Applications; start it there with: gitopsd server --kubeconfig %[1]s", c.kubeconfig)
		}
		return fmt.Errorf("gitopsd is starting on %s; try again in a few seconds", c.dataDir)
	}
	return err
}

// clients of one instance.
type clients struct {
	connection
	kube kubernetes.Interface
	apps rest.Interface
}

func (c *connection) connect() (*clients, error) {
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	apps, err := pipeline.RESTClient(cfg)
	return &clients{*c, kube, apps}, err
}

func (c *clients) list(ctx context.Context) (*v1alpha1.ApplicationList, error) {
	out := &v1alpha1.ApplicationList{}
	err := c.apps.Get().Resource("applications").Do(ctx).Into(out)
	return out, c.explain(err)
}

// application connects and finds the Application that a command names.
func (c *connection) application(cmd *cobra.Command, name string) (*clients, *v1alpha1.Application, error) {
	cs, err := c.connect()
	if err != nil {
		return nil, nil, err
	}
	app, err := cs.find(cmd.Context(), name)
	return cs, app, err
}

// find resolves NAME or NAMESPACE/NAME. A name alone has to be one Application's in all namespaces.
func (c *clients) find(ctx context.Context, name string) (*v1alpha1.Application, error) {
	all, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	var names []types.NamespacedName
	for _, app := range all.Items {
		names = append(names, types.NamespacedName{Namespace: app.Namespace, Name: app.Name})
	}
	if len(names) == 0 {
		return nil, errors.New("there is no Application yet; make one with: gitopsd up --repo URL")
	}
	n, err := pick("Application", names, name)
	if err != nil {
		return nil, err
	}
	return &all.Items[n], nil
}

// pick finds the one that a person means by NAME or NAMESPACE/NAME.
func pick(kind string, names []types.NamespacedName, name string) (int, error) {
	var found []int
	var all []string
	for n, full := range names {
		all = append(all, full.String())
		if name == full.String() || name == full.Name {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return 0, fmt.Errorf("there is no %s %s; there are: %s", kind, name, strings.Join(all, ", "))
	}
	return 0, fmt.Errorf("%s %s exists in %d namespaces; write NAMESPACE/%s", kind, name, len(found), name)
}

func (c *clients) get(ctx context.Context, namespace, name string) (*v1alpha1.Application, error) {
	out := &v1alpha1.Application{}
	err := c.apps.Get().Namespace(namespace).Resource("applications").Name(name).Do(ctx).Into(out)
	return out, c.explain(err)
}

func (c *clients) patch(ctx context.Context, app *v1alpha1.Application, merge []byte) error {
	return c.explain(c.apps.Patch(types.MergePatchType).Namespace(app.Namespace).Resource("applications").Name(app.Name).
		Param("fieldManager", "gitopsd-cli").Body(merge).Do(ctx).Error())
}

// completeApps offers the names of Applications to the shell.
func (c *connection) completeApps(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	cs, err := c.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := cs.list(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, a := range all.Items {
		names = append(names, a.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
