package pipeline

import (
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/diff"
	authenticationv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func TestLostRights(t *testing.T) {
	object := func(text string) *unstructured.Unstructured {
		if text == "" {
			return nil
		}
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Fatal(err)
		}
		return u
	}
	r := &rights{authenticationv1.UserInfo{Username: "system:serviceaccount:gitopsd:engine", Groups: []string{"system:authenticated"}}, map[diff.Ref]rbacv1.RoleRef{}}
	binding := diff.Ref{Group: rbacv1.GroupName, Kind: "ClusterRoleBinding", Name: "ours"}
	r.add(binding, []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "gitopsd", Name: "engine"}}, rbacv1.RoleRef{Kind: "ClusterRole", Name: "engine"})
	r.add(diff.Ref{Group: rbacv1.GroupName, Kind: "ClusterRoleBinding", Name: "theirs"}, []rbacv1.Subject{{Kind: "User", Name: "ann"}}, rbacv1.RoleRef{Kind: "ClusterRole", Name: "view"})
	role := func(name string) diff.Ref {
		return diff.Ref{Group: rbacv1.GroupName, Kind: "ClusterRole", Name: name}
	}
	const wide, narrow = `{rules: [{apiGroups: [""], resources: [secrets, pods], verbs: [get, list]}]}`, `{rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]}`
	for _, c := range []struct {
		what       string
		ref        diff.Ref
		live, next string
		want       string
	}{
		{"our role narrower", role("engine"), wide, narrow, "takes from it [get] [secrets]"},
		{"our role wider", role("engine"), narrow, wide, ""},
		{"our role gone", role("engine"), wide, "", "deletes it"},
		{"somebody's role narrower", role("view"), wide, narrow, ""},
		{"our binding gone", binding, "{}", "", "deletes it"},
		{"our binding for others", binding, "{}", "{subjects: [{kind: User, name: ann}]}", "takes gitopsd from its subjects"},
		{"our binding for others too", binding, "{}", "{subjects: [{kind: User, name: ann}, {kind: ServiceAccount, name: engine, namespace: gitopsd}]}", ""},
	} {
		if got := r.lost(c.ref, object(c.live), object(c.next)); (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}
