package daemon

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

type printed struct {
	Kind     string
	Metadata struct{ Name, Namespace string }
	RoleRef  struct{ Name string }
	Rules    []struct{ Resources, ResourceNames, Verbs []string }
}

func manifests(t *testing.T, i Install) (text string, all []printed) {
	t.Helper()
	text, err := i.Manifests()
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range strings.Split(text, "\n---\n") {
		var p printed
		if err := yaml.Unmarshal([]byte(doc), &p); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if p.Kind != "" {
			all = append(all, p)
		}
	}
	return text, all
}

// Everything that is printed is YAML, goes where it was asked for, and gives the engine no right to act for itself.
func TestManifests(t *testing.T) {
	i := DefaultInstall("v1")
	i.Namespace, i.Tenants = "flow", []string{"team-b", "team-a", "team-b"}
	i.Root = RootSource{Repo: "https://git.example.org/infra", Ref: "main", Path: "a \"b\": c", Secret: "s"}
	text, all := manifests(t, i)
	bound := map[string]bool{}
	for _, p := range all {
		if p.Kind == "RoleBinding" && p.RoleRef.Name == "gitopsd-tenant" {
			bound[p.Metadata.Namespace] = true
		} else if p.Metadata.Namespace != "" && p.Metadata.Namespace != "flow" {
			t.Errorf("%s %s is in %s", p.Kind, p.Metadata.Name, p.Metadata.Namespace)
		}
		for _, r := range p.Rules {
			if r.Verbs[0] == "impersonate" && p.Kind == "Role" && (len(r.ResourceNames) != 1 || r.ResourceNames[0] != RootAccount) {
				t.Errorf("in its own namespace the engine may act as %v", r.ResourceNames)
			}
			if strings.Contains(strings.Join(append(r.Resources, r.Verbs...), " "), "*") {
				t.Errorf("%s %s allows everything of something: %+v", p.Kind, p.Metadata.Name, r)
			}
		}
	}
	if len(bound) != 2 || !bound["team-a"] || !bound["team-b"] {
		t.Errorf("bound in %v", bound)
	}
	for _, want := range []string{`- '--path=a "b": c'`, "--require-service-account", "--service-account=gitopsd-root", "--git-secret=s"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing in\n%s", want, text[strings.Index(text, "kind: Deployment"):])
		}
	}
	if strings.Contains(text, "cluster-admin") {
		t.Error("it speaks of cluster-admin without being asked")
	}
}

func TestManifestsWithClusterAdmin(t *testing.T) {
	i := DefaultInstall("v1")
	i.ClusterAdmin = true
	text, _ := manifests(t, i)
	if strings.Count(text, "WARNING") != 2 || strings.Contains(text, "--require-service-account") {
		t.Error("it has to warn twice, and may not ask for accounts")
	}
}

func TestManifestsRefuse(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Install)
		want   string
	}{
		"a namespace":           {func(i *Install) { i.Namespace = "Not A Name" }, "no name of a namespace"},
		"a tenant":              {func(i *Install) { i.Tenants = []string{"a\nb"} }, "no name of a namespace"},
		"an image":              {func(i *Install) { i.Image = "" }, "--image"},
		"a path without a repo": {func(i *Install) { i.Root.Path = "x" }, "--repo"},
		"a password":            {func(i *Install) { i.Root.Repo = "https://me:secret@git.example.org/x" }, "--git-secret"},
	} {
		i := DefaultInstall("v1")
		c.change(&i)
		text, err := i.Manifests()
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "me:secret") {
			t.Errorf("%s: %v\n%.80s", name, err, text)
		}
	}
}
