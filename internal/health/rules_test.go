package health

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	b, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = u.UnmarshalJSON(b) // numbers as the API's client reads them
	}
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return u
}

const widget = "{apiVersion: example.org/v2, kind: Widget, metadata: {name: a, generation: 2%s}, %s}"

func TestRules(t *testing.T) {
	rules, err := Compile([]Rule{
		{"example.org/v1", "Widget", "status.phase == 'Ready'", "status.phase == 'Building'", "has(status.error) && status.error != ''"},
		{"apps/v1", "Deployment", "status.replicas > 0", "", ""},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		yaml string
		want Status
		says string
	}{
		"current":                        {strings.Replace(widget, "%s}, %s", "}, status: {phase: Ready}", 1), Healthy, ""},
		"in progress before failed":      {strings.Replace(widget, "%s}, %s", "}, status: {phase: Building, error: x}", 1), Progressing, "in progress: status.phase == 'Building'"},
		"failed before current":          {strings.Replace(widget, "%s}, %s", "}, status: {phase: Ready, error: x}", 1), Degraded, "it failed: has(status.error)"},
		"not current":                    {strings.Replace(widget, "%s}, %s", "}, status: {phase: New}", 1), Progressing, "not yet: status.phase == 'Ready'"},
		"no status yet":                  {strings.Replace(widget, "%s}, %s", "}", 1), Progressing, "no such key: phase"},
		"an older spec was seen":         {strings.Replace(widget, "%s}, %s", "}, status: {phase: Ready, observedGeneration: 1}", 1), Progressing, "has not seen"},
		"the rule is over kstatus":       {"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {replicas: 5}, status: {replicas: 1}}", Healthy, ""},
		"an annotation is over the rule": {strings.Replace(widget, "%s}, %s", `, annotations: {gitopsd.io/health: "status.phase == 'New'"}}, status: {phase: New}`, 1), Healthy, ""},
		"it is false":                    {strings.Replace(widget, "%s}, %s", `, annotations: {gitopsd.io/health: "status.phase == 'New'"}}, status: {phase: Ready}`, 1), Progressing, "not yet"},
		"ignored":                        {strings.Replace(widget, "%s}, %s", `, annotations: {gitopsd.io/health: ignore}}, status: {error: x}`, 1), Healthy, ""},
		"nonsense by hand":               {strings.Replace(widget, "%s}, %s", `, annotations: {gitopsd.io/health: "1 +"}}`, 1), Progressing, "column 4"},
		"no truth":                       {strings.Replace(widget, "%s}, %s", `, annotations: {gitopsd.io/health: "status.phase"}}, status: {phase: Ready}`, 1), Progressing, "has to be true or false"},
		"too costly": {strings.Replace(widget, "%s}, %s", `, annotations: {gitopsd.io/health: "status.l.all(a, status.l.all(b, status.l.all(c, status.l.all(d, a+b+c+d > 0))))"}}, status: {l: [`+
			strings.Repeat("1, ", 99)+`1]}`, 1), Progressing, "cost limit"},
		"going": {strings.Replace(widget, "%s}, %s", `, deletionTimestamp: "2026-01-01T00:00:00Z"}, status: {phase: Ready}`, 1), Progressing, "being deleted"},
	} {
		u := object(t, c.yaml)
		if got := rules.Of(u, u); got.Status != c.want || !strings.Contains(got.Message, c.says) {
			t.Errorf("%s: %+v, want %s %q", name, got, c.want, c.says)
		}
	}
	ignored := object(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, annotations: {gitopsd.io/health: ignore}}}")
	if got := rules.Of(nil, ignored); got.Status != Healthy {
		t.Errorf("absent and ignored: %+v", got)
	}
	if got := rules.Of(nil, object(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}")); got.Status != Missing {
		t.Errorf("absent: %+v", got)
	}
}

func TestBadRulesAreToldAllAtOnce(t *testing.T) {
	_, err := Compile([]Rule{
		{"example.org/v1", "Widget", "statu.phase == 'Ready'", "", "status.phase =="},
		{"example.org/v1", "Gadget", "'ready'", "", ""},
		{"example.org/v2", "Gadget", "true", "", ""},
		{"example.org/v1", "Thing", "", "", "true"},
		{"v1/v2/v3", "Other", "true", "", ""},
		{"example.org/v1", "Long", strings.Repeat("true && ", 1000) + "true", "", ""},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`rule for example.org/v1 Widget: current: "statu.phase == 'Ready'": line 1, column 1: undeclared reference to 'statu'`,
		`rule for example.org/v1 Widget: failed: "status.phase ==": line 1, column 16: `,
		`rule for example.org/v1 Gadget: current: "'ready'" gives string`,
		"rule for example.org/v2 Gadget: there are two for this kind",
		"rule for example.org/v1 Thing: current is missing",
		`rule for "v1/v2/v3 Other"`,
		"at most 4096",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in\n%v", want, err)
		}
	}
}

func TestCheckAnnotation(t *testing.T) {
	for value, good := range map[string]bool{"ignore": true, "status.x": true, "true": true, "Ignore": false, "": false, "1": false} {
		u := object(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, annotations: {gitopsd.io/health: '"+value+"'}}}")
		if err := CheckAnnotation(u); (err == nil) != good {
			t.Errorf("%q: %v", value, err)
		}
	}
}
