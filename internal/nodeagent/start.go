package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/gitopsd/gitopsd/internal/nodeagent/cri"
	"github.com/gitopsd/gitopsd/internal/nodeagent/downward"
	"github.com/gitopsd/gitopsd/internal/nodeagent/image"
	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
	"github.com/gitopsd/gitopsd/internal/nodeagent/podspec"
)

// startError is why a container did not start, as its status shows it.
type startError struct{ reason, message string }

func (e *startError) Error() string { return e.reason + ": " + e.message }

// startContainer has the image, makes the container, starts it and runs its postStart hook.
func (j *job) startContainer(ctx context.Context) error {
	a := j.agent
	spec := lifecycle.ContainerSpec(j.pod, j.action.Container)
	if spec == nil {
		return &startError{lifecycle.ReasonCreateError, "container is not in the pod's definition"}
	}
	sandbox, err := j.sandboxConfig(j.attempt())
	if err != nil {
		return j.failed(spec, lifecycle.ReasonConfigError, err)
	}
	img, err := a.puller.Ensure(ctx, j.pod, spec, a.pullSecrets(ctx, j.pod), sandbox)
	if e := (*image.Error)(nil); errors.As(err, &e) {
		return &startError{e.Reason, e.Message}
	} else if err != nil {
		return err
	}
	config, done, err := j.containerConfig(ctx, spec, img)
	defer done()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return j.failed(spec, lifecycle.ReasonConfigError, err)
	}
	// This part is short, and half of it would be worse than all of it: a cancelled start goes on to its end here.
	whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), runtimeTimeout)
	defer cancel()
	id, err := j.create(whole, spec, config, sandbox)
	if err != nil {
		return err
	}
	if _, err := a.cri.Runtime.StartContainer(whole, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		return j.failed(spec, lifecycle.ReasonRunError, err)
	}
	a.events.container(j.pod, spec.Name, v1.EventTypeNormal, "Started", "Container started")
	return j.postStart(ctx, spec, id)
}

func (j *job) attempt() uint32 {
	for _, s := range j.observed.Sandboxes {
		if s.ID == j.action.SandboxID {
			return s.Attempt
		}
	}
	return 0
}

// create makes the container, in place of one that was made and never started.
func (j *job) create(ctx context.Context, spec *v1.Container, config *runtimeapi.ContainerConfig, sandbox *runtimeapi.PodSandboxConfig) (string, error) {
	a := j.agent
	for _, c := range j.observed.Containers {
		if c.Name == spec.Name && c.State == lifecycle.Created {
			if err := a.removeContainer(ctx, c.ID); err != nil {
				return "", j.failed(spec, lifecycle.ReasonCreateError, err)
			}
		}
	}
	r, err := a.cri.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: j.action.SandboxID, Config: config, SandboxConfig: sandbox,
	})
	if err != nil {
		return "", j.failed(spec, lifecycle.ReasonCreateError, err)
	}
	a.events.container(j.pod, spec.Name, v1.EventTypeNormal, "Created", "Container created")
	return r.ContainerId, nil
}

// failed makes the error for the status and tells it in an event.
func (j *job) failed(c *v1.Container, reason string, err error) error {
	if cri.IsUnavailable(err) {
		return err
	}
	message := image.Redact(err)
	j.agent.events.container(j.pod, c.Name, v1.EventTypeWarning, "Failed", "Error: "+message)
	return &startError{reason, message}
}

// facts are what the pod's containers may learn about themselves.
func (a *agent) facts(pod *v1.Pod, seen lifecycle.Runtime) downward.Facts {
	f := downward.Facts{HostIPs: a.cfg.NodeIPs, Allocatable: a.machine.Allocatable()}
	if pod.Spec.HostNetwork {
		f.PodIPs = a.cfg.NodeIPs
	} else if len(seen.Sandboxes) > 0 {
		f.PodIPs = seen.Sandboxes[0].IPs
	}
	return f
}

func (a *agent) pullSecrets(ctx context.Context, pod *v1.Pod) []v1.Secret {
	var out []v1.Secret
	for _, r := range pod.Spec.ImagePullSecrets {
		s, err := a.objects.Secret(ctx, pod.Namespace, r.Name)
		if err != nil {
			a.events.pod(pod, v1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", r.Name))
			continue
		}
		out = append(out, *s)
	}
	return out
}

// containerConfig resolves environment and mounts. Done must be called when the container was started or given up.
func (j *job) containerConfig(ctx context.Context, c *v1.Container, img *runtimeapi.Image) (*runtimeapi.ContainerConfig, func(), error) {
	a := j.agent
	var cleanups []func()
	done := func() {
		for _, f := range cleanups {
			f()
		}
	}
	facts := a.facts(j.pod, j.observed)
	env, err := podspec.Environment{Objects: a.objects, Services: a.listServices(), Facts: facts}.Of(ctx, j.pod, c)
	if err != nil {
		return nil, done, err
	}
	mounts, cleanups, err := j.mounts(c, env, facts)
	if err != nil {
		return nil, done, err
	}
	in := podspec.Container{
		Pod: j.pod, Spec: c, Attempt: j.action.Attempt, Image: img, Env: env, Mounts: mounts,
		MachineMemory: a.machine.Memory(),
	}
	if c.TerminationMessagePath != "" {
		if in.MessageFile, err = j.messageFile(c); err != nil {
			return nil, done, err
		}
	}
	for i := range j.pod.Spec.EphemeralContainers {
		if e := &j.pod.Spec.EphemeralContainers[i]; e.Name == c.Name && e.TargetContainerName != "" {
			for _, t := range j.observed.Containers {
				if t.Name == e.TargetContainerName && t.State == lifecycle.Running {
					in.TargetID = cri.RawID(t.ID)
				}
			}
		}
	}
	if err := os.MkdirAll(filepath.Join(a.node.LogDir(j.pod), c.Name), 0o755); err != nil {
		return nil, done, fmt.Errorf("make log folder: %w", err)
	}
	config, err := in.Config()
	return config, done, err
}

// mounts are the container's volume mounts and the managed /etc/hosts.
func (j *job) mounts(c *v1.Container, env []*runtimeapi.KeyValue, facts downward.Facts) (out []*runtimeapi.Mount, cleanups []func(), err error) {
	a := j.agent
	ownHosts := false
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		ownHosts = ownHosts || m.MountPath == "/etc/hosts"
		v, ok := j.volumes[m.Name]
		if !ok {
			return out, cleanups, fmt.Errorf("volume %q of container %q is not mounted", m.Name, c.Name)
		}
		path, sub := v.Path, m.SubPath
		if m.SubPathExpr != "" {
			if sub, err = podspec.ExpandStrict(m.SubPathExpr, env); err != nil {
				return out, cleanups, fmt.Errorf("expand subPathExpr of volume %q: %w", m.Name, err)
			}
		}
		if sub != "" {
			var done func()
			if path, done, err = a.volumes.SubPath(j.pod.UID, c.Name, i, m.Name, v, sub); err != nil {
				return out, cleanups, err
			}
			cleanups = append(cleanups, done)
		}
		out = append(out, podspec.Mount(m, path, v.ReadOnly))
	}
	if !ownHosts {
		hosts, err := j.hostsFile(facts.PodIPs)
		if err != nil {
			return out, cleanups, err
		}
		out = append(out, &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: hosts})
	}
	return out, cleanups, nil
}

// hostsFile writes the pod's /etc/hosts; all its containers share it.
func (j *job) hostsFile(ips []string) (string, error) {
	dir := j.agent.volumes.PodDir(j.pod.UID)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", fmt.Errorf("make pod folder: %w", err)
	}
	var host []byte
	if j.pod.Spec.HostNetwork {
		host, _ = os.ReadFile("/etc/hosts")
	}
	path := filepath.Join(dir, "etc-hosts")
	if err := os.WriteFile(path, j.agent.node.HostsFile(j.pod, ips, host), 0o644); err != nil {
		return "", fmt.Errorf("write hosts file: %w", err)
	}
	return path, nil
}

// messageFile makes the file in which the container leaves its last words; any user of it may write there.
func (j *job) messageFile(c *v1.Container) (string, error) {
	dir := filepath.Join(j.agent.volumes.PodDir(j.pod.UID), "containers", c.Name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", fmt.Errorf("make container folder: %w", err)
	}
	path := filepath.Join(dir, fmt.Sprintf("message-%d", j.action.Attempt))
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		return "", fmt.Errorf("make termination message file: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return "", fmt.Errorf("open termination message file: %w", err)
	}
	return path, nil
}
