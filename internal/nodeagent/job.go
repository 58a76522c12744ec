package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/gitopsd/gitopsd/internal/nodeagent/cri"
	"github.com/gitopsd/gitopsd/internal/nodeagent/image"
	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
	"github.com/gitopsd/gitopsd/internal/nodeagent/podspec"
	"github.com/gitopsd/gitopsd/internal/nodeagent/volume"
)

// Deadlines of calls to the runtime.
const (
	sandboxTimeout = 4 * time.Minute
	runtimeTimeout = 2 * time.Minute
)

// job is one action with all that it needs, taken when it begins; it shares nothing with the worker.
type job struct {
	agent    *agent
	pod      *v1.Pod
	action   lifecycle.Action
	observed lifecycle.Runtime
	volumes  map[string]volume.Mounted
	status   v1.PodStatus
}

func (w *worker) job(pod *v1.Pod, a lifecycle.Action) *job {
	return &job{agent: w.agent, pod: pod, action: a, observed: w.observed, volumes: w.volumes, status: *w.mem.Last}
}

// do carries the action out.
func (j *job) do(ctx context.Context) result {
	var r result
	switch j.action.Kind {
	case lifecycle.MountVolumes:
		r.volumes, r.err = j.mountVolumes(ctx)
	case lifecycle.CreateSandbox:
		r.err = j.createSandbox(ctx)
	case lifecycle.StopSandbox:
		r.err = j.stopSandbox(ctx)
	case lifecycle.StartContainer:
		r.err = j.startContainer(ctx)
	case lifecycle.KillContainer:
		r.err = j.killContainer(ctx)
	case lifecycle.TearDown:
		r.err = j.tearDown()
	case lifecycle.DeletePod:
		r.err = j.deletePod(ctx)
	case lifecycle.Forget:
		r.err = j.forget(ctx)
	}
	return r
}

func (j *job) mountVolumes(ctx context.Context) (map[string]volume.Mounted, error) {
	a := j.agent
	ctx, cancel := context.WithTimeout(ctx, runtimeTimeout)
	defer cancel()
	mounted, err := a.volumes.SetUp(ctx, j.pod, a.facts(j.pod, j.observed))
	if err != nil && ctx.Err() == nil {
		a.events.pod(j.pod, v1.EventTypeWarning, "FailedMount", err.Error())
	}
	return mounted, err
}

func (j *job) createSandbox(ctx context.Context) error {
	a := j.agent
	ctx, cancel := context.WithTimeout(ctx, sandboxTimeout)
	defer cancel()
	if len(j.observed.Sandboxes) > 0 {
		a.events.pod(j.pod, v1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	if why := a.network.Load(); why != nil && *why != "" && !j.pod.Spec.HostNetwork {
		a.events.pod(j.pod, v1.EventTypeWarning, "NetworkNotReady", "network is not ready: container runtime network not ready: "+*why)
		return errors.New("network is not ready: container runtime network not ready: " + *why)
	}
	err := func() error {
		if a.cgroups != nil {
			if err := a.cgroups.Make(j.pod, podspec.PodResources(j.pod)); err != nil {
				return err
			}
		}
		config, err := j.sandboxConfig(j.action.Attempt)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
			return fmt.Errorf("make log folder: %w", err)
		}
		_, err = a.cri.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
		return err
	}()
	if err != nil && ctx.Err() == nil && !cri.IsUnavailable(err) {
		a.events.pod(j.pod, v1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+image.Redact(err))
	}
	return err
}

func (j *job) sandboxConfig(attempt uint32) (*runtimeapi.PodSandboxConfig, error) {
	parent := ""
	if j.agent.cgroups != nil {
		parent = j.agent.cgroups.Path(j.pod)
	}
	return j.agent.node.Sandbox(j.pod, attempt, parent)
}

func (j *job) stopSandbox(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, runtimeTimeout)
	defer cancel()
	_, err := j.agent.cri.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: j.action.ID})
	if err != nil && !cri.IsNotFound(err) {
		return fmt.Errorf("stop sandbox %s: %w", j.action.ID, err)
	}
	return nil
}

func (j *job) tearDown() error {
	a := j.agent
	if err := a.volumes.TearDown(j.pod.UID); err != nil {
		return err
	}
	if a.cgroups != nil {
		return a.cgroups.Remove(j.pod.UID)
	}
	return nil
}

// deletePod writes the last status and has the API drop the object, if it is still this pod.
func (j *job) deletePod(ctx context.Context) error {
	a := j.agent
	ctx, cancel := context.WithTimeout(ctx, runtimeTimeout)
	defer cancel()
	if err := a.statuses.write(ctx, j.pod, j.status); err != nil {
		return err
	}
	now := int64(0)
	uid := j.pod.UID
	err := a.cfg.Client.CoreV1().Pods(j.pod.Namespace).Delete(ctx, j.pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &uid},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s/%s: %w", j.pod.Namespace, j.pod.Name, err)
	}
	return nil
}

// forget removes containers, sandboxes and logs of a pod that the API no longer has.
func (j *job) forget(ctx context.Context) error {
	a := j.agent
	ctx, cancel := context.WithTimeout(ctx, runtimeTimeout)
	defer cancel()
	var errs []error
	for _, c := range j.observed.Containers {
		errs = append(errs, a.removeContainer(ctx, c.ID))
	}
	for _, s := range j.observed.Sandboxes {
		errs = append(errs, a.removeSandbox(ctx, s.ID))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.RemoveAll(a.node.LogDir(j.pod)); err != nil {
		return fmt.Errorf("remove logs: %w", err)
	}
	a.statuses.forget(j.pod.UID)
	return a.volumes.Remove(j.pod.UID)
}

func (a *agent) removeContainer(ctx context.Context, id string) error {
	_, err := a.cri.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: cri.RawID(id)})
	if err != nil && !cri.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}

func (a *agent) removeSandbox(ctx context.Context, id string) error {
	_, err := a.cri.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	if err != nil && !cri.IsNotFound(err) {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	return nil
}

// released drops what the agent kept for a pod that uses nothing any more.
func (a *agent) released(uid types.UID) {
	a.objects.Use(uid, nil)
	a.tokens.Forget(uid)
	a.probes.Forget(uid)
}
