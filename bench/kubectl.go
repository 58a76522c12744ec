package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
)

const kubectlRuns = 9

// plainPath is the plain path of 100 files, without replicas, in a namespace of its own.
type plainPath struct {
	renderBench
	i      *instance
	client dynamic.Interface
}

// kubectlFigures sync the plain path of 100 files by a commit, and apply the same files with kubectl to the same control plane,
// into another namespace.
func kubectlFigures(ctx context.Context, i *instance, _ string) error {
	p := &plainPath{renderBench: renderBench{dir: i.repo + "-plain", c: renderCases[0]}, i: i}
	cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(i.dir, "admin.kubeconfig"))
	if err != nil {
		return err
	}
	cfg.QPS = -1
	if p.client, err = dynamic.NewForConfig(cfg); err != nil {
		return err
	}
	if err := p.fill(); err != nil {
		return err
	}
	if err := p.begin(ctx); err != nil {
		return err
	}
	var ours, theirs []time.Duration
	for n := range kubectlRuns {
		took, err := p.push(ctx, fmt.Sprint("run-", n))
		if err != nil {
			return err
		}
		ours = append(ours, took)
		if took, err = p.apply(ctx, "plain-kubectl"); err != nil {
			return err
		}
		theirs = append(theirs, took)
	}
	spread("a plain path of 100 files: a commit that changes one, to live", ours, "")
	spread("  kubectl apply --server-side of them, one changed", theirs, "")
	return nil
}

// fill writes the files of the first commit.
func (p *plainPath) fill() error {
	for n := range 99 {
		text := strings.Replace(fmt.Sprintf(workload, fmt.Sprintf("app-%d", n)), "replicas: 2", "replicas: 0", 1)
		if err := p.write(fmt.Sprintf("plain/%03d.yaml", n+1), text); err != nil {
			return err
		}
	}
	if err := p.write("plain/000.yaml", fmt.Sprintf(changeable["plain"], "none")); err != nil {
		return err
	}
	if err := p.git("init", "-q", "-b", "main", "."); err != nil {
		return err
	}
	return p.commit()
}

// begin makes all the objects once: by an Application that comes, and by kubectl.
func (p *plainPath) begin(ctx context.Context) error {
	started := time.Now()
	err := p.i.commit("plain.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: plain}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: plain-kubectl}\n---\n"+
		"apiVersion: gitopsd.io/v1alpha1\nkind: Application\nmetadata: {name: plain, namespace: plain}\n"+
		"spec: {source: {repo: "+p.repo()+", path: plain, ref: {branch: main}}, destination: {namespace: plain}}\n")
	if err != nil {
		return err
	}
	if err := awaitApplied(ctx, p.client, "plain", 1); err != nil {
		return err
	}
	row("a plain path of 100 files, 199 objects: the commit of its Application, to all live and healthy", fmt.Sprintf("%.2f s", time.Since(started).Seconds()), "")
	took, err := p.apply(ctx, "plain-kubectl")
	row("  kubectl apply --server-side of them, all new", fmt.Sprintf("%.2f s", took.Seconds()), "")
	return err
}

// push commits one changed file and waits until it is live.
func (p *plainPath) push(ctx context.Context, mark string) (time.Duration, error) {
	if err := p.write("plain/000.yaml", fmt.Sprintf(changeable["plain"], mark)); err != nil {
		return 0, err
	}
	started := time.Now()
	if err := p.commit(); err != nil {
		return 0, err
	}
	err := await(ctx, func() error {
		c, err := p.client.Resource(configMaps).Namespace("plain").Get(ctx, "first", metav1.GetOptions{})
		if err == nil && !strings.Contains(fmt.Sprint(c.Object["data"]), mark) {
			err = fmt.Errorf("not yet")
		}
		return err
	})
	return time.Since(started), err
}

// apply has the kubectl that gitopsd brings along apply the files as they are checked out.
func (p *plainPath) apply(ctx context.Context, namespace string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, program, "kubectl", "--data-dir", p.i.dir, "apply", "--server-side", "-n", namespace, "-f", filepath.Join(p.repo(), "plain"))
	cmd.Env = append(os.Environ(), "HOME="+p.dir) // where it keeps what the API can do
	started := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("kubectl apply: %w: %s", err, out)
	}
	return time.Since(started), nil
}
