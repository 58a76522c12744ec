package podspec

import (
	"context"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"

	"github.com/gitopsd/gitopsd/internal/nodeagent/downward"
)

// TestGolden shows what the runtime is told for a pod. Commands:
//
//	sandbox                         pod spec in YAML → the sandbox configuration
//	container user=NAME uid=N       pod spec in YAML → the configuration of its first container
//	hosts                           pod spec in YAML → /etc/hosts
func TestGolden(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return golden(t, d) })
	})
}

var testNode = Node{
	Name: "n1", Hostname: "n1.example", ClusterDNS: []string{"10.43.0.10"}, ClusterDomain: "cluster.local", LogsDir: "/logs",
	HostDNS: DNS{Servers: []string{"192.0.2.53"}, Searches: []string{"example.org"}, Options: []string{"ndots:1", "rotate"}},
}

func golden(t *testing.T, d *datadriven.TestData) string {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "u1", Labels: map[string]string{"app": "web"}}}
	if err := yaml.UnmarshalStrict([]byte(d.Input), &pod.Spec); err != nil {
		t.Fatal(err)
	}
	switch d.Cmd {
	case "sandbox":
		c, err := testNode.Sandbox(pod, 1, "/gitopsd/podu1")
		return show(t, c, err)
	case "hosts":
		return string(testNode.HostsFile(pod, []string{"10.42.0.2"}, []byte("127.0.0.1 n1\n")))
	case "container":
		image := &runtimeapi.Image{Id: "sha256:1"}
		for _, a := range d.CmdArgs {
			if a.Key == "user" {
				image.Username = a.Vals[0]
			}
		}
		c := &pod.Spec.Containers[0]
		env, err := testEnvironment().Of(context.Background(), pod, c)
		if err != nil {
			return "error: " + err.Error() + "\n"
		}
		config, err := Container{Pod: pod, Spec: c, Attempt: 2, Image: image, Env: env, MachineMemory: 8 << 30}.Config()
		return show(t, config, err)
	}
	t.Fatalf("unknown command %s", d.Cmd)
	return ""
}

func show(t *testing.T, v any, err error) string {
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	switch c := v.(type) {
	case *runtimeapi.ContainerConfig:
		var env []string
		for _, kv := range c.Envs {
			env = append(env, kv.Key+"="+string(kv.Value))
		}
		c.Envs = nil
		return strings.Join(append(env, ""), "\n") + toYAML(t, c)
	default:
		return toYAML(t, v)
	}
}

func toYAML(t *testing.T, v any) string {
	b, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

type testObjects struct{}

func (testObjects) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	if name != "conf" {
		return nil, apierrors.NewNotFound(v1.Resource("configmaps"), name)
	}
	return &v1.ConfigMap{Data: map[string]string{"a": "1", "b": "2", "not a name\n": "3"}}, nil
}

func (testObjects) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	if name != "sec" {
		return nil, apierrors.NewNotFound(v1.Resource("secrets"), name)
	}
	return &v1.Secret{Data: map[string][]byte{"key": []byte("value")}}, nil
}

func testEnvironment() Environment {
	service := func(ns, name, ip string, port int32) *v1.Service {
		return &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: v1.ServiceSpec{ClusterIP: ip, Ports: []v1.ServicePort{{Port: port}}}}
	}
	return Environment{
		Objects: testObjects{},
		Services: []*v1.Service{
			service("default", "kubernetes", "10.43.0.1", 443), service("shop", "db", "10.43.0.2", 5432),
			service("shop", "headless", "None", 1), service("elsewhere", "far", "10.43.0.3", 1),
		},
		Facts: downward.Facts{PodIPs: []string{"10.42.0.2"}, HostIPs: []string{"192.0.2.1"}, Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("3500m")}},
	}
}

func TestParseResolv(t *testing.T) {
	d := ParseResolv("# comment\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch a b\nsearch c d\noptions ndots:2 rotate\n")
	if strings.Join(d.Servers, " ") != "192.0.2.1 192.0.2.2" || strings.Join(d.Searches, " ") != "c d" || strings.Join(d.Options, " ") != "ndots:2 rotate" {
		t.Errorf("got %+v", d)
	}
}
