package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
)

// four is the shape of Flux's public benchmark: a Deployment without replicas, a ServiceAccount, a Service and an Ingress.
const four = `apiVersion: apps/v1
kind: Deployment
metadata: {name: app-%[1]d, annotations: {touched: "%[2]d"}}
spec: {replicas: 0, selector: {matchLabels: {app: app-%[1]d}}, template: {metadata: {labels: {app: app-%[1]d}}, spec: {containers: [{name: c, image: example.org/c}]}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: app-%[1]d}
---
apiVersion: v1
kind: Service
metadata: {name: app-%[1]d}
spec: {selector: {app: app-%[1]d}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: app-%[1]d}
spec: {rules: [{host: app-%[1]d.example.org, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: app-%[1]d, port: {number: 80}}}}]}}]}
`

var (
	applications = schema.GroupVersionResource{Group: "gitopsd.io", Version: "v1alpha1", Resource: "applications"}
	deployments  = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
)

// engineTook is what engineFigures has measured, for the peers beside it.
var engineTook time.Duration

// engineFigures syncs many Applications of one repository, then one of them, then nothing. APPLICATIONS is how many.
func engineFigures(ctx context.Context, i *instance, _ string) error {
	n, err := howMany()
	if err != nil {
		return err
	}
	apps := &instance{repo: i.repo + "-apps"}
	for k := range n {
		if err := os.MkdirAll(filepath.Join(apps.repo, fmt.Sprint(k)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(apps.repo, fmt.Sprint(k), "app.yaml"), fmt.Appendf(nil, four, k, 0), 0o644); err != nil {
			return err
		}
	}
	if err := apps.git("init", "-q", "-b", "main", "."); err != nil {
		return err
	}
	if err := apps.commit("README", "applications"); err != nil {
		return err
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(i.dir, "admin.kubeconfig"))
	if err != nil {
		return err
	}
	cfg.QPS = -1
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return err
	}
	var text strings.Builder
	for k := range n {
		fmt.Fprintf(&text, "apiVersion: gitopsd.io/v1alpha1\nkind: Application\nmetadata: {name: app-%d, namespace: bench}\n"+
			"spec: {source: {repo: %s, path: %q, ref: {branch: main}}, destination: {namespace: bench}}\n---\n", k, apps.repo, fmt.Sprint(k))
	}
	busy, started := ticks(i.cmd.Process.Pid), time.Now()
	if err := i.commit("applications.yaml", text.String()); err != nil {
		return err
	}
	if err := awaitApplied(ctx, client, "bench", n); err != nil {
		return err
	}
	took := time.Since(started)
	engineTook = took
	name := fmt.Sprintf("%d Applications of four objects: ", n)
	row(name+"commit to all applied and healthy", fmt.Sprintf("%.1f s", took.Seconds()), map[int]string{1000: "30 s"}[n])
	row(name+"processor time of the daemon, API included", fmt.Sprintf("%.1f s", float64(ticks(i.cmd.Process.Pid)-busy)/100), "")
	row(name+"most resident memory of the daemon", fmt.Sprintf("%d MiB", peak(i.cmd.Process.Pid)>>10), "")
	started = time.Now()
	if err := apps.commit("0/app.yaml", fmt.Sprintf(four, 0, 1)); err != nil {
		return err
	}
	err = await(ctx, func() error {
		d, err := client.Resource(deployments).Namespace("bench").Get(ctx, "app-0", metav1.GetOptions{})
		if err == nil && d.GetAnnotations()["touched"] != "1" {
			err = fmt.Errorf("not yet")
		}
		return err
	})
	if err != nil {
		return err
	}
	row(name+"a commit that touches one, to live", fmt.Sprintf("%.2f s", time.Since(started).Seconds()), "1 s")
	// What follows is over by then: giving back the memory, and Kubernetes' deployment controller, whose second write of each new Deployment's status conflicts with
	// its first and is tried again at ten a second, which lists all ReplicaSets of the namespace.
	if err := pause(ctx, 3*time.Minute); err != nil {
		return err
	}
	const quiet = 30 * time.Second
	busy = ticks(i.cmd.Process.Pid)
	if err := pause(ctx, quiet); err != nil {
		return err
	}
	row(name+"processor when nothing happens, of one core", fmt.Sprintf("%.1f%%", float64(ticks(i.cmd.Process.Pid)-busy)/quiet.Seconds()), "5%")
	return nil
}

// awaitApplied watches until so many Applications of a namespace are Applied and Healthy.
func awaitApplied(ctx context.Context, client dynamic.Interface, namespace string, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	good := map[string]bool{}
	for ctx.Err() == nil { // the API ends a watch that is slow to take what happens; the next one begins with what there is
		w, err := client.Resource(applications).Namespace(namespace).Watch(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for e := range w.ResultChan() {
			u, ok := e.Object.(*unstructured.Unstructured)
			if !ok {
				w.Stop()
				return fmt.Errorf("watch of Applications: %v", e.Object)
			}
			phase, _, _ := unstructured.NestedString(u.Object, "status", "phase")
			health, _, _ := unstructured.NestedString(u.Object, "status", "health")
			if delete(good, u.GetName()); phase == "Applied" && health == "Healthy" {
				good[u.GetName()] = true
			}
			if len(good) == n {
				w.Stop()
				return nil
			}
		}
	}
	return fmt.Errorf("%d of %d Applications are applied and healthy", len(good), n)
}

// peak is the most memory that a process had resident, in KiB.
func peak(pid int) int64 {
	for _, line := range strings.Split(read(fmt.Sprintf("/proc/%d/status", pid)), "\n") {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			return kib
		}
	}
	return 0
}
