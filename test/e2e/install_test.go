package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const nobody = 65532

// The rights that gitopsd install prints are enough, and no more than they have to be: an engine with the token of exactly that account,
// and without root on its machine, syncs and heals what an Application's own account may, and tells clearly what that may not.
func TestInstallWithLeastRights(t *testing.T) {
	aside(t)
	c, err := startPlain(filepath.Join(t.TempDir(), "cluster.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.end)
	for _, ns := range []string{"team-a", "team-b"} {
		c.namespace(t, ns)
	}
	manifests, code := output(exec.Command(gitopsd, "install", "--tenant", "team-a", "--repo", "https://git.example.org/infra"))
	if code != 0 {
		t.Fatalf("install: exit code %d\n%s", code, manifests)
	}
	if strings.Contains(manifests, "cluster-admin") {
		t.Error("the manifests speak of cluster-admin")
	}
	if out, code := c.run("status", "--kubeconfig", c.kubeconfig()); code != 1 || !strings.Contains(out, "gitopsd has not started yet on the cluster of "+c.kubeconfig()) {
		t.Errorf("status before there is a gitopsd: exit code %d\n%s", code, out)
	}
	c.applyPrinted(t, manifests)
	s := c.serveAsInstalled(t, readable(t, map[string]string{"child.yaml": "apiVersion: gitopsd.io/v1alpha1\nkind: Application\nmetadata: {name: child}\n" +
		"spec: {source: {repo: /nowhere}, destination: {serviceAccountName: gitopsd-root}, sync: {suspend: true}}\n"}))
	root := newApp(s.instance, "gitopsd", "root", nil)
	root.awaitPhase(t, v1alpha1.Applied, "")

	c.account(t, "team-a", "deployer", "--clusterrole=edit")
	a := c.tenant(t, s, "team-a", "app", "deployer", map[string]string{"c.yaml": configMap("c", "k", "good")})
	a.awaitPhase(t, v1alpha1.Applied, "")
	c.mustKubectl(t, "-n", "team-a", "patch", "configmap", "c", "--type=merge", "-p", `{"data":{"k":"bad"}}`)
	eventually(t, 20*time.Second, "it is healed", func() error {
		if got := c.configMaps(t, "team-a")["c"]; got != "good" {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
	c.mustKubectl(t, "-n", "team-a", "create", "role", "maps", "--verb=get,list,watch,create,patch,delete", "--resource=configmaps")
	c.account(t, "team-a", "few", "--role=maps")
	few := c.tenant(t, s, "team-a", "few", "few", map[string]string{"d.yaml": configMap("d", "k", "v"), "s.yaml": "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: made}\n"})
	few.awaitPhase(t, v1alpha1.Failed, `s.yaml:1: ServiceAccount team-a/made: serviceaccounts "made" is forbidden: User "system:serviceaccount:team-a:few" cannot`)
	if got := c.configMaps(t, "team-a"); got["d"] != "" {
		t.Errorf("a refused revision was written in part: %v", got)
	}
	c.account(t, "team-a", "owner", "--clusterrole=admin")
	binding := "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: gitopsd-tenant, annotations: {gitopsd.io/adopt: \"true\"}}\n" +
		"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: gitopsd-tenant}\nsubjects: [{kind: ServiceAccount, name: deployer, namespace: team-a}]\n"
	// The engine may not read bindings itself: what would take its own away is found by the rights of the account that may change it.
	c.tenant(t, s, "team-a", "owner", "owner", map[string]string{"b.yaml": binding}).
		awaitPhase(t, v1alpha1.Failed, "gitopsd works as system:serviceaccount:gitopsd:gitopsd by it, and the revision takes gitopsd from its subjects")
	c.account(t, "team-b", "deployer", "--clusterrole=edit")
	c.tenant(t, s, "team-b", "app", "deployer", map[string]string{"c.yaml": configMap("c", "k", "v")}).
		awaitPhase(t, v1alpha1.Failed, `cannot impersonate resource "serviceaccounts" in API group "" in the namespace "team-b"`)
	c.tenant(t, s, "team-a", "as-engine", "", map[string]string{"e.yaml": configMap("e", "k", "v")}).
		awaitPhase(t, v1alpha1.Failed, "spec.destination.serviceAccountName is needed here")
	c.checkRights(t)
}

// applyPrinted does what a person does with the manifests. The definition of a kind and what is of it come in one file.
func (c *plainCluster) applyPrinted(t testing.TB, manifests string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "install.yaml")
	writeFile(t, file, manifests)
	c.mustKubectl(t, "apply", "--server-side", "-f", file)
}

// serveAsInstalled runs what the Deployment would run: with the account's token, and as nobody.
func (c *plainCluster) serveAsInstalled(t testing.TB, r *repo) *server {
	t.Helper()
	token, err := c.kube.CoreV1().ServiceAccounts("gitopsd").CreateToken(ctx(t), "gitopsd", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(open(t, t.TempDir()), "kubeconfig")
	ca, err := os.ReadFile(filepath.Join(c.dir, "pki", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(filepath.Dir(kubeconfig), "ca.crt"), string(ca))
	writeFile(t, kubeconfig, fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q, certificate-authority: ca.crt}}]\n"+
		"users: [{name: u, user: {token: %q}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\ncurrent-context: c\n", c.config.Host, token.Status.Token))
	s := newServer(t, c, kubeconfig, "--namespace", "gitopsd", "--install-crd=false", "--require-service-account", "--repo", r.dir, "--service-account", "gitopsd-root")
	s.as = &syscall.Credential{Uid: nobody, Gid: nobody}
	// As an image would have them: nobody may not look into the folder of whoever runs the tests.
	place := open(t, t.TempDir())
	bundle := filepath.Join(filepath.Dir(bundleDir), "bundle")
	if out, code := output(exec.Command("cp", "-r", s.program, bundle, place)); code != 0 {
		t.Fatalf("install: %s", out)
	}
	s.program = filepath.Join(place, filepath.Base(s.program))
	// The static programs of the product: one that links C code, as the race detector does, waits for ever for the threads that Landlock
	// is to be told of, when it is the first process of a user namespace.
	s.env = []string{"GITOPSD_BUNDLE_DIR=" + filepath.Join(place, filepath.Base(bundle))}
	if err := os.Chown(filepath.Dir(s.dir), nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(raceDir, 0o777); err != nil {
		t.Fatal(err)
	}
	s.launch(t)
	s.says(t, 0, "msg=leading")
	return s
}

// open lets everybody into a temporary folder.
func open(t testing.TB, dir string) string {
	t.Helper()
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func readable(t testing.TB, files map[string]string) *repo {
	t.Helper()
	r := newRepo(t, files)
	open(t, r.dir)
	return r
}

// account makes a service account with a role in its namespace.
func (c *plainCluster) account(t testing.TB, namespace, name, role string) {
	t.Helper()
	c.mustKubectl(t, "-n", namespace, "create", "serviceaccount", name)
	c.mustKubectl(t, "-n", namespace, "create", "rolebinding", name, role, "--serviceaccount="+namespace+":"+name)
}

func (c *plainCluster) tenant(t testing.TB, s *server, namespace, name, account string, files map[string]string) *app {
	t.Helper()
	a := newApp(s.instance, namespace, name, readable(t, files))
	obj := a.object()
	obj.Spec.Destination.ServiceAccountName = account
	c.createApplication(t, obj)
	return a
}

// awaitPhase waits for a phase, and for words in its message.
func (a *app) awaitPhase(t testing.TB, phase v1alpha1.Phase, words string) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("%s/%s is %s: %s", a.namespace, a.name, phase, words), func() error {
		got, err := a.i.application(t, a.namespace, a.name)
		if err == nil && (got.Status.Phase != phase || !strings.Contains(got.Status.Message, words)) {
			err = errPhase(got.Status)
		}
		return err
	})
}

// checkRights looks for what the engine was refused when it acted for itself, and for rights that it should not have.
func (c *plainCluster) checkRights(t testing.TB) {
	t.Helper()
	const engine = "system:serviceaccount:gitopsd:gitopsd"
	for _, e := range auditSince(t, c.instance, 0) {
		if e.User.Username == engine && e.ImpersonatedUser.Username == "" && e.ResponseStatus.Code == 403 && e.ObjectRef.Namespace != "team-b" {
			t.Errorf("the engine was refused: %s %s", e.Verb, e.RequestURI)
		}
	}
	for _, denied := range [][]string{{"get", "secrets", "-n", "kube-system"}, {"get", "secrets", "-n", "team-a"}, {"create", "configmaps", "-n", "team-a"},
		{"patch", "secrets", "-n", "gitopsd"}, {"impersonate", "serviceaccounts", "-n", "team-b"}, {"impersonate", "serviceaccounts/gitopsd", "-n", "gitopsd"},
		{"create", "clusterrolebindings"}, {"impersonate", "users"}, {"*", "*"}} {
		out, _ := c.kubectl(append([]string{"auth", "can-i", "--as", engine}, denied...)...)
		if last := strings.Fields(out); len(last) == 0 || last[len(last)-1] != "no" {
			t.Errorf("may it %v? %s", denied, out)
		}
	}
}
