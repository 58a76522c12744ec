package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/volume/util/subpath"
	mount "k8s.io/mount-utils"

	"github.com/gitopsd/gitopsd/internal/nodeagent/downward"
)

// Objects gives the config maps and secrets of a pod.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
}

// Tokens gives service account tokens.
type Tokens interface {
	Token(ctx context.Context, pod *v1.Pod, p *v1.ServiceAccountTokenProjection) (string, error)
}

// Claims resolves a claim of a pod to its persistent volume.
type Claims interface {
	Volume(ctx context.Context, namespace, claim string) (*v1.PersistentVolume, error)
}

// Mounted is a volume ready to be mounted into containers.
type Mounted struct {
	Path     string // on the host
	ReadOnly bool
}

// Host is the volumes of all pods below one folder, pods/<uid> each.
type Host struct {
	root    string
	objects Objects
	tokens  Tokens
	claims  Claims
	subpath subpath.Interface

	mu    sync.Mutex
	locks map[types.UID]*sync.Mutex
}

// NewHost returns the volumes below root.
func NewHost(root string, o Objects, t Tokens, c Claims) *Host {
	return &Host{root: root, objects: o, tokens: t, claims: c, subpath: subpath.New(mount.New("")), locks: map[types.UID]*sync.Mutex{}}
}

// PodDir is the folder of one pod.
func (h *Host) PodDir(uid types.UID) string { return filepath.Join(h.root, string(uid)) }

func (h *Host) lock(uid types.UID) func() {
	h.mu.Lock()
	l := h.locks[uid]
	if l == nil {
		l = &sync.Mutex{}
		h.locks[uid] = l
	}
	h.mu.Unlock()
	l.Lock()
	return l.Unlock
}

// SetUp makes all volumes of the pod ready, or says for each what is wrong.
func (h *Host) SetUp(ctx context.Context, pod *v1.Pod, facts downward.Facts) (map[string]Mounted, error) {
	defer h.lock(pod.UID)()
	if err := os.MkdirAll(h.PodDir(pod.UID), 0o750); err != nil {
		return nil, fmt.Errorf("make pod folder: %w", err)
	}
	out := map[string]Mounted{}
	var errs []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		m, err := h.setUp(ctx, pod, v, facts)
		if err != nil {
			errs = append(errs, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err))
			continue
		}
		out[v.Name] = m
	}
	return out, errors.Join(errs...)
}

// Refresh writes the files again that come from objects, where they changed.
func (h *Host) Refresh(ctx context.Context, pod *v1.Pod, facts downward.Facts) error {
	defer h.lock(pod.UID)()
	var errs []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if !fromObjects(v) {
			continue
		}
		if _, err := os.Stat(h.dir(pod, v)); err != nil {
			continue
		}
		if err := h.writeFiles(ctx, pod, v, facts); err != nil {
			errs = append(errs, fmt.Errorf("refresh volume %s: %w", v.Name, err))
		}
	}
	return errors.Join(errs...)
}

func fromObjects(v *v1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

func (h *Host) setUp(ctx context.Context, pod *v1.Pod, v *v1.Volume, facts downward.Facts) (Mounted, error) {
	switch {
	case fromObjects(v):
		if err := h.makeDir(pod, v); err != nil {
			return Mounted{}, err
		}
		return Mounted{Path: h.dir(pod, v), ReadOnly: true}, h.writeFiles(ctx, pod, v, facts)
	case v.EmptyDir != nil:
		return h.emptyDir(pod, v, facts)
	case v.HostPath != nil:
		return Mounted{Path: v.HostPath.Path}, checkHostPath(v.HostPath)
	case v.PersistentVolumeClaim != nil:
		return h.claim(ctx, pod, v.PersistentVolumeClaim.ClaimName, v.PersistentVolumeClaim.ReadOnly)
	case v.Ephemeral != nil:
		return h.claim(ctx, pod, pod.Name+"-"+v.Name, false)
	}
	return Mounted{}, errors.New("this node supports configMap, secret, projected, downwardAPI, emptyDir, hostPath and local persistent volumes only")
}

// claim resolves a claim to a path of this host.
func (h *Host) claim(ctx context.Context, pod *v1.Pod, name string, readOnly bool) (Mounted, error) {
	pv, err := h.claims.Volume(ctx, pod.Namespace, name)
	if err != nil {
		return Mounted{}, err
	}
	switch {
	case pv.Spec.HostPath != nil:
		return Mounted{Path: pv.Spec.HostPath.Path, ReadOnly: readOnly}, checkHostPath(pv.Spec.HostPath)
	case pv.Spec.Local != nil:
		dir := v1.HostPathDirectory
		m := Mounted{Path: pv.Spec.Local.Path, ReadOnly: readOnly}
		if err := checkHostPath(&v1.HostPathVolumeSource{Path: m.Path, Type: &dir}); err != nil {
			return Mounted{}, err
		}
		return m, h.own(m.Path, pod, 0o660, 0o110)
	}
	return Mounted{}, fmt.Errorf("persistent volume %s is of a kind this node does not support: use hostPath or local", pv.Name)
}

// dir is where kubelet, too, would put the volume.
func (h *Host) dir(pod *v1.Pod, v *v1.Volume) string {
	return filepath.Join(h.PodDir(pod.UID), "volumes", plugin(v), v.Name)
}

func plugin(v *v1.Volume) string {
	switch {
	case v.ConfigMap != nil:
		return "kubernetes.io~configmap"
	case v.Secret != nil:
		return "kubernetes.io~secret"
	case v.DownwardAPI != nil:
		return "kubernetes.io~downward-api"
	case v.Projected != nil:
		return "kubernetes.io~projected"
	}
	return "kubernetes.io~empty-dir"
}
