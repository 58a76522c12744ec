package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	startRuns  = 5
	commitRuns = 7
	oneByOne   = 20
	atOnce     = 40
)

func programFigures() error {
	info, err := os.Stat(program)
	if err != nil {
		return fmt.Errorf("build it first, with make build: %w", err)
	}
	row("size of bin/gitopsd", fmt.Sprintf("%d MiB", info.Size()>>20), "")
	var times []time.Duration
	for range 21 {
		started := time.Now()
		if err := exec.Command(program, "version").Run(); err != nil {
			return err
		}
		times = append(times, time.Since(started))
	}
	spread("gitopsd version", times, "0.1 s")
	return nil
}

// startFigures starts the daemon on empty data directories, and on one that it knows.
func startFigures(ctx context.Context) error {
	var emptyAPI, emptyNode, usedAPI, usedNode []time.Duration
	for range startRuns {
		i, err := newInstance()
		if err != nil {
			return err
		}
		b, err := i.start(ctx)
		if err == nil {
			emptyAPI, emptyNode = append(emptyAPI, b.api), append(emptyNode, b.node)
			err = i.stop()
		}
		if err == nil {
			b, err = i.start(ctx)
		}
		if err == nil {
			usedAPI, usedNode = append(usedAPI, b.api), append(usedNode, b.node)
			err = i.stop()
		}
		i.remove()
		if err != nil {
			return err
		}
	}
	spread("empty data directory: start to API ready", emptyAPI, "5 s")
	spread("empty data directory: start to node Ready", emptyNode, "8 s")
	spread("used data directory: start to API ready", usedAPI, "4 s")
	spread("used data directory: start to node Ready", usedNode, "5 s")
	return nil
}

// idleFigures measures memory and processor time of a daemon that has nothing to do.
func idleFigures(ctx context.Context, i *instance, _ string) error {
	const settle, window = 40 * time.Second, 30 * time.Second
	if err := pause(ctx, settle); err != nil {
		return err
	}
	for name, pid := range map[string]int{"daemon": i.cmd.Process.Pid, "containerd": i.containerdPID()} {
		before := ticks(pid)
		if err := pause(ctx, window); err != nil {
			return err
		}
		cpu := float64(ticks(pid)-before) / window.Seconds() // 100 ticks a second: percent of a core
		rss, private := memory(pid)
		aim, cpuAim := "", ""
		if name == "daemon" {
			aim, cpuAim = "350 MiB", "5%"
		}
		row("idle "+name+": resident (private)", fmt.Sprintf("%d (%d) MiB", rss>>10, private>>10), aim)
		row("idle "+name+": processor, of one core", fmt.Sprintf("%.1f%%", cpu), cpuAim)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// ticks of processor time that a process has used, in hundredths of a second.
func ticks(pid int) int64 {
	stat := read(fmt.Sprintf("/proc/%d/stat", pid))
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	var user, system int64
	fmt.Sscan(f[11], &user)
	fmt.Sscan(f[12], &system)
	return user + system
}

// memory of a process in KiB: resident, and what of it no other process shares.
func memory(pid int) (rss, private int64) {
	for _, line := range strings.Split(read(fmt.Sprintf("/proc/%d/smaps_rollup", pid)), "\n") {
		var name string
		var n int64
		fmt.Sscan(line, &name, &n)
		switch name {
		case "Rss:":
			rss = n
		case "Private_Dirty:":
			private += n
		}
	}
	return rss, private
}

const hello = `apiVersion: apps/v1
kind: Deployment
metadata: {name: hello, namespace: bench}
spec:
  selector: {matchLabels: {app: hello}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: hello
        image: %s/hello:%s
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: hello, namespace: bench}
spec: {type: NodePort, selector: {app: hello}, ports: [{port: 80, targetPort: 8080, nodePort: %d}]}
`

var client = &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func answers(version string) error {
	resp, err := client.Get(fmt.Sprintf("http://%s:%d/", address(), nodePort))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && !strings.Contains(string(b), "version "+version) {
		err = fmt.Errorf("it answers %q", b)
	}
	return err
}

// commitFigures pushes and reverts, and waits for the new container's answer and then for the old one's end.
func commitFigures(ctx context.Context, i *instance, host string) error {
	page := func(version string) string { return fmt.Sprintf(hello, host, version, nodePort) }
	for _, v := range []string{"v2", "v1"} { // both images are on the node when it counts
		if err := i.commit("hello.yaml", page(v)); err != nil {
			return err
		}
		if err := i.settled(ctx, v); err != nil {
			return err
		}
	}
	var commits, written, rest, reverts []time.Duration
	for range commitRuns {
		started := time.Now()
		if err := i.commit("hello.yaml", page("v2")); err != nil {
			return err
		}
		if err := i.awaitLog(ctx, "commit="+i.head()); err != nil {
			return err
		}
		synced := time.Since(started)
		if err := await(ctx, func() error { return answers("v2") }); err != nil {
			return err
		}
		total := time.Since(started)
		commits, written, rest = append(commits, total), append(written, synced), append(rest, total-synced)
		if err := i.settled(ctx, "v2"); err != nil {
			return err
		}
		started = time.Now()
		if err := i.git("revert", "--no-edit", "HEAD"); err != nil {
			return err
		}
		if err := await(ctx, func() error { return answers("v1") }); err != nil {
			return err
		}
		reverts = append(reverts, time.Since(started))
		if err := i.settled(ctx, "v1"); err != nil {
			return err
		}
	}
	spread("commit to the new container answering", commits, "3 s")
	spread("  of that: git commit, seen, rendered, proven, applied", written, "")
	spread("  of that: rollout, placement, container, probe, rules", rest, "")
	spread("revert to the old container answering", reverts, "3 s")
	return nil
}

// settled waits until one pod is left and answers.
func (i *instance) settled(ctx context.Context, version string) error {
	return await(ctx, func() error {
		pods, err := i.kube.CoreV1().Pods("bench").List(ctx, metav1.ListOptions{LabelSelector: "app=hello"})
		if err != nil {
			return err
		}
		if len(pods.Items) != 1 {
			return fmt.Errorf("%d pods", len(pods.Items))
		}
		return answers(version)
	})
}

func pod(name, image string) *corev1.Pod {
	grace := int64(0)
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"bench": "pods"}},
		Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{{Name: "c", Image: image}}}}
}

// podFigures makes pods one after another, each when the one before is Ready, and then many at once.
func podFigures(ctx context.Context, i *instance, host string) error {
	pods := i.kube.CoreV1().Pods("bench")
	run := func(name string) error {
		if _, err := pods.Create(ctx, pod(name, host+"/hello:v1"), metav1.CreateOptions{}); err != nil {
			return err
		}
		return i.podReady(ctx, name)
	}
	started := time.Now()
	for n := range oneByOne {
		if err := run(fmt.Sprintf("one-%d", n)); err != nil {
			return err
		}
	}
	row(fmt.Sprintf("pods one after another, create to Ready (%d)", oneByOne), fmt.Sprintf("%.1f/s", oneByOne/time.Since(started).Seconds()), "5/s")
	if err := i.noPods(ctx); err != nil {
		return err
	}
	started = time.Now()
	var group errgroup.Group
	for n := range atOnce {
		group.Go(func() error { return run(fmt.Sprintf("many-%d", n)) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	row(fmt.Sprintf("pods at once, create to the last Ready (%d)", atOnce), fmt.Sprintf("%.1f/s", atOnce/time.Since(started).Seconds()), "10/s")
	return i.noPods(ctx)
}

// podReady waits by watch, which costs the machine less than polling.
func (i *instance) podReady(ctx context.Context, name string) error {
	w, err := i.kube.CoreV1().Pods("bench").Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return err
	}
	defer w.Stop()
	timeout := time.After(2 * time.Minute)
	for {
		select {
		case e := <-w.ResultChan():
			p, ok := e.Object.(*corev1.Pod)
			if !ok {
				return fmt.Errorf("watch of pod %s: %v", name, e.Object)
			}
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					return nil
				}
			}
		case <-timeout:
			return fmt.Errorf("pod %s is not ready", name)
		}
	}
}

func (i *instance) noPods(ctx context.Context) error {
	sel := metav1.ListOptions{LabelSelector: "bench=pods"}
	if err := i.kube.CoreV1().Pods("bench").DeleteCollection(ctx, metav1.DeleteOptions{}, sel); err != nil {
		return err
	}
	return await(ctx, func() error {
		list, err := i.kube.CoreV1().Pods("bench").List(ctx, sel)
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d pods are left", len(list.Items))
		}
		return err
	})
}

// healFigures deletes 50 objects and changes 50 others by hand, and times how long each stays that way.
func healFigures(ctx context.Context, i *instance, _ string) error {
	var text strings.Builder
	for n := range 100 {
		fmt.Fprintf(&text, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: heal-%02d, namespace: bench}\ndata: {k: good}\n---\n", n)
	}
	if err := i.commit("heal.yaml", text.String()); err != nil {
		return err
	}
	if err := i.awaitLog(ctx, "commit="+i.head()); err != nil {
		return err
	}
	maps := i.kube.CoreV1().ConfigMaps("bench")
	w, err := maps.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer w.Stop()
	began := map[string]time.Time{}
	for n := range 50 {
		gone, changed := fmt.Sprintf("heal-%02d", n), fmt.Sprintf("heal-%02d", n+50)
		began[gone] = time.Now()
		if err := maps.Delete(ctx, gone, metav1.DeleteOptions{}); err != nil {
			return err
		}
		began[changed] = time.Now()
		if _, err := maps.Patch(ctx, changed, types.MergePatchType, []byte(`{"data":{"k":"bad"}}`), metav1.PatchOptions{}); err != nil {
			return err
		}
	}
	var times []time.Duration
	bad, healed := map[string]bool{}, map[string]bool{}
	timeout := time.After(time.Minute)
	for len(times) < 100 {
		select {
		case e := <-w.ResultChan():
			m, ok := e.Object.(*corev1.ConfigMap)
			if !ok || began[m.Name].IsZero() || healed[m.Name] {
				continue
			}
			if e.Type == "DELETED" || m.Data["k"] == "bad" {
				bad[m.Name] = true
			} else if bad[m.Name] {
				healed[m.Name] = true
				times = append(times, time.Since(began[m.Name]))
			}
		case <-timeout:
			return fmt.Errorf("only %d of 100 were healed", len(times))
		}
	}
	spread("50 deletions and 50 changes by hand, each undone", times, "3 s for the slowest")
	return nil
}
