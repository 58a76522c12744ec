package nodeagent

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// claims resolves claims through the API, which lets a node read those of its pods.
type claims struct{ client kubernetes.Interface }

// Volume returns the persistent volume that a claim is bound to.
func (c claims) Volume(ctx context.Context, namespace, claim string) (*v1.PersistentVolume, error) {
	pvc, err := c.client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, claim, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get persistent volume claim %s: %w", claim, err)
	}
	if pvc.Status.Phase != v1.ClaimBound || pvc.Spec.VolumeName == "" {
		return nil, fmt.Errorf("persistent volume claim %s is not bound to a volume yet", claim)
	}
	pv, err := c.client.CoreV1().PersistentVolumes().Get(ctx, pvc.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get persistent volume %s: %w", pvc.Spec.VolumeName, err)
	}
	if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != pvc.UID {
		return nil, fmt.Errorf("persistent volume %s belongs to another claim than %s", pv.Name, claim)
	}
	return pv, nil
}
