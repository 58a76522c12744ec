package podspec

import (
	"fmt"
	"path/filepath"
	"strconv"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/gitopsd/gitopsd/internal/nodeagent/cri"
	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
)

// Container is what one container is made of.
type Container struct {
	Pod           *v1.Pod
	Spec          *v1.Container
	Attempt       uint32
	Image         *runtimeapi.Image // as the runtime has it
	Env           []*runtimeapi.KeyValue
	Mounts        []*runtimeapi.Mount
	MessageFile   string // on the host; mounted at terminationMessagePath
	MachineMemory int64
	TargetID      string // the container whose processes a debug container shares
}

// Config configures one container.
func (in Container) Config() (*runtimeapi.ContainerConfig, error) {
	pod, c := in.Pod, in.Spec
	user, err := ImageUser(in.Image)
	if err != nil {
		return nil, err
	}
	security, err := containerSecurity(pod, c, user, in.TargetID)
	if err != nil {
		return nil, err
	}
	mounts := in.Mounts
	if in.MessageFile != "" {
		mounts = append(mounts, &runtimeapi.Mount{HostPath: in.MessageFile, ContainerPath: c.TerminationMessagePath})
	}
	out := &runtimeapi.ContainerConfig{
		Metadata:   &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: in.Attempt},
		Image:      &runtimeapi.ImageSpec{Image: in.Image.Id, UserSpecifiedImage: c.Image},
		Command:    Expand(c.Command, in.Env),
		Args:       Expand(c.Args, in.Env),
		WorkingDir: c.WorkingDir,
		Envs:       in.Env,
		Mounts:     mounts,
		LogPath:    LogPath(c.Name, in.Attempt),
		Stdin:      c.Stdin,
		StdinOnce:  c.StdinOnce,
		Tty:        c.TTY,
		Labels: map[string]string{
			cri.LabelPodName: pod.Name, cri.LabelPodNamespace: pod.Namespace, cri.LabelPodUID: string(pod.UID), cri.LabelContainerName: c.Name,
		},
		Annotations: map[string]string{
			cri.AnnotationHash:          lifecycle.SpecHash(c),
			cri.AnnotationRestartCount:  strconv.FormatUint(uint64(in.Attempt), 10),
			cri.AnnotationMessagePath:   c.TerminationMessagePath,
			cri.AnnotationMessagePolicy: string(c.TerminationMessagePolicy),
		},
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources:       containerResources(pod, c, in.MachineMemory),
			SecurityContext: security,
		},
	}
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		out.Annotations[cri.AnnotationPodGrace] = itoa(*g)
	}
	if l := c.Lifecycle; l != nil && l.StopSignal != nil {
		if n, ok := runtimeapi.Signal_value[string(*l.StopSignal)]; ok {
			out.StopSignal = runtimeapi.Signal(n)
		}
	}
	return out, nil
}

// LogPath is where a container logs, below the pod's log folder.
func LogPath(container string, attempt uint32) string {
	return filepath.Join(container, fmt.Sprintf("%d.log", attempt))
}

// Mount is one volume mount of a container.
func Mount(m *v1.VolumeMount, hostPath string, readOnly bool) *runtimeapi.Mount {
	out := &runtimeapi.Mount{ContainerPath: m.MountPath, HostPath: hostPath, Readonly: m.ReadOnly || readOnly}
	if !filepath.IsAbs(out.ContainerPath) {
		out.ContainerPath = "/" + out.ContainerPath
	}
	if m.MountPropagation != nil {
		switch *m.MountPropagation {
		case v1.MountPropagationHostToContainer:
			out.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		case v1.MountPropagationBidirectional:
			out.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
		}
	}
	if r := m.RecursiveReadOnly; r != nil && *r == v1.RecursiveReadOnlyEnabled && m.ReadOnly {
		out.RecursiveReadOnly = true
	}
	return out
}
