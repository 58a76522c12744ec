package apply

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func objectOf(t *testing.T, text string) Object {
	t.Helper()
	u := &unstructured.Unstructured{}
	b, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = u.UnmarshalJSON(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return Object{Unstructured: u, Origin: "f.yaml"}
}

func TestNodePortsTwice(t *testing.T) {
	service := func(name, ports string) Object {
		return objectOf(t, "{apiVersion: v1, kind: Service, metadata: {name: "+name+", namespace: ns}, spec: {type: NodePort, ports: ["+ports+"]}}")
	}
	good := []Object{service("a", "{port: 1, nodePort: 30001}, {port: 2, nodePort: 30001, protocol: UDP}"), service("b", "{port: 1, nodePort: 30002}, {port: 2}"), service("c", "{port: 1}")}
	if errs := nodePortsTwice(good); len(errs) > 0 {
		t.Errorf("refused: %v", errs)
	}
	errs := nodePortsTwice(append(good, service("d", "{port: 9, nodePort: 30001, protocol: UDP}")))
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "Service ns/d: node port 30001/UDP is also that of Service ns/a") {
		t.Errorf("%v", errs)
	}
}
