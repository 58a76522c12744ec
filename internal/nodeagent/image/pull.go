// Package image brings container images to the node by their pull policy, with the pull secrets of their pods, a few
// at a time, and removes the unused ones when the disk fills. Errors tell the registry's reason and never a credential.
package image

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/credentialprovider"
	"k8s.io/kubernetes/pkg/credentialprovider/secrets"

	"google.golang.org/grpc/status"
)

// Error says why an image is not there; Reason is one of the waiting reasons of Kubernetes.
type Error struct {
	Reason  string
	Message string
}

func (e *Error) Error() string { return e.Reason + ": " + e.Message }

// Puller ensures images.
type Puller struct {
	images   runtimeapi.ImageServiceClient
	slots    chan struct{}
	deadline time.Duration
	used     func(id string)
	event    func(pod *v1.Pod, container, kind, reason, message string)
}

// NewPuller pulls at most parallel images at once, each within deadline. Used is told of each image that is about to
// run; event speaks to the pod's events.
func NewPuller(images runtimeapi.ImageServiceClient, parallel int, deadline time.Duration, used func(id string),
	event func(pod *v1.Pod, container, kind, reason, message string)) *Puller {
	return &Puller{images: images, slots: make(chan struct{}, parallel), deadline: deadline, used: used, event: event}
}

// Ensure has the image on the node, as the container's pull policy asks, and returns it.
func (p *Puller) Ensure(ctx context.Context, pod *v1.Pod, c *v1.Container, pullSecrets []v1.Secret, sandbox *runtimeapi.PodSandboxConfig) (*runtimeapi.Image, error) {
	name, err := Normalize(c.Image)
	if err != nil {
		message := fmt.Sprintf("Failed to apply default image tag %q: %v", c.Image, err)
		p.event(pod, c.Name, v1.EventTypeWarning, "InspectFailed", message)
		return nil, &Error{"InvalidImageName", message}
	}
	spec := &runtimeapi.ImageSpec{Image: name}
	have, err := p.status(ctx, spec)
	if err != nil {
		return nil, &Error{"ImageInspectError", fmt.Sprintf("Failed to inspect image %q: %s", c.Image, Redact(err))}
	}
	switch {
	case have != nil && c.ImagePullPolicy != v1.PullAlways:
		p.event(pod, c.Name, v1.EventTypeNormal, "Pulled",
			fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", c.Image))
		p.used(have.Id)
		return have, nil
	case have == nil && c.ImagePullPolicy == v1.PullNever:
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
		p.event(pod, c.Name, v1.EventTypeWarning, "ErrImageNeverPull", message)
		return nil, &Error{"ErrImageNeverPull", message}
	}
	if err := p.pull(ctx, pod, c, spec, pullSecrets, sandbox); err != nil {
		return nil, err
	}
	have, err = p.status(ctx, spec)
	if err != nil || have == nil {
		return nil, &Error{"ErrImagePull", fmt.Sprintf("image %q was pulled but cannot be found: %s", c.Image, Redact(err))}
	}
	p.used(have.Id)
	return have, nil
}

func (p *Puller) status(ctx context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	r, err := p.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil {
		return nil, err
	}
	return r.Image, nil
}

func (p *Puller) pull(ctx context.Context, pod *v1.Pod, c *v1.Container, spec *runtimeapi.ImageSpec, pullSecrets []v1.Secret, sandbox *runtimeapi.PodSandboxConfig) error {
	began := time.Now()
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	p.event(pod, c.Name, v1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", c.Image))
	pulling := time.Now()
	ctx, cancel := context.WithTimeout(ctx, p.deadline)
	defer cancel()
	var errs []error
	for _, auth := range credentials(spec.Image, pullSecrets) {
		r, err := p.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec, Auth: auth, SandboxConfig: sandbox})
		if err == nil {
			size := uint64(0)
			if im, _ := p.status(ctx, &runtimeapi.ImageSpec{Image: r.ImageRef}); im != nil {
				size = im.Size
			}
			p.event(pod, c.Name, v1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %s (%s including waiting). Image size: %d bytes.",
				c.Image, time.Since(pulling).Truncate(time.Millisecond), time.Since(began).Truncate(time.Millisecond), size))
			return nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	text := Redact(errors.Join(errs...))
	p.event(pod, c.Name, v1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %s", c.Image, text))
	p.event(pod, c.Name, v1.EventTypeWarning, "Failed", "Error: ErrImagePull")
	return &Error{"ErrImagePull", text}
}

// credentials lists what to try: the matching pull secrets, else none.
func credentials(image string, pullSecrets []v1.Secret) []*runtimeapi.AuthConfig {
	keyring, err := secrets.MakeDockerKeyring(pullSecrets, &credentialprovider.BasicDockerKeyring{})
	if err != nil {
		return []*runtimeapi.AuthConfig{nil}
	}
	found, ok := keyring.Lookup(image)
	if !ok {
		return []*runtimeapi.AuthConfig{nil}
	}
	var out []*runtimeapi.AuthConfig
	for _, f := range found {
		out = append(out, &runtimeapi.AuthConfig{
			Username: f.Username, Password: f.Password, Auth: f.Auth, ServerAddress: f.ServerAddress,
			IdentityToken: f.IdentityToken, RegistryToken: f.RegistryToken,
		})
	}
	return out
}

// Normalize gives an image name its tag: nginx → nginx:latest.
func Normalize(image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", fmt.Errorf("couldn't parse image name %q: %w", image, err)
	}
	if reference.IsNameOnly(named) {
		return image + ":latest", nil
	}
	return image, nil
}

var (
	urls    = regexp.MustCompile(`[a-zA-Z][a-zA-Z0-9+.-]*://[^\s"']+`)
	headers = regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}`)
	params  = regexp.MustCompile(`(?i)\b((?:access_|refresh_|identity)?token|password|passwd|secret|sig|signature|x-amz-[a-z-]+)=([^&\s"']+)`)
)

// Redact is the text of an error without passwords in URLs, tokens and signatures.
func Redact(err error) string {
	if err == nil {
		return "no reason given"
	}
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		var parts []string
		for _, e := range list.Unwrap() {
			parts = append(parts, Redact(e))
		}
		return strings.Join(parts, "; ")
	}
	text := err.Error()
	if s, ok := status.FromError(err); ok {
		text = s.Message()
	}
	return RedactText(text)
}

// RedactText does what Redact does to a text.
func RedactText(text string) string {
	text = urls.ReplaceAllStringFunc(text, func(raw string) string {
		u, err := url.Parse(raw)
		if err != nil || u.User == nil {
			return raw
		}
		u.User = nil
		return u.String()
	})
	text = headers.ReplaceAllString(text, "$1 [redacted]")
	text = params.ReplaceAllString(text, "$1=[redacted]")
	return strings.TrimSpace(text)
}
