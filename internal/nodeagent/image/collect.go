package image

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Thresholds of disk use in percent, and the least age of an image that is removed: kubelet's.
const (
	usageHigh = 85
	usageLow  = 80
	leastAge  = 2 * time.Minute
)

// Collector removes unused images when the disk that holds them fills.
type Collector struct {
	images  runtimeapi.ImageServiceClient
	runtime runtimeapi.RuntimeServiceClient

	mu    sync.Mutex
	first map[string]time.Time // when an image was seen first
	last  map[string]time.Time // when it was in use last
}

// NewCollector returns a collector over the two services of a runtime.
func NewCollector(images runtimeapi.ImageServiceClient, runtime runtimeapi.RuntimeServiceClient) *Collector {
	return &Collector{images: images, runtime: runtime, first: map[string]time.Time{}, last: map[string]time.Time{}}
}

// Used says that an image is about to be run.
func (c *Collector) Used(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[id] = time.Now()
}

// Candidate is an image that nothing runs from.
type Candidate struct {
	ID    string
	Size  uint64
	First time.Time
	Last  time.Time
}

// Victims chooses what to remove: the longest unused first, none younger than the least age, until enough is free.
func Victims(list []Candidate, toFree int64, now time.Time) []Candidate {
	sort.Slice(list, func(i, j int) bool {
		if !list[i].Last.Equal(list[j].Last) {
			return list[i].Last.Before(list[j].Last)
		}
		return list[i].First.Before(list[j].First)
	})
	var out []Candidate
	for _, v := range list {
		if toFree <= 0 {
			break
		}
		if now.Sub(v.First) < leastAge || now.Sub(v.Last) < leastAge {
			continue
		}
		out = append(out, v)
		toFree -= int64(v.Size)
	}
	return out
}

// Collect looks at the disk and removes images if it is too full. It returns how many it removed.
func (c *Collector) Collect(ctx context.Context) (int, error) {
	unused, err := c.unused(ctx)
	if err != nil {
		return 0, err
	}
	toFree, err := c.excess(ctx)
	if err != nil || toFree <= 0 {
		return 0, err
	}
	removed := 0
	for _, v := range Victims(unused, toFree, time.Now()) {
		if _, err := c.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: v.ID}}); err != nil {
			return removed, fmt.Errorf("remove image %s: %w", v.ID, err)
		}
		removed++
	}
	return removed, nil
}

// unused lists the images that no container was made from.
func (c *Collector) unused(ctx context.Context) ([]Candidate, error) {
	images, err := c.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	containers, err := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	used := map[string]bool{}
	for _, ct := range containers.Containers {
		used[ct.ImageRef], used[ct.ImageId], used[ct.Image.GetImage()] = true, true, true
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Candidate
	for _, im := range images.Images {
		if c.first[im.Id].IsZero() {
			c.first[im.Id] = now
		}
		busy := used[im.Id]
		for _, n := range append(append([]string{}, im.RepoTags...), im.RepoDigests...) {
			busy = busy || used[n]
		}
		if busy {
			c.last[im.Id] = now
			continue
		}
		if !im.Pinned {
			out = append(out, Candidate{ID: im.Id, Size: im.Size, First: c.first[im.Id], Last: c.last[im.Id]})
		}
	}
	return out, nil
}

// excess is how many bytes to free: down to the low threshold once the high one is passed.
func (c *Collector) excess(ctx context.Context) (int64, error) {
	r, err := c.images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return 0, fmt.Errorf("ask where images are: %w", err)
	}
	if len(r.ImageFilesystems) == 0 {
		return 0, nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(r.ImageFilesystems[0].FsId.GetMountpoint(), &fs); err != nil {
		return 0, nil // a runtime that only pretends has no disk
	}
	total, free := int64(fs.Blocks)*fs.Bsize, int64(fs.Bavail)*fs.Bsize
	if total == 0 || (total-free)*100/total < usageHigh {
		return 0, nil
	}
	return total*(100-usageLow)/100 - free, nil
}
