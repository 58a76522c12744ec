package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/gitopsd/gitopsd/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// installer is the field manager of what gitopsd itself puts into the API, apart from what repositories declare.
const installer = "gitopsd-install"

// Install makes the API know Applications and ApplicationSets, and waits until it serves them.
func Install(ctx context.Context, cfg *rest.Config) error {
	d, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return err
	}
	for _, definition := range []struct {
		crd      []byte
		resource string
	}{{v1alpha1.CRD, applicationResource}, {v1alpha1.SetCRD, "applicationsets"}} {
		if err := install(ctx, d, definition.crd); err != nil {
			return err
		}
		served := d.Resource(v1alpha1.GroupVersion.WithResource(definition.resource))
		err = wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
			_, err := served.List(ctx, metav1.ListOptions{Limit: 1})
			return err == nil, nil
		})
		if err != nil {
			return fmt.Errorf("wait until the API serves %s: %w", definition.resource, err)
		}
	}
	return nil
}

func install(ctx context.Context, d dynamic.Interface, definition []byte) error {
	crd := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(definition, &crd.Object); err != nil {
		return fmt.Errorf("read our own custom resource definition: %w", err)
	}
	body, err := crd.MarshalJSON()
	if err != nil {
		return err
	}
	crds := d.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	force := true
	if _, err := crds.Patch(ctx, crd.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: installer, Force: &force}); err != nil {
		return fmt.Errorf("install the definition %s: %w", crd.GetName(), err)
	}
	return nil
}

// Root is what the first Application follows.
type Root struct {
	Repo, Ref, Path string
	Credentials     map[string][]byte // the data of its Secret; nil: none
	Secret          string            // a Secret that is there, instead of Credentials
	ServiceAccount  string            // as which it acts; empty: as the engine
}

var commitForm = regexp.MustCompile(`^[0-9a-f]{40}$`)

// refOf reads a ref as people write it: a branch, refs/tags/NAME for a tag, or a whole commit.
func refOf(s string) v1alpha1.Ref {
	switch {
	case s == "":
		return v1alpha1.Ref{}
	case commitForm.MatchString(s):
		return v1alpha1.Ref{Commit: s}
	case strings.HasPrefix(s, "refs/tags/"):
		return v1alpha1.Ref{Tag: strings.TrimPrefix(s, "refs/tags/")}
	}
	return v1alpha1.Ref{Branch: strings.TrimPrefix(s, "refs/heads/")}
}

// DefaultNamespace is where an engine lives that was told no other.
const DefaultNamespace = v1alpha1.RootNamespace

// EnsureRoot makes the first Application, or changes its source to what is asked for. Everything else that has been
// set on it stays.
func EnsureRoot(ctx context.Context, cfg *rest.Config, root Root, namespace string) error {
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	app := &v1alpha1.Application{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Application"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: v1alpha1.RootName},
		Spec:       v1alpha1.ApplicationSpec{Source: v1alpha1.Source{Repo: root.Repo, Ref: refOf(root.Ref), Path: root.Path}},
	}
	if root.Credentials != nil {
		if err := ensureCredentials(ctx, kube, namespace, root.Credentials); err != nil {
			return err
		}
		app.Spec.Source.SecretRef = &v1alpha1.LocalReference{Name: rootCredentials}
	}
	if root.Secret != "" {
		app.Spec.Source.SecretRef = &v1alpha1.LocalReference{Name: root.Secret}
	}
	client, err := RESTClient(cfg)
	if err != nil {
		return err
	}
	spec := map[string]any{"source": app.Spec.Source}
	if root.ServiceAccount != "" {
		spec["destination"] = v1alpha1.Destination{ServiceAccountName: root.ServiceAccount}
	}
	body, err := json.Marshal(map[string]any{"apiVersion": app.APIVersion, "kind": app.Kind,
		"metadata": map[string]any{"name": app.Name, "namespace": app.Namespace}, "spec": spec})
	if err != nil {
		return err
	}
	err = client.Patch(types.ApplyPatchType).Namespace(app.Namespace).Resource(applicationResource).Name(app.Name).
		Param("fieldManager", installer).Param("force", "true").Body(body).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("make the Application %s: %w", v1alpha1.RootName, err)
	}
	return nil
}

const rootCredentials = "root-credentials"

// EnsureNamespace makes a namespace that is not there.
func EnsureNamespace(ctx context.Context, kube kubernetes.Interface, name string) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	_, err := kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		return nil
	}
	_, err = kube.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{FieldManager: installer})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make namespace %s: %w", ns.Name, err)
	}
	return nil
}

func ensureCredentials(ctx context.Context, kube kubernetes.Interface, namespace string, data map[string][]byte) error {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: rootCredentials}, Data: data}
	_, err := kube.CoreV1().Secrets(secret.Namespace).Create(ctx, secret, metav1.CreateOptions{FieldManager: installer})
	if apierrors.IsAlreadyExists(err) {
		_, err = kube.CoreV1().Secrets(secret.Namespace).Update(ctx, secret, metav1.UpdateOptions{FieldManager: installer})
	}
	if err != nil {
		return fmt.Errorf("keep the credentials in Secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	return nil
}
