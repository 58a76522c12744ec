package image

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/gitopsd/gitopsd/internal/nodeagent/cri"
	"github.com/gitopsd/gitopsd/internal/nodeagent/hollow"
)

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"Get https://me:canary@reg/v2/: refused":                         "Get https://reg/v2/: refused",
		"Authorization: Bearer canary.canary.canary":                     "Authorization: Bearer [redacted]",
		"GET https://reg/token?access_token=canary&x=1: 403":             "GET https://reg/token?access_token=[redacted]&x=1: 403",
		"https://s3/blob?X-Amz-Signature=canary&X-Amz-Credential=canary": "https://s3/blob?X-Amz-Signature=[redacted]&X-Amz-Credential=[redacted]",
		"manifest for reg/app:v1 not found":                              "manifest for reg/app:v1 not found",
	} {
		if got := Redact(errors.New(in)); got != want || strings.Contains(got, "canary") {
			t.Errorf("%s\n became %s", in, got)
		}
	}
	if got := Redact(errors.Join(status.Error(codes.Unknown, "one"), errors.New("two"))); got != "one; two" {
		t.Errorf("got %s", got)
	}
}

func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{"nginx": "nginx:latest", "nginx:1": "nginx:1", "reg:5000/a": "reg:5000/a:latest"} {
		if got, err := Normalize(in); got != want || err != nil {
			t.Errorf("%s: %s %v", in, got, err)
		}
	}
	if _, err := Normalize("UPPER/Case"); err == nil {
		t.Error("a name that is none was taken")
	}
}

func TestVictims(t *testing.T) {
	now := time.Unix(1e9, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	list := []Candidate{
		{ID: "young", Size: 100, First: ago(time.Minute), Last: ago(time.Minute)},
		{ID: "recent", Size: 100, First: ago(time.Hour), Last: ago(30 * time.Minute)},
		{ID: "oldest", Size: 100, First: ago(time.Hour), Last: ago(50 * time.Minute)},
		{ID: "never", Size: 100, First: ago(time.Hour)},
	}
	var got []string
	for _, v := range Victims(list, 150, now) {
		got = append(got, v.ID)
	}
	if strings.Join(got, " ") != "never oldest" {
		t.Errorf("got %v", got)
	}
	if len(Victims(list, 0, now)) > 0 {
		t.Error("removed without need")
	}
}

func TestEnsure(t *testing.T) {
	r := hollow.New()
	var mu sync.Mutex
	var auths []string
	r.OnPull = func(_ context.Context, _ string, auth *runtimeapi.AuthConfig) error {
		mu.Lock()
		defer mu.Unlock()
		auths = append(auths, auth.GetUsername())
		if auth.GetUsername() != "right" {
			return errors.New("401")
		}
		return nil
	}
	socket := filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, socket) }()
	defer func() { cancel(); <-done }()
	c, err := cri.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, err = c.Version(ctx); err != nil; _, err = c.Version(ctx) {
	}
	var events []string
	p := NewPuller(c.Images, 1, time.Minute, func(string) {}, func(_ *v1.Pod, container, kind, reason, message string) {
		events = append(events, fmt.Sprint(container, " ", kind, " ", reason, " ", message))
	})
	secret := func(user string) v1.Secret {
		return v1.Secret{Type: v1.SecretTypeDockerConfigJson, Data: map[string][]byte{
			v1.DockerConfigJsonKey: []byte(`{"auths":{"reg.example":{"username":"` + user + `","password":"canary"}}}`),
		}}
	}
	spec := &v1.Container{Name: "c", Image: "reg.example/app:v1", ImagePullPolicy: v1.PullNever}
	fails := func(reason string, secrets ...v1.Secret) {
		t.Helper()
		var e *Error
		if _, err := p.Ensure(ctx, &v1.Pod{}, spec, secrets, nil); !errors.As(err, &e) || e.Reason != reason || strings.Contains(e.Message, "canary") {
			t.Errorf("got %v, want %s", err, reason)
		}
	}
	fails("ErrImageNeverPull")
	spec.ImagePullPolicy = v1.PullIfNotPresent
	fails("ErrImagePull")
	fails("ErrImagePull", secret("wrong"))
	if im, err := p.Ensure(ctx, &v1.Pod{}, spec, []v1.Secret{secret("wrong"), secret("right")}, nil); err != nil || im.RepoTags[0] != spec.Image {
		t.Errorf("got %v, %v", im, err)
	}
	pulls := len(auths)
	if _, err := p.Ensure(ctx, &v1.Pod{}, spec, nil, nil); err != nil || len(auths) != pulls {
		t.Errorf("pulled what is there: %v", err)
	}
	spec.Image = "Not A Name"
	fails("InvalidImageName")
	if all := strings.Join(events, "\n"); !strings.Contains(all, `Pulling image "reg.example/app:v1"`) || strings.Contains(all, "canary") {
		t.Error(all)
	}
}
