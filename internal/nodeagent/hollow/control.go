package hollow

import (
	"context"
	"fmt"
	"hash/fnv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Exit ends the running container of that name, as if its process had.
func (r *Runtime) Exit(name string, code int32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if c.config.Metadata.Name == name && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			r.end(c, code, "Error")
			return true
		}
	}
	return false
}

// KillSandbox has the sandbox of a pod die, and its containers with it.
func (r *Runtime) KillSandbox(pod string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sandboxes {
		if s.config.Metadata.Name == pod && s.ready {
			s.ready, s.ip = false, ""
			r.tell(s, "")
		}
	}
}

// Container returns the configuration of the newest container of that name.
func (r *Runtime) Container(name string) *runtimeapi.ContainerConfig {
	r.mu.Lock()
	defer r.mu.Unlock()
	var newest *container
	for _, c := range r.containers {
		if c.config.Metadata.Name == name && (newest == nil || c.status.CreatedAt > newest.status.CreatedAt) {
			newest = c
		}
	}
	if newest == nil {
		return nil
	}
	return newest.config
}

// Empty says that nothing is left.
func (r *Runtime) Empty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sandboxes)+len(r.containers) == 0
}

// AddImage has an image there without pulling.
func (r *Runtime) AddImage(image *runtimeapi.Image) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[image.Id] = image
}

// tell sends an event to those who listen; mu is held. Who does not keep up loses events, as with real runtimes.
func (r *Runtime) tell(s *sandbox, id string) {
	if s == nil {
		return
	}
	e := &runtimeapi.ContainerEventResponse{ContainerId: id, PodSandboxStatus: s.status()}
	for w := range r.watchers {
		select {
		case w <- e:
		default:
		}
	}
}

// GetContainerEvents streams what happens.
func (r *Runtime) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream runtimeapi.RuntimeService_GetContainerEventsServer) error {
	w := make(chan *runtimeapi.ContainerEventResponse, 1000)
	r.mu.Lock()
	r.watchers[w] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.watchers, w)
		r.mu.Unlock()
	}()
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case e := <-w:
			if err := stream.Send(e); err != nil {
				return fmt.Errorf("send event: %w", err)
			}
		}
	}
}

// ImageStatus finds an image by name or ID.
func (r *Runtime) ImageStatus(_ context.Context, q *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &runtimeapi.ImageStatusResponse{Image: r.find(q.Image.GetImage())}, nil
}

func (r *Runtime) find(name string) *runtimeapi.Image {
	for _, im := range r.images {
		if im.Id == name {
			return im
		}
		for _, t := range im.RepoTags {
			if t == name {
				return im
			}
		}
	}
	return nil
}

// PullImage makes an image up, if OnPull lets it.
func (r *Runtime) PullImage(ctx context.Context, q *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	name := q.Image.GetImage()
	if r.OnPull != nil {
		if err := r.OnPull(ctx, name, q.Auth); err != nil {
			return nil, status.Error(codes.Unknown, err.Error())
		}
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	im := &runtimeapi.Image{Id: fmt.Sprintf("sha256:%016x", h.Sum64()), RepoTags: []string{name}, Size: 1 << 20}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[im.Id] = im
	r.calls = append(r.calls, "pull "+name)
	return &runtimeapi.PullImageResponse{ImageRef: im.Id}, nil
}

// ListImages lists all.
func (r *Runtime) ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListImagesResponse{}
	for _, im := range r.images {
		out.Images = append(out.Images, im)
	}
	return out, nil
}

// RemoveImage forgets an image.
func (r *Runtime) RemoveImage(_ context.Context, q *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if im := r.find(q.Image.GetImage()); im != nil {
		delete(r.images, im.Id)
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// ImageFsInfo names no disk.
func (r *Runtime) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{}, nil
}
