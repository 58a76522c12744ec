package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	"github.com/gitopsd/gitopsd/internal/apply"
	"github.com/gitopsd/gitopsd/internal/release"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"
)

// mostReleases is how many revisions of a release are kept, as Helm keeps them.
const mostReleases = 10

// What tells our release Secrets from Helm's own.
const (
	labelRelease     = "gitopsd.io/release"        // label: whose it is
	annotationIntent = "gitopsd.io/release-intent" // which sync wrote it
)

// releasing writes the releases of one Application into the namespace that its objects go to, with its rights.
type releasing struct {
	kube            kubernetes.Interface
	name, namespace string
	owner           string
}

func (e *Engine) releasing(app *v1alpha1.Application) (releasing, error) {
	kube, err := e.kubeAs(userOf(app))
	name := app.Name
	if app.Spec.Render != nil && app.Spec.Render.Helm != nil {
		name = cmp.Or(app.Spec.Render.Helm.ReleaseName, name)
	}
	return releasing{kube, name, namespaceFor(app)(schema.GroupKind{}), ownerOf(app)}, err
}

// tellHelm writes what became of a sync as helm list and helm history show it. It says nothing of what runs, so a sync does not
// fail by it: what keeps it from being written is logged.
func (t *turn) tellHelm(ctx context.Context, in *v1alpha1.Intent, objects []apply.Object, status release.Status) {
	rendered := t.w.rendered
	if rendered.release == nil || rendered.commit != in.Revision.Commit || !tellsHelm(t.app) {
		return
	}
	to, err := t.releasing(t.app)
	if err == nil {
		err = t.checkTurn(ctx)
	}
	if err == nil {
		r := release.Release{Name: to.name, Namespace: to.namespace, Status: status, Last: time.Now().UTC(), Chart: rendered.release.Chart,
			Config: rendered.release.Values, Describe: fmt.Sprintf("gitopsd, commit %s", short(in.Revision.Commit))}
		if status == release.Failed {
			r.Describe += ": " + in.Message
		}
		if r.Manifest, err = manifestOf(objects); err == nil {
			err = to.write(ctx, in.ID, r)
		}
	}
	if err != nil && ctx.Err() == nil {
		t.cfg.Log.Info("helm list will not show this revision", "app", keyOf(t.app), "commit", short(in.Revision.Commit), "err", err)
	}
}

// tellsHelm says whether the Application wants its releases written.
func tellsHelm(app *v1alpha1.Application) bool {
	r := app.Spec.Render
	return r == nil || r.Helm == nil || r.Helm.Release != v1alpha1.ReleaseNone
}

// manifestOf is what helm get manifest prints.
func manifestOf(objects []apply.Object) (string, error) {
	var b strings.Builder
	for _, o := range objects {
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			return "", fmt.Errorf("write %s as YAML: %w", o.Ref(), err)
		}
		fmt.Fprintf(&b, "---\n# Source: %s\n%s", o.Origin, text)
	}
	return b.String(), nil
}

// write adds a revision, once for each sync.
func (to releasing) write(ctx context.Context, intent string, r release.Release) error {
	there, err := to.list(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(there, func(s corev1.Secret) bool { return s.Annotations[annotationIntent] == intent }) {
		return nil // by a process before this one
	}
	r.Version, r.First = 1, r.Last
	if n := len(there); n > 0 {
		r.Version = versionOf(there[n-1]) + 1
		if first, ok := release.FirstDeployed(there[n-1].Data["release"]); ok {
			r.First = first
		}
	}
	content, err := r.Encode()
	if err != nil {
		return err
	}
	marks := r.Labels()
	marks[labelRelease] = to.owner
	secret := &corev1.Secret{Type: release.Type, Data: map[string][]byte{"release": content},
		ObjectMeta: metav1.ObjectMeta{Name: release.SecretName(r.Name, r.Version), Labels: marks, Annotations: map[string]string{annotationIntent: intent}}}
	if _, err := to.kube.CoreV1().Secrets(to.namespace).Create(ctx, secret, metav1.CreateOptions{FieldManager: v1alpha1.FieldManager}); err != nil {
		return fmt.Errorf("write the release: %w", withoutContent(err))
	}
	return to.tidy(ctx, there, r.Status)
}

// tidy marks the revisions before a deployed one as superseded, and removes the oldest of ours.
func (to releasing) tidy(ctx context.Context, before []corev1.Secret, now release.Status) error {
	secrets := to.kube.CoreV1().Secrets(to.namespace)
	for _, s := range before {
		if now != release.Deployed || s.Labels["status"] != string(release.Deployed) {
			continue
		}
		content, err := release.Mark(s.Data["release"], release.Superseded)
		if err != nil {
			return err
		}
		s.Data["release"], s.Labels["status"] = content, string(release.Superseded)
		if _, err := secrets.Update(ctx, &s, metav1.UpdateOptions{FieldManager: v1alpha1.FieldManager}); err != nil {
			return fmt.Errorf("mark the release before: %w", withoutContent(err))
		}
	}
	ours := slices.DeleteFunc(slices.Clone(before), func(s corev1.Secret) bool { return s.Labels[labelRelease] != to.owner })
	for n := 0; n <= len(ours)-mostReleases; n++ {
		if err := secrets.Delete(ctx, ours[n].Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("remove an old release: %w", err)
		}
	}
	return nil
}

// list are the Secrets of the release, Helm's own among them, by their version.
func (to releasing) list(ctx context.Context) ([]corev1.Secret, error) {
	found, err := to.kube.CoreV1().Secrets(to.namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.Set{"owner": "helm", "name": to.name}.String()})
	if err != nil {
		return nil, fmt.Errorf("list the releases: %w", err)
	}
	slices.SortFunc(found.Items, func(a, b corev1.Secret) int { return cmp.Compare(versionOf(a), versionOf(b)) })
	return found.Items, nil
}

// deployed is the version of the release's last revision, where one of its revisions is deployed; 0 where none is, or where we may not see it.
func (to releasing) deployed(ctx context.Context) (int, error) {
	there, err := to.list(ctx)
	if apierrors.IsForbidden(err) {
		return 0, nil
	}
	if err != nil || !slices.ContainsFunc(there, func(s corev1.Secret) bool { return s.Labels["status"] == string(release.Deployed) }) {
		return 0, err
	}
	return versionOf(there[len(there)-1]), nil
}

func versionOf(s corev1.Secret) int {
	n, _ := strconv.Atoi(s.Labels["version"]) // 0 for what is no release
	return n
}

// withoutContent is an error of the API without what it quotes of a Secret.
func withoutContent(err error) error {
	if status := apierrors.APIStatus(nil); errors.As(err, &status) && !apierrors.IsForbidden(err) {
		return fmt.Errorf("the API answers %s", status.Status().Reason)
	}
	return err
}

// forgetReleases removes what was written for helm list of an Application that deletes its objects with it.
func (e *Engine) forgetReleases(ctx context.Context, app *v1alpha1.Application) error {
	if !tellsHelm(app) {
		return nil
	}
	to, err := e.releasing(app)
	if err != nil {
		return err
	}
	secrets := to.kube.CoreV1().Secrets(to.namespace)
	found, err := secrets.List(ctx, metav1.ListOptions{LabelSelector: labels.Set{labelRelease: to.owner}.String()})
	if apierrors.IsForbidden(err) { // then it has written none
		return nil
	}
	if err != nil {
		return fmt.Errorf("list the releases: %w", err)
	}
	for _, s := range found.Items {
		if err := secrets.Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("remove a release: %w", err)
		}
	}
	return nil
}
