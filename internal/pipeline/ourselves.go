package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/diff"
	authenticationv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// vital says that an object is what an engine of this namespace itself stands on: no sync and no cascade deletes it, also where a
// repository has declared it once.
func vital(namespace string) func(diff.Ref) bool {
	return func(r diff.Ref) bool {
		switch {
		case r.Group == "apiextensions.k8s.io" && r.Kind == "CustomResourceDefinition":
			return strings.HasSuffix(r.Name, "."+v1alpha1.GroupVersion.Group)
		case r.Group == "" && r.Kind == "Namespace":
			return r.Name == v1alpha1.RootNamespace || r.Name == namespace
		}
		return false
	}
}

// spareUs refuses a revision that would take rights away from the engine: it could not finish it, nor undo it.
func (t *turn) spareUs(ctx context.Context, proof *apply.Proof, objects []apply.Object) error {
	var suspects []suspect
	for _, c := range proof.Plan.Changes {
		if c.Ref.Group != rbacv1.GroupName || c.Action != diff.Update && c.Action != diff.Prune && !c.Replaces {
			continue
		}
		s := suspect{ref: c.Ref, live: proof.Live(c.Ref)}
		if n := slices.IndexFunc(objects, func(o apply.Object) bool { return o.Ref() == c.Ref }); n >= 0 {
			s.next = objects[n].Unstructured
		}
		suspects = append(suspects, s)
	}
	return t.refuseLosing(ctx, suspects)
}

// spareUsDeleting refuses to delete, with an Application, what gives the engine its rights.
func (t *turn) spareUsDeleting(ctx context.Context, held []apply.Held) error {
	var suspects []suspect
	for _, h := range held {
		if h.Ref.Group == rbacv1.GroupName {
			suspects = append(suspects, suspect{ref: h.Ref})
		}
	}
	return t.refuseLosing(ctx, suspects)
}

// suspect is an object of RBAC as it is, and as it would be; next is nil where it would go.
type suspect struct {
	ref        diff.Ref
	live, next *unstructured.Unstructured
}

func (t *turn) refuseLosing(ctx context.Context, suspects []suspect) error {
	if len(suspects) == 0 {
		return nil
	}
	rights, err := t.rights(ctx, suspects)
	if err != nil || rights == nil {
		return err
	}
	var errs []error
	for _, s := range suspects {
		if why := rights.lost(s.ref, s.live, s.next); why != "" {
			errs = append(errs, fmt.Errorf("%s: gitopsd works as %s by it, and %s; give that account the rights otherwise first", s.ref, rights.user.Username, why))
		}
	}
	return errors.Join(errs...)
}

// rights are by which bindings the engine may do what it does.
type rights struct {
	user     authenticationv1.UserInfo
	bindings map[diff.Ref]rbacv1.RoleRef // that name the engine
}

// rights asks the API who the engine is and which of the bindings that suspects may concern name it. Nil where no binding matters.
func (t *turn) rights(ctx context.Context, suspects []suspect) (*rights, error) {
	review, err := t.kube.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("ask the API who we are: %w", err)
	}
	out := &rights{review.Status.UserInfo, map[diff.Ref]rbacv1.RoleRef{}}
	if slices.Contains(out.user.Groups, "system:masters") {
		return nil, nil
	}
	namespaces := map[string]bool{} // "" is all of them, and what has none
	for _, s := range suspects {
		namespaces[s.ref.Namespace] = true
	}
	for namespace := range namespaces {
		if err := t.readBindings(ctx, namespace, out); err != nil {
			return nil, fmt.Errorf("read what binds us: %w", err)
		}
	}
	return out, nil
}

// readBindings reads by the rights of the Application's account, or else by the engine's own. What neither may read adds nothing.
func (t *turn) readBindings(ctx context.Context, namespace string, into *rights) error {
	kube, err := t.kubeAs(userOf(t.app))
	if err != nil {
		return err
	}
	if err = into.read(ctx, kube, namespace); apierrors.IsForbidden(err) && userOf(t.app) != "" {
		err = into.read(ctx, t.kube, namespace)
	}
	if apierrors.IsForbidden(err) {
		return nil
	}
	return err
}

// read collects the bindings of a namespace that name the engine; of all, and those of the cluster, where it is empty. What was found before an error stands.
func (r *rights) read(ctx context.Context, kube kubernetes.Interface, namespace string) error {
	var clusterErr error
	if namespace == "" {
		var cluster *rbacv1.ClusterRoleBindingList
		if cluster, clusterErr = kube.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{}); clusterErr == nil {
			for _, b := range cluster.Items {
				r.add(diff.Ref{Group: rbacv1.GroupName, Kind: "ClusterRoleBinding", Name: b.Name}, b.Subjects, b.RoleRef)
			}
		}
	}
	local, err := kube.RbacV1().RoleBindings(namespace).List(ctx, metav1.ListOptions{})
	if err == nil {
		for _, b := range local.Items {
			r.add(diff.Ref{Group: rbacv1.GroupName, Kind: "RoleBinding", Namespace: b.Namespace, Name: b.Name}, b.Subjects, b.RoleRef)
		}
	}
	return cmp.Or(clusterErr, err)
}

func (r *rights) add(binding diff.Ref, subjects []rbacv1.Subject, role rbacv1.RoleRef) {
	if r.among(subjects, binding.Namespace) {
		r.bindings[binding] = role
	}
}

// among says whether the engine is one of the subjects of a binding.
func (r *rights) among(subjects []rbacv1.Subject, namespace string) bool {
	return slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
		switch s.Kind {
		case rbacv1.UserKind:
			return s.Name == r.user.Username
		case rbacv1.GroupKind:
			return slices.Contains(r.user.Groups, s.Name)
		}
		if s.Namespace != "" {
			namespace = s.Namespace
		}
		return r.user.Username == "system:serviceaccount:"+namespace+":"+s.Name
	})
}

// lost says what the engine would lose if an object of RBAC became what is next; "" when nothing. Next is nil when it goes.
func (r *rights) lost(ref diff.Ref, live, next *unstructured.Unstructured) string {
	if _, binds := r.bindings[ref]; binds {
		if next == nil {
			return "the revision deletes it"
		}
		var b rbacv1.RoleBinding // a ClusterRoleBinding has the same fields
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(next.Object, &b); err != nil || !r.among(b.Subjects, ref.Namespace) {
			return "the revision takes gitopsd from its subjects"
		}
		return ""
	}
	if !r.byRole(ref) {
		return ""
	}
	if next == nil {
		return "the revision deletes it"
	}
	if live == nil {
		return ""
	}
	var before, after rbacv1.ClusterRole // a Role has the same rules
	if runtime.DefaultUnstructuredConverter.FromUnstructured(live.Object, &before) != nil || runtime.DefaultUnstructuredConverter.FromUnstructured(next.Object, &after) != nil {
		return "the revision's rules cannot be read"
	}
	if covered, missing := validation.Covers(after.Rules, before.Rules); !covered && after.AggregationRule == nil {
		return fmt.Sprintf("the revision takes from it %s %s", missing[0].Verbs, missing[0].Resources)
	}
	return ""
}

// byRole says whether the engine is bound to a role.
func (r *rights) byRole(role diff.Ref) bool {
	for binding, to := range r.bindings {
		if to.Kind == role.Kind && to.Name == role.Name && (role.Namespace == "" || role.Namespace == binding.Namespace) {
			return true
		}
	}
	return false
}
