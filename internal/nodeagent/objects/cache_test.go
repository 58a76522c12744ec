package objects

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestFollowsWhatIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		refusals := 3
		client.PrependReactor("get", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
			if refusals > 0 {
				refusals--
				return true, nil, apierrors.NewForbidden(v1.Resource("secrets"), "sec", nil)
			}
			return false, nil, nil
		})
		ctx, cancel := context.WithCancel(context.Background())
		told := map[types.UID]int{}
		c := New(ctx, client, func(uid types.UID) { told[uid]++ })
		ref := Ref{Secret, "shop", "sec"}
		c.Use("u1", []Ref{ref})
		if _, err := c.Secret(ctx, "shop", "sec"); !apierrors.IsNotFound(err) {
			t.Errorf("got %v: a refusal before the authorizer knows the pod is waited out", err)
		}
		secret := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "sec", ResourceVersion: "1"}, Data: map[string][]byte{"k": []byte("1")}}
		if _, err := client.CoreV1().Secrets("shop").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if s, err := c.Secret(ctx, "shop", "sec"); err != nil || string(s.Data["k"]) != "1" || told["u1"] != 1 {
			t.Errorf("got %v, %v, told %d times", s, err, told["u1"])
		}
		next := secret.DeepCopy()
		next.Data["k"], next.ResourceVersion = []byte("2"), "2"
		if _, err := client.CoreV1().Secrets("shop").Update(ctx, next, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if s, _ := c.Secret(ctx, "shop", "sec"); string(s.Data["k"]) != "2" || told["u1"] != 2 {
			t.Errorf("got %v, told %d times", s, told["u1"])
		}
		c.Use("u1", nil)
		if len(c.items) > 0 || len(c.uses) > 0 {
			t.Error("what nobody uses is kept")
		}
		cancel()
		c.Wait()
	})
}

func TestOf(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Spec: v1.PodSpec{
		ImagePullSecrets: []v1.LocalObjectReference{{Name: "pull"}},
		Volumes:          []v1.Volume{{VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}}}}},
		Containers:       []v1.Container{{EnvFrom: []v1.EnvFromSource{{SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "env"}}}}}},
	}}
	got := map[Ref]bool{}
	for _, r := range Of(pod) {
		got[r] = true
	}
	for _, want := range []Ref{{Secret, "shop", "pull"}, {ConfigMap, "shop", "conf"}, {Secret, "shop", "env"}} {
		if !got[want] {
			t.Errorf("lacks %v", want)
		}
	}
}
