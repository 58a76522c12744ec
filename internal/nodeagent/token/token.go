// Package token gets service account tokens for the pods of this node and keeps them fresh.
//
// A token is bound to its pod and is renewed when 80% of its life, or a day, has passed; while the API is away an
// unexpired one goes on being used. Tokens are kept in memory only.
package token

import (
	"context"
	"fmt"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const maxAge = 24 * time.Hour

// Source hands out tokens.
type Source struct {
	client kubernetes.Interface
	now    func() time.Time

	mu   sync.Mutex
	held map[key]authv1.TokenRequestStatus
	got  map[key]time.Time
}

type key struct {
	uid       types.UID
	audiences string
	seconds   int64
}

// NewSource returns a source that asks through client.
func NewSource(client kubernetes.Interface) *Source {
	return &Source{client: client, now: time.Now, held: map[key]authv1.TokenRequestStatus{}, got: map[key]time.Time{}}
}

// Token returns a token for a projection of the pod's service account token.
func (s *Source) Token(ctx context.Context, pod *v1.Pod, p *v1.ServiceAccountTokenProjection) (string, error) {
	seconds := int64(3600)
	if p.ExpirationSeconds != nil {
		seconds = *p.ExpirationSeconds
	}
	k := key{uid: pod.UID, audiences: p.Audience, seconds: seconds}
	s.mu.Lock()
	have, ok := s.held[k]
	got := s.got[k]
	s.mu.Unlock()
	if ok && !s.stale(got, have.ExpirationTimestamp.Time) {
		return have.Token, nil
	}
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if p.Audience != "" {
		request.Spec.Audiences = []string{p.Audience}
	}
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	began := s.now()
	answer, err := s.request(ctx, pod.Namespace, account, request)
	if err != nil {
		if ok && began.Before(have.ExpirationTimestamp.Time) {
			return have.Token, nil
		}
		return "", fmt.Errorf("request token of service account %s/%s: %w", pod.Namespace, account, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[k], s.got[k] = answer.Status, began
	return answer.Status.Token, nil
}

// request asks the API, and again for a short while if it refuses: its authorizer may not have seen the pod yet.
func (s *Source) request(ctx context.Context, namespace, account string, r *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	pause := 20 * time.Millisecond
	for {
		answer, err := s.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, r, metav1.CreateOptions{})
		if !apierrors.IsForbidden(err) || pause > time.Second {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
		pause *= 2
	}
}

func (s *Source) stale(got, expires time.Time) bool {
	now := s.now()
	life := expires.Sub(got)
	return now.After(got.Add(life*8/10)) || now.After(got.Add(maxAge))
}

// Forget drops the tokens of a pod.
func (s *Source) Forget(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.held {
		if k.uid == uid {
			delete(s.held, k)
			delete(s.got, k)
		}
	}
}
