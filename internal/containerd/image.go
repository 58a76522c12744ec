package containerd

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/gitopsd/gitopsd/internal/bundle"
)

const (
	criNamespace  = "k8s.io" // where the CRI plugin keeps its images
	snapshotter   = "overlayfs"
	pinnedLabel   = "io.cri-containerd.pinned"
	managedLabel  = "io.cri-containerd.image"
	importedNames = "imported" // the repository of an image whose archive gives only a tag
	noticeWait    = 10 * time.Second
)

// LoadImages imports an OCI or docker archive (also compressed) and returns the references of its images, sorted. When it
// returns, pods can use them.
func (c Config) LoadImages(ctx context.Context, r io.Reader) ([]string, error) {
	archive, err := decompress(r)
	if err != nil {
		return nil, fmt.Errorf("load images: %w", err)
	}
	defer archive.Close()
	return c.load(ctx, archive, nil)
}

// decompress reads through gzip or zstd, when the first bytes say so.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReader(r)
	head, err := b.Peek(4)
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(b)
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b)
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case errors.Is(err, io.EOF):
		return nil, errors.New("the archive is empty")
	}
	return io.NopCloser(b), err
}

func (c Config) load(ctx context.Context, r io.Reader, labels map[string]string) ([]string, error) {
	client, err := containerd.New(c.Socket(), containerd.WithDefaultNamespace(criNamespace), containerd.WithTimeout(readyWait))
	if err != nil {
		return nil, fmt.Errorf("load images: %w", err)
	}
	defer client.Close()
	imported, err := client.Import(ctx, r,
		containerd.WithImageRefTranslator(archive.AddRefPrefix(importedNames)),
		containerd.WithImportPlatform(platforms.Default()),
		containerd.WithImageLabels(labels),
		containerd.WithSkipMissing())
	if err != nil {
		return nil, fmt.Errorf("load images: %w", err)
	}
	refs := make([]string, 0, len(imported))
	for _, img := range imported {
		if err := c.unpack(ctx, client, img); err != nil {
			return nil, fmt.Errorf("load image %s: %w", img.Name, err)
		}
		refs = append(refs, img.Name)
	}
	if len(refs) == 0 {
		return nil, errors.New("load images: the archive names no image: tag it before saving")
	}
	slices.Sort(refs)
	return refs, c.awaitNoticed(ctx, refs)
}

func (c Config) unpack(ctx context.Context, client *containerd.Client, img images.Image) error {
	return containerd.NewImageWithPlatform(client, img, platforms.Default()).Unpack(ctx, snapshotter)
}

// awaitNoticed waits until the CRI plugin, which learns of new images by events, knows refs.
func (c Config) awaitNoticed(ctx context.Context, refs []string) error {
	ctx, cancel := context.WithTimeout(ctx, noticeWait)
	defer cancel()
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	service := cri.NewImageServiceClient(conn)
	for _, ref := range refs {
		for {
			res, err := service.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}})
			if err == nil && res.Image != nil {
				break
			}
			if !sleep(ctx, 5*time.Millisecond) {
				return fmt.Errorf("load image %s: the runtime does not take notice of it: %w", ref, errors.Join(ctx.Err(), err))
			}
		}
	}
	return nil
}

// ensurePause makes the sandbox image from the pause program when it is not there yet: no registry is asked.
func (c Config) ensurePause(ctx context.Context) error {
	ref, err := c.PauseImage()
	if err != nil {
		return err
	}
	client, err := containerd.New(c.Socket(), containerd.WithDefaultNamespace(criNamespace), containerd.WithTimeout(readyWait))
	if err != nil {
		return fmt.Errorf("look for pause image: %w", err)
	}
	defer client.Close()
	img, err := client.GetImage(ctx, ref)
	if err == nil {
		if unpacked, err := img.IsUnpacked(ctx, snapshotter); err == nil && unpacked {
			return nil
		}
	} else if !errdefs.IsNotFound(err) {
		return fmt.Errorf("look for pause image: %w", err)
	}
	archive, err := pauseArchive(c.Programs.Path(bundle.Pause), ref)
	if err != nil {
		return fmt.Errorf("make pause image: %w", err)
	}
	_, err = c.load(ctx, archive, map[string]string{managedLabel: "managed", pinnedLabel: "pinned"})
	return err
}

// pauseArchive returns a docker archive of an image that holds the pause program and nothing else.
func pauseArchive(program, ref string) (io.Reader, error) {
	data, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "pause", Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{Entrypoint: []string{"/pause"}, WorkingDir: "/", User: "65535:65535"}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return nil, err
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	return &out, tarball.Write(tag, img, &out)
}
