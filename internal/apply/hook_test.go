package apply

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func hook(t *testing.T, name, annotations string) Object {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte("apiVersion: batch/v1\nkind: Job\nmetadata: {name: "+name+", annotations: {"+annotations+"}}\n"), &u.Object); err != nil {
		t.Fatal(err)
	}
	return Object{Unstructured: u}
}

func TestHooksAreNotDeclared(t *testing.T) {
	objects := []Object{hook(t, "a", ""), hook(t, "b", "helm.sh/hook: pre-install"), hook(t, "c", ""), hook(t, "d", "helm.sh/hook: test")}
	declared, hooks := Split(objects)
	if got := names(declared); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("declared are %v", got)
	}
	if got := names(hooks); !slices.Equal(got, []string{"b", "d"}) {
		t.Errorf("hooks are %v", got)
	}
}

func TestHooksRunByWeightAndName(t *testing.T) {
	hooks := []Object{
		hook(t, "z", `helm.sh/hook: "pre-install, Post-Install", helm.sh/hook-weight: "-5"`),
		hook(t, "c", `helm.sh/hook: pre-install, helm.sh/hook-weight: "10"`),
		hook(t, "b", `helm.sh/hook: pre-install`),
		hook(t, "a", `helm.sh/hook: pre-install, helm.sh/hook-weight: heavy`),
		hook(t, "up", `helm.sh/hook: pre-upgrade`),
		hook(t, "t", `helm.sh/hook: test`),
	}
	for event, want := range map[string][]string{"pre-install": {"z", "a", "b", "c"}, "post-install": {"z"}, "pre-upgrade": {"up"}, "post-upgrade": nil} {
		if got := names(HooksAt(hooks, event)); !slices.Equal(got, want) {
			t.Errorf("at %s run %v, not %v", event, got, want)
		}
	}
}

func TestHookDeletePolicies(t *testing.T) {
	for annotations, want := range map[string][]string{
		"": {beforeCreation},
		"helm.sh/hook-delete-policy: hook-succeeded":                          {hookSucceeded},
		`helm.sh/hook-delete-policy: "before-hook-creation, hook-failed"`:     {beforeCreation, hookFailed},
		"helm.sh/hook-delete-policy: nonsense":                                nil,
		`helm.sh/hook-delete-policy: "hook-succeeded,before-hook-creation  "`: {beforeCreation, hookSucceeded},
	} {
		o := hook(t, "a", annotations)
		var got []string
		for _, policy := range []string{beforeCreation, hookSucceeded, hookFailed} {
			if deletes(o, policy) {
				got = append(got, policy)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: deleted at %v, not %v", annotations, got, want)
		}
	}
}

func TestHookEnded(t *testing.T) {
	for text, want := range map[string][2]string{
		"{apiVersion: batch/v1, kind: Job}": {"", ""},
		"{apiVersion: batch/v1, kind: Job, status: {conditions: [{type: Complete, status: 'True', reason: CompletionsReached, message: done}]}}":      {"Complete", "CompletionsReached: done"},
		"{apiVersion: batch/v1, kind: Job, status: {conditions: [{type: Failed, status: 'True', reason: BackoffLimitExceeded, message: too often}]}}": {"Failed", "BackoffLimitExceeded: too often"},
		"{apiVersion: v1, kind: Pod, status: {phase: Running}}":                  {"", ""},
		"{apiVersion: v1, kind: Pod, status: {phase: Succeeded}}":                {"Complete", ""},
		"{apiVersion: v1, kind: Pod, status: {phase: Failed, message: evicted}}": {"Failed", "evicted"},
		"{apiVersion: v1, kind: ConfigMap}":                                      {"Complete", ""},
	} {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Fatal(err)
		}
		if how, why := HookEnded(u); how != want[0] || why != want[1] {
			t.Errorf("%s: %q, %q", text, how, why)
		}
	}
}

func names(objects []Object) []string {
	var out []string
	for _, o := range objects {
		out = append(out, o.GetName())
	}
	return out
}
