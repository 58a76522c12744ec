package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

const flux = "../build/flux" // made by hack/build-flux.sh

var (
	gitRepositories = schema.GroupVersionResource{Group: "source.toolkit.fluxcd.io", Version: "v1", Resource: "gitrepositories"}
	kustomizations  = schema.GroupVersionResource{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Resource: "kustomizations"}
	definitions     = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	namespaces      = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
)

// kindsOfFour are the resources of the four objects.
var kindsOfFour = map[string]schema.GroupVersionResource{
	"Deployment":     deployments,
	"ServiceAccount": {Version: "v1", Resource: "serviceaccounts"},
	"Service":        {Version: "v1", Resource: "services"},
	"Ingress":        {Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"},
}

func howMany() (int, error) {
	n, err := strconv.Atoi(cmp.Or(os.Getenv("APPLICATIONS"), "100"))
	if err != nil {
		return 0, fmt.Errorf("APPLICATIONS: %w", err)
	}
	return n, nil
}

func (i *instance) dynamic() (dynamic.Interface, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(i.dir, "admin.kubeconfig"))
	if err != nil {
		return nil, err
	}
	cfg.QPS = -1
	return dynamic.NewForConfig(cfg)
}

// apply takes every field of an object, as a peer would.
func apply(ctx context.Context, r dynamic.ResourceInterface, u *unstructured.Unstructured, dryRun ...string) error {
	body, err := u.MarshalJSON()
	if err != nil {
		return err
	}
	force := true
	_, err = r.Patch(ctx, u.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: "bench", Force: &force, DryRun: dryRun})
	return err
}

func parse(text string) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	b, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = u.UnmarshalJSON(b)
	}
	return u, err
}

func applyText(ctx context.Context, r dynamic.ResourceInterface, text string) error {
	u, err := parse(text)
	if err != nil {
		return err
	}
	return apply(ctx, r, u)
}

// floorFigures is what the API server alone needs for the objects of so many Applications: 16 workers that apply, and know what.
func floorFigures(ctx context.Context, i *instance, _ string) error {
	n, err := howMany()
	if err != nil {
		return err
	}
	client, err := i.dynamic()
	if err != nil {
		return err
	}
	if err := applyText(ctx, client.Resource(namespaces), "{apiVersion: v1, kind: Namespace, metadata: {name: floor}}"); err != nil {
		return err
	}
	var objects []*unstructured.Unstructured
	for k := range n {
		for _, text := range strings.Split(fmt.Sprintf(four, k, 0), "---\n") {
			u, err := parse(text)
			if err != nil {
				return err
			}
			objects = append(objects, u)
		}
	}
	all := func(dryRun ...string) (time.Duration, error) {
		started := time.Now()
		var group errgroup.Group
		group.SetLimit(16)
		for _, u := range objects {
			group.Go(func() error {
				return apply(ctx, client.Resource(kindsOfFour[u.GetKind()]).Namespace("floor"), u, dryRun...)
			})
		}
		err := group.Wait()
		return time.Since(started), err
	}
	dry, err := all(metav1.DryRunAll)
	if err != nil {
		return err
	}
	wet, err := all()
	if err != nil {
		return err
	}
	row(fmt.Sprintf("floor: %d server-side dry-runs by 16 workers", len(objects)), fmt.Sprintf("%.1f s", dry.Seconds()), "")
	row(fmt.Sprintf("floor: %d server-side applies by 16 workers", len(objects)), fmt.Sprintf("%.1f s", wet.Seconds()), "")
	return nil
}

// fluxFigures has Flux's controllers sync what engineFigures synced, on the same control plane.
func fluxFigures(ctx context.Context, i *instance, _ string) error {
	n, err := howMany()
	if err != nil {
		return err
	}
	client, err := i.dynamic()
	if err != nil {
		return err
	}
	if err := i.fluxDefinitions(ctx, client); err != nil {
		return fmt.Errorf("build Flux's controllers first, with hack/build-flux.sh: %w", err)
	}
	url, stop, err := serveGit(i.repo + "-apps")
	if err != nil {
		return err
	}
	defer stop()
	store, err := os.MkdirTemp(filepath.Dir(i.dir), "flux-")
	if err != nil {
		return err
	}
	source, err := i.fluxController("source-controller", "--storage-addr=127.0.0.1:21260", "--storage-adv-addr=127.0.0.1:21260", "--storage-path="+store,
		"--metrics-addr=127.0.0.1:21261", "--health-addr=127.0.0.1:21262")
	if err != nil {
		return err
	}
	defer end(source)
	apply, err := i.fluxController("kustomize-controller", "--concurrent=20", "--kube-api-qps=1000", "--kube-api-burst=2000", "--metrics-addr=127.0.0.1:21263", "--health-addr=127.0.0.1:21264")
	if err != nil {
		return err
	}
	defer end(apply)
	if err := awaitHealthy(ctx, "127.0.0.1:21262", "127.0.0.1:21264"); err != nil {
		return fmt.Errorf("Flux's controllers did not start; their logs are in %s: %w", flux, err)
	}
	daemon, controllers, started := ticks(i.cmd.Process.Pid), ticks(source.Process.Pid)+ticks(apply.Process.Pid), time.Now()
	if err := makeKustomizations(ctx, client, url, n); err != nil {
		return err
	}
	if err := awaitReady(ctx, client, n); err != nil {
		return err
	}
	took := time.Since(started)
	name := fmt.Sprintf("Flux, %d Kustomizations of the same: ", n)
	row(name+"to all applied and healthy", fmt.Sprintf("%.1f s", took.Seconds()), "")
	row(name+"processor time of its controllers", fmt.Sprintf("%.1f s", float64(ticks(source.Process.Pid)+ticks(apply.Process.Pid)-controllers)/100), "")
	row(name+"processor time of the control plane meanwhile", fmt.Sprintf("%.1f s", float64(ticks(i.cmd.Process.Pid)-daemon)/100), "")
	row(name+"most resident memory of its controllers", fmt.Sprintf("%d MiB", (peak(source.Process.Pid)+peak(apply.Process.Pid))>>10), "")
	if engineTook > 0 {
		row("Flux takes as many times as long", fmt.Sprintf("%.1f", took.Seconds()/engineTook.Seconds()), "")
	}
	return nil
}

func (i *instance) fluxDefinitions(ctx context.Context, client dynamic.Interface) error {
	files, err := filepath.Glob(filepath.Join(flux, "crds", "*.yaml"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no definitions in %s/crds: %v", flux, err)
	}
	for _, file := range files {
		if err := applyText(ctx, client.Resource(definitions), strings.TrimPrefix(read(file), "---\n")); err != nil {
			return fmt.Errorf("apply %s: %w", file, err)
		}
	}
	if err := applyText(ctx, client.Resource(namespaces), "{apiVersion: v1, kind: Namespace, metadata: {name: flux}}"); err != nil {
		return err
	}
	return await(ctx, func() error {
		_, err := client.Resource(kustomizations).Namespace("flux").List(ctx, metav1.ListOptions{Limit: 1})
		return err
	})
}

// fluxController starts one of Flux's controllers against the instance's API.
func (i *instance) fluxController(name string, flags ...string) (*exec.Cmd, error) {
	log, err := os.Create(filepath.Join(flux, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(flux, name), append(flags, "--log-level=error")...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(i.dir, "admin.kubeconfig"), "RUNTIME_NAMESPACE=flux")
	cmd.Stdout, cmd.Stderr = log, log
	return cmd, cmd.Start()
}

func end(cmd *exec.Cmd) {
	if cmd.Process.Signal(syscall.SIGTERM) == nil {
		_ = cmd.Wait() // it was told to end
	}
}

func awaitHealthy(ctx context.Context, addresses ...string) error {
	for _, a := range addresses {
		err := await(ctx, func() error {
			resp, err := http.Get("http://" + a + "/readyz")
			if err != nil {
				return err
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("%s says %s", a, resp.Status)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// serveGit serves a repository over HTTP on loopback with git's own program.
func serveGit(repo string) (url string, stop func(), err error) {
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return "", nil, fmt.Errorf("find git's programs: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"),
		Env: []string{"GIT_PROJECT_ROOT=" + filepath.Dir(repo), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}}
	go server.Serve(l)
	return fmt.Sprintf("http://%s/%s/.git", l.Addr(), filepath.Base(repo)), func() { server.Close() }, nil
}

func makeKustomizations(ctx context.Context, client dynamic.Interface, url string, n int) error {
	err := applyText(ctx, client.Resource(gitRepositories).Namespace("flux"), "{apiVersion: source.toolkit.fluxcd.io/v1, kind: GitRepository, metadata: {name: apps, namespace: flux}, "+
		"spec: {url: \""+url+"\", interval: 1h, ref: {branch: main}}}")
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(16)
	for k := range n {
		group.Go(func() error {
			return applyText(ctx, client.Resource(kustomizations).Namespace("flux"), fmt.Sprintf("{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {name: app-%d, namespace: flux}, "+
				"spec: {sourceRef: {kind: GitRepository, name: apps}, path: ./%d, targetNamespace: flux, interval: 1h, retryInterval: 5s, prune: true, wait: true, timeout: 10m}}", k, k))
		})
	}
	return group.Wait()
}

// awaitReady watches until so many Kustomizations are ready.
func awaitReady(ctx context.Context, client dynamic.Interface, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Minute)
	defer cancel()
	ready := map[string]bool{}
	for len(ready) < n && ctx.Err() == nil {
		w, err := client.Resource(kustomizations).Namespace("flux").Watch(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for e := range w.ResultChan() {
			if u, ok := e.Object.(*unstructured.Unstructured); ok && isReady(u) {
				ready[u.GetName()] = true
			}
			if len(ready) == n {
				break
			}
		}
		w.Stop()
	}
	if len(ready) < n {
		return fmt.Errorf("%d of %d Kustomizations became ready", len(ready), n)
	}
	return nil
}

func isReady(u *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == "Ready" {
			return c["status"] == "True"
		}
	}
	return false
}
