package token

import (
	"errors"
	"fmt"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestRenewal(t *testing.T) {
	client := fake.NewClientset()
	now, made, away := time.Unix(1e9, 0), 0, false
	client.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if away {
			return true, nil, errors.New("away")
		}
		made++
		r := a.(clienttesting.CreateAction).GetObject().(*authv1.TokenRequest)
		if r.Spec.BoundObjectRef.UID != "u1" || r.Spec.Audiences[0] != "aud" {
			t.Errorf("asked for %+v", r.Spec)
		}
		r.Status.Token = fmt.Sprint("t", made)
		r.Status.ExpirationTimestamp = metav1.NewTime(now.Add(time.Duration(*r.Spec.ExpirationSeconds) * time.Second))
		return true, r, nil
	})
	s := NewSource(client)
	s.now = func() time.Time { return now }
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "u1"}}
	life := int64(1000)
	get := func(want string) {
		t.Helper()
		if got, err := s.Token(t.Context(), pod, &v1.ServiceAccountTokenProjection{Audience: "aud", ExpirationSeconds: &life}); got != want || err != nil {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
	get("t1")
	now = now.Add(790 * time.Second)
	get("t1")
	now = now.Add(20 * time.Second)
	get("t2")
	now, away = now.Add(900*time.Second), true
	get("t2") // the API is away and the token still good
	now = now.Add(200 * time.Second)
	if _, err := s.Token(t.Context(), pod, &v1.ServiceAccountTokenProjection{Audience: "aud", ExpirationSeconds: &life}); err == nil {
		t.Error("an expired token was handed out")
	}
	away = false
	s.Forget("u1")
	get("t3")
}
