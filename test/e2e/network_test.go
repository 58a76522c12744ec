package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Services answer pods and the host, follow their endpoints, and are gone when they are deleted; others' rules stay.
func TestServices(t *testing.T) {
	i := shared(t)
	from, _ := i.nodePorts()
	nodePort := from + 5
	foreign := "gdtforeign"
	if out, code := output(exec.Command("nft", "add table ip "+foreign+"; add chain ip "+foreign+" c; add rule ip "+foreign+" c counter comment \"not-ours\"")); code != 0 {
		t.Fatal(out)
	}
	defer output(exec.Command("nft", "delete", "table", "ip", foreign))
	a := i.deploy(t, map[string]string{"hello.yaml": helloDeployment("v1", 2, nodePort),
		"client.yaml":   toolboxPod("client", []string{"sleep"}, "", ""),
		"headless.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: headless}\nspec: {clusterIP: None, selector: {app: hello}, ports: [{port: 8080}]}\n",
		"empty.yaml":    "apiVersion: v1\nkind: Service\nmetadata: {name: empty}\nspec: {selector: {app: nobody}, ports: [{port: 80}]}\n"})
	a.await(t)
	i.pod(t, a.namespace, "client", "is ready", ready)
	clusterIP := i.clusterIP(t, a.namespace, "hello")
	fromPod := func(url string) (string, int) {
		return i.kubectl("-n", a.namespace, "exec", "client", "--", "/app", "get", url)
	}
	answers(t, 10*time.Second, "http://"+clusterIP+"/", "version v1")
	answers(t, 10*time.Second, fmt.Sprintf("http://%s:%d/", nodeAddress(t), nodePort), "version v1")
	seen := map[string]bool{}
	eventually(t, 20*time.Second, "both pods answer a pod", func() error {
		out, code := fromPod("http://" + clusterIP + "/")
		if code != 0 {
			return fmt.Errorf("%s", out)
		}
		seen[out] = true
		if len(seen) < 2 {
			return fmt.Errorf("only %v", seen)
		}
		return nil
	})
	if out, code := fromPod(fmt.Sprintf("http://%s:%d/", nodeAddress(t), nodePort)); code != 0 || !strings.Contains(out, "version v1") {
		t.Errorf("the NodePort from a pod: %s", out)
	}
	started := time.Now()
	if _, err := fetch("http://" + i.clusterIP(t, a.namespace, "empty") + "/"); err == nil || time.Since(started) > 3*time.Second {
		t.Errorf("a Service without endpoints: %v after %s, want a refusal at once", err, time.Since(started))
	}
	i.checkHeadless(t, a.namespace, "headless", 2)
	a.repo.commit(t, "no service", map[string]string{"hello.yaml": strings.Split(helloDeployment("v1", 2, 0), "---")[0]})
	a.await(t)
	eventually(t, 10*time.Second, "the Service is gone from the rules", func() error {
		out, _ := output(exec.Command("nft", "list", "table", "ip", i.table))
		if strings.Contains(out, clusterIP) || strings.Contains(out, fmt.Sprint(nodePort)) {
			return fmt.Errorf("still there")
		}
		return nil
	})
	for _, address := range []string{clusterIP, fmt.Sprintf("%s:%d", nodeAddress(t), nodePort)} {
		if _, err := fetch("http://" + address + "/"); err == nil {
			t.Errorf("the deleted Service answers at %s", address)
		}
	}
	if out, code := fromPod("http://" + clusterIP + "/"); code == 0 {
		t.Errorf("a deleted Service answers a pod: %s", out)
	}
	if out, _ := output(exec.Command("nft", "list", "table", "ip", foreign)); !strings.Contains(out, "not-ours") {
		t.Errorf("the table of others: %s", out)
	}
}

// checkHeadless wants so many endpoints of a Service without an address of its own, each of which answers itself.
func (i *instance) checkHeadless(t testing.TB, namespace, name string, want int) {
	t.Helper()
	if ip := i.clusterIP(t, namespace, name); ip != "None" {
		t.Errorf("%s has the address %s", name, ip)
	}
	slices, err := i.kube.DiscoveryV1().EndpointSlices(namespace).List(ctx(t), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + name})
	if err != nil || len(slices.Items) != 1 || len(slices.Items[0].Endpoints) != want {
		t.Fatalf("endpoints of %s: %v %+v", name, err, slices)
	}
	for _, e := range slices.Items[0].Endpoints {
		answers(t, 10*time.Second, "http://"+e.Addresses[0]+":8080/", "version v1")
	}
}

func (i *instance) clusterIP(t testing.TB, namespace, name string) string {
	t.Helper()
	svc, err := i.kube.CoreV1().Services(namespace).Get(ctx(t), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return svc.Spec.ClusterIP
}

// A pod reaches the API by its environment and its mounted token, with the rights of its account; host network pods
// have the machine's address.
func TestPodsReachTheAPI(t *testing.T) {
	i := shared(t)
	ns := nameOf(t)
	i.namespace(t, ns)
	i.mustKubectl(t, "-n", ns, "create", "rolebinding", "view", "--clusterrole=view", "--serviceaccount="+ns+":default")
	i.apply(t, ns, configMap("c", "k", "seen-by-the-pod")+"---\n"+toolboxPod("inside", []string{"sleep"}, "", "")+"---\n"+toolboxPod("host", []string{"sleep"}, "", "hostNetwork: true"))
	i.pod(t, ns, "inside", "is ready", ready)
	path := "/api/v1/namespaces/" + ns + "/configmaps/c"
	for _, name := range []string{"inside", "host"} {
		p := i.pod(t, ns, name, "is ready", ready)
		eventually(t, 10*time.Second, name+" reads the API", func() error {
			out, _ := i.kubectl("-n", ns, "exec", name, "--", "/app", "api", path)
			if !strings.HasPrefix(out, "200 OK") || !strings.Contains(out, "seen-by-the-pod") {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
		if out, _ := i.kubectl("-n", ns, "exec", name, "--", "/app", "api", "/api/v1/namespaces/kube-system/secrets"); !strings.HasPrefix(out, "403") {
			t.Errorf("%s reads what it may not: %s", name, out)
		}
		if name == "host" && p.Status.PodIP != nodeAddress(t) {
			t.Errorf("the host network pod has %s", p.Status.PodIP)
		}
	}
}

// A pod on the host network listens on the machine itself, a Service leads to it from pods and from the machine, and a
// second one that wants the same port is not placed.
func TestHostNetwork(t *testing.T) {
	i := shared(t)
	ns := nameOf(t)
	i.namespace(t, ns)
	port := i.port(18)
	onHost := func(name string) string {
		return toolboxPod(name, []string{"serve", "/c/k", fmt.Sprint(port)}, fmt.Sprintf("ports: [{containerPort: %d}]\nvolumeMounts: [{name: c, mountPath: /c}]", port),
			"hostNetwork: true\nvolumes: [{name: c, configMap: {name: c}}]") + "---\n"
	}
	i.apply(t, ns, configMap("c", "k", "on the machine")+"---\n"+onHost("web")+toolboxPod("client", []string{"sleep"}, "", "")+
		fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: %d}]}\n", port))
	i.pod(t, ns, "web", "is ready", ready)
	i.pod(t, ns, "client", "is ready", ready)
	answers(t, 10*time.Second, fmt.Sprintf("http://127.0.0.1:%d/", port), "on the machine")
	url := "http://" + i.clusterIP(t, ns, "web") + "/"
	answers(t, 10*time.Second, url, "on the machine")
	if out, code := i.kubectl("-n", ns, "exec", "client", "--", "/app", "get", url); code != 0 || !strings.Contains(out, "on the machine") {
		t.Errorf("the Service from a pod: %s", out)
	}
	i.apply(t, ns, onHost("second"))
	i.pod(t, ns, "second", "says that the port is taken", func(p *corev1.Pod) error {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && strings.Contains(c.Message, "1 node(s) didn't have free ports for the requested pod ports") {
				return nil
			}
		}
		return fmt.Errorf("conditions %+v", p.Status.Conditions)
	})
	i.mustKubectl(t, "-n", ns, "delete", "pod", "web")
	i.pod(t, ns, "second", "has the port now", ready)
}
