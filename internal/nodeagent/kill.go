package nodeagent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"

	"github.com/gitopsd/gitopsd/internal/nodeagent/cri"
	"github.com/gitopsd/gitopsd/internal/nodeagent/lifecycle"
)

// mostDrained is how long a container's end waits at most for the rules of Services; never longer than half of its grace period.
const mostDrained = 5 * time.Second

// leastStop is what a container gets to react to SIGTERM even if its preStop hook used up the grace period.
const leastStop = 2 * time.Second

// hookClient sends the requests of hooks; as for probes, certificates are not verified.
var hookClient = &http.Client{Transport: &http.Transport{
	TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
}}

// killContainer runs the preStop hook and stops the container, both within the grace period. Where the pod is deleted, that begins when no Service leads to
// it any more: what listens may stop listening at the first sign.
func (j *job) killContainer(ctx context.Context) error {
	a, act := j.agent, j.action
	if act.Message != "" {
		a.events.container(j.pod, act.Container, v1.EventTypeNormal, "Killing", act.Message)
	}
	deadline := time.Now().Add(act.Grace)
	if j.pod.DeletionTimestamp != nil && act.Reason == "" {
		drain, cancel := context.WithTimeout(ctx, min(mostDrained, act.Grace/2))
		if err := a.cfg.Drain(drain, j.pod.UID); err != nil && ctx.Err() == nil {
			a.cfg.Log.Info("a pod is stopped while Services still lead to it", "pod", j.pod.Namespace+"/"+j.pod.Name, "container", act.Container)
		}
		cancel()
	}
	c := lifecycle.ContainerSpec(j.pod, act.Container)
	if c != nil && c.Lifecycle != nil && c.Lifecycle.PreStop != nil && act.Reason != lifecycle.KillUnknown {
		hook, cancel := context.WithDeadline(ctx, deadline)
		err := j.hook(hook, c, cri.RawID(act.ID), c.Lifecycle.PreStop)
		cancel()
		if err != nil && ctx.Err() == nil {
			a.events.container(j.pod, c.Name, v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
			a.cfg.Log.Info("preStop hook failed", "pod", j.pod.Namespace+"/"+j.pod.Name, "container", c.Name, "error", err)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	grace := max(time.Until(deadline), leastStop)
	ctx, cancel := context.WithTimeout(ctx, grace+runtimeTimeout)
	defer cancel()
	seconds := int64((grace + time.Second/2) / time.Second)
	_, err := a.cri.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: cri.RawID(act.ID), Timeout: seconds})
	if err != nil && !cri.IsNotFound(err) {
		return fmt.Errorf("stop container %s: %w", act.ID, err)
	}
	return nil
}

// postStart runs the container's postStart hook, for as long as the hook likes. A container whose hook fails is killed;
// one whose pod ends meanwhile is left to the end of the pod.
func (j *job) postStart(ctx context.Context, c *v1.Container, id string) error {
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return nil
	}
	err := j.hook(ctx, c, id, c.Lifecycle.PostStart)
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	a := j.agent
	a.events.container(j.pod, c.Name, v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
	a.events.container(j.pod, c.Name, v1.EventTypeNormal, "Killing", "FailedPostStartHook")
	grace := int64(v1.DefaultTerminationGracePeriodSeconds)
	if g := j.pod.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = *g
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(grace)*time.Second+runtimeTimeout)
	defer cancel()
	if _, stopErr := a.cri.Runtime.StopContainer(stopCtx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: grace}); stopErr != nil {
		err = errors.Join(err, stopErr)
	}
	return &startError{lifecycle.ReasonPostStartError, err.Error()}
}

// hook carries one lifecycle handler out.
func (j *job) hook(ctx context.Context, c *v1.Container, id string, h *v1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		output, code, err := j.agent.exec(ctx, id, h.Exec.Command, 0)
		if err != nil {
			return fmt.Errorf("run hook in container %s: %w", c.Name, err)
		}
		if code != 0 {
			return fmt.Errorf("hook in container %s exited with %d: %s", c.Name, code, output)
		}
		return nil
	case h.Sleep != nil:
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
			return nil
		}
	case h.HTTPGet != nil:
		ips := j.agent.facts(j.pod, j.observed).PodIPs
		if len(ips) == 0 {
			return errors.New("pod has no address to send the hook's request to")
		}
		req, err := httpprobe.NewRequestForHTTPGetAction(h.HTTPGet, c, ips[0], "lifecycle")
		if err != nil {
			return fmt.Errorf("make hook request: %w", err)
		}
		resp, err := hookClient.Do(req.WithContext(ctx))
		if err != nil {
			return fmt.Errorf("send hook request: %w", err)
		}
		defer resp.Body.Close()
		if resp.StatusCode >= http.StatusBadRequest {
			return fmt.Errorf("hook request to %s got %s", req.URL.Host, resp.Status)
		}
		return nil
	}
	return errors.New("hook has no handler")
}

// exec runs a command to its end; a timeout of zero is unbounded.
func (a *agent) exec(ctx context.Context, id string, command []string, timeout time.Duration) (string, int32, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout+5*time.Second) // the runtime ends it first
		defer cancel()
	}
	r, err := a.cri.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{
		ContainerId: cri.RawID(id), Cmd: command, Timeout: int64(timeout / time.Second),
	})
	if err != nil {
		return "", 0, err
	}
	return string(r.Stdout) + string(r.Stderr), r.ExitCode, nil
}
