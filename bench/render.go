package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gitopsd/gitopsd/internal/intent"
	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/render/cache"
	"github.com/gitopsd/gitopsd/internal/source"
)

const renderRuns = 9

// renderCase is a repository of a kind that people have, and what the tool of that kind is called with.
type renderCase struct {
	name, path string
	tool       []string // program and arguments
	fill       func(*renderBench) error
}

var renderCases = []renderCase{
	{"a plain path of 100 files", "plain", []string{"kustomize", "build", "listed", "--load-restrictor", "LoadRestrictionsNone"}, plainFiles},
	{"an overlay of five bases", "overlay", []string{"kustomize", "build", "overlay"}, overlayFiles},
	{"a chart of 40 templates, three sub-charts", "chart", []string{"helm", "template", "web", "chart", "--namespace", "web", "--include-crds", "--skip-tests"}, chartFiles},
}

// renderFigures measures from a pushed commit to rendered objects, and the tools on the same files in the same run.
func renderFigures(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "gitopsd-bench-render")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for name, of := range map[string]string{"kustomize": "sigs.k8s.io/kustomize/kustomize/v5", "helm": "helm.sh/helm/v3/cmd/helm", "gitopsd-render": "./cmd/gitopsd-render"} {
		build := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", filepath.Join(dir, name), of)
		build.Dir, build.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", name, err, out)
		}
	}
	for n, c := range renderCases {
		b := &renderBench{dir: filepath.Join(dir, strconv.Itoa(n)), programs: dir, c: c}
		if err := b.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// renderBench is one repository and what reads it.
type renderBench struct {
	dir, programs string
	c             renderCase
	store         *source.Store
	hits, misses  int
	objects       int
}

func (b *renderBench) repo() string { return filepath.Join(b.dir, "repo") }

func (b *renderBench) write(name, text string) error {
	where := filepath.Join(b.repo(), name)
	if err := os.MkdirAll(filepath.Dir(where), 0o755); err != nil {
		return err
	}
	return os.WriteFile(where, []byte(text), 0o644)
}

func (b *renderBench) git(args ...string) error {
	cmd := exec.Command("git", append([]string{"-C", b.repo(), "-c", "user.name=bench", "-c", "user.email=bench@example.org"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w: %s", args[0], err, out)
	}
	return nil
}

func (b *renderBench) commit() error {
	if err := b.git("add", "-A"); err != nil {
		return err
	}
	return b.git("commit", "-qm", "bench")
}

func (b *renderBench) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	if err := os.MkdirAll(b.repo(), 0o755); err != nil {
		cancel()
		return err
	}
	if err := b.git("init", "-q", "-b", "main", "."); err != nil {
		cancel()
		return err
	}
	if err := b.c.fill(b); err != nil {
		cancel()
		return err
	}
	var err error
	if b.store, err = source.Open(ctx, source.Config{Dir: filepath.Join(b.dir, "git")}); err != nil {
		cancel()
		return err
	}
	defer b.store.Wait()
	defer cancel()
	return b.measure(ctx)
}

// measure takes every figure of the case: with a fresh worker, with one that runs, from what is kept, and of the tool.
func (b *renderBench) measure(ctx context.Context) error {
	var fresh, warm, kept, tool []time.Duration
	var workerKiB, toolKiB int64
	for n := range renderRuns {
		pool, err := render.NewPool(render.PoolConfig{Program: filepath.Join(b.programs, "gitopsd-render"), Workers: 1})
		if err != nil {
			return err
		}
		took, err := b.change(ctx, pool, fmt.Sprintf("%d-a", n))
		if err == nil {
			fresh = append(fresh, took)
			took, err = b.change(ctx, pool, fmt.Sprintf("%d-b", n))
		}
		if err == nil {
			warm = append(warm, took)
			workerKiB = max(workerKiB, peakOf(workerPID()))
			took, err = b.restart(ctx, pool)
		}
		pool.Close()
		if err != nil {
			return err
		}
		kept = append(kept, took)
		took, kib, err := b.runTool(ctx)
		if err != nil {
			return err
		}
		tool, toolKiB = append(tool, took), max(toolKiB, kib)
	}
	fmt.Printf("%s, %d objects, from the push of a commit\n", b.c.name, b.objects)
	spread("  rendered by a fresh worker", fresh, "")
	spread("  rendered by a worker that runs", warm, "")
	spread("  kept from before, after a restart, a commit of others", kept, "")
	row("  memory of the worker at most", fmt.Sprintf("%d MiB", workerKiB>>10), "")
	row("  answered by what is kept", fmt.Sprintf("%d of %d", b.hits, b.hits+b.misses), "")
	spread("  "+strings.Join(b.c.tool[:2], " ")+" on the checked out files", tool, "")
	row("  memory of it at most", fmt.Sprintf("%d MiB", toolKiB>>10), "")
	return nil
}

// open opens what is kept of earlier renderings, as a start of the daemon does.
func (b *renderBench) open(next cache.Renderer) (*cache.Cache, error) {
	if err := os.MkdirAll(filepath.Join(b.dir, "rendered"), 0o700); err != nil {
		return nil, err
	}
	box, err := intent.OpenBox(filepath.Join(b.dir, "rendered", "key"))
	if err != nil {
		return nil, err
	}
	return cache.Open(cache.Config{Dir: filepath.Join(b.dir, "rendered", "results"), Box: box, Seen: func(hit bool) {
		if hit {
			b.hits++
		} else {
			b.misses++
		}
	}}, next)
}

// change pushes a commit that concerns the path and renders it.
func (b *renderBench) change(ctx context.Context, pool *render.Pool, mark string) (time.Duration, error) {
	if err := b.write(b.c.path+"/"+changing[b.c.path], fmt.Sprintf(changeable[b.c.path], mark)); err != nil {
		return 0, err
	}
	if err := b.commit(); err != nil {
		return 0, err
	}
	c, err := b.open(pool)
	if err != nil {
		return 0, err
	}
	return b.rendered(ctx, c)
}

// restart pushes a commit that does not concern the path, and has a new process find what is kept.
func (b *renderBench) restart(ctx context.Context, pool *render.Pool) (time.Duration, error) {
	if err := b.write("others/readme", time.Now().String()); err != nil {
		return 0, err
	}
	if err := b.commit(); err != nil {
		return 0, err
	}
	started := time.Now()
	c, err := b.open(pool)
	if err != nil {
		return 0, err
	}
	opened := time.Since(started)
	took, err := b.rendered(ctx, c)
	return opened + took, err
}

func (b *renderBench) rendered(ctx context.Context, c *cache.Cache) (time.Duration, error) {
	started := time.Now()
	s, err := b.store.Snapshot(ctx, source.Spec{URL: b.repo()})
	if err != nil {
		return 0, err
	}
	req := render.Request{FS: s.FS, Path: b.c.path}
	req.Namespace, req.Helm.ReleaseName = "web", "web"
	result, err := c.Render(ctx, req)
	if err != nil {
		return 0, err
	}
	b.objects = len(result.Objects)
	return time.Since(started), nil
}

func (b *renderBench) runTool(ctx context.Context) (time.Duration, int64, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(b.programs, b.c.tool[0]), b.c.tool[1:]...)
	cmd.Dir, cmd.Env = b.repo(), []string{"HOME=" + b.dir}
	started := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", strings.Join(b.c.tool, " "), err)
	}
	return time.Since(started), cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss, nil
}

// workerPID is the render worker that this process has started, or 0.
func workerPID() int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		stat := read(name)
		end := strings.LastIndexByte(stat, ')')
		if end < 0 || !strings.Contains(stat[:end], "gitopsd-render") {
			continue
		}
		if f := strings.Fields(stat[end+1:]); len(f) > 1 && f[1] == strconv.Itoa(os.Getpid()) {
			pid, _ := strconv.Atoi(strings.Fields(stat)[0])
			return pid
		}
	}
	return 0
}

// peakOf is the most memory that a process has had, in KiB.
func peakOf(pid int) int64 {
	for _, line := range strings.Split(read(fmt.Sprintf("/proc/%d/status", pid)), "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}

// changing is the file of each path that every commit changes, and changeable what is in it.
var (
	changing   = map[string]string{"plain": "000.yaml", "overlay": "mark.yaml", "chart": "values.yaml"}
	changeable = map[string]string{
		"plain":   "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: first}\ndata: {mark: \"%s\"}\n",
		"overlay": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: mark}\ndata: {mark: \"%s\"}\n",
		"chart":   "mark: \"%s\"\nreplicas: 2\nimage: {repository: registry.example/web, tag: v1}\nlabels: {team: web, tier: front}\n",
	}
)

const workload = `apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, labels: {app: %[1]s}}
spec:
  replicas: 2
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      containers:
      - name: main
        image: registry.example/%[1]s:v1
        ports: [{containerPort: 8080}]
        resources: {requests: {cpu: 10m, memory: 32Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec: {selector: {app: %[1]s}, ports: [{port: 80, targetPort: 8080}]}
`

// plainFiles writes 99 files beside the one that changes, and elsewhere a kustomization that names them all, for the tool.
func plainFiles(b *renderBench) error {
	names := []string{"../plain/000.yaml"}
	for n := range 99 {
		names = append(names, fmt.Sprintf("../plain/%03d.yaml", n+1))
		if err := b.write(fmt.Sprintf("plain/%03d.yaml", n+1), fmt.Sprintf(workload, fmt.Sprintf("app-%d", n))); err != nil {
			return err
		}
	}
	return b.write("listed/kustomization.yaml", "resources: ["+strings.Join(names, ", ")+"]\n")
}

func overlayFiles(b *renderBench) error {
	text := "namespace: web\nnamePrefix: prod-\nlabels: [{pairs: {env: prod}}]\nimages: [{name: registry.example/base-0, newTag: v2}]\n" +
		"configMapGenerator: [{name: settings, literals: [a=b, c=d]}]\n" +
		"patches:\n- target: {kind: Deployment}\n  patch: '[{\"op\": \"replace\", \"path\": \"/spec/replicas\", \"value\": 3}]'\nresources:\n- mark.yaml\n"
	for n := range 5 {
		text += fmt.Sprintf("- ../bases/%d\n", n)
		base := "resources: [app.yaml]\nconfigMapGenerator: [{name: base-settings-" + strconv.Itoa(n) + ", literals: [x=y]}]\n"
		if err := b.write(fmt.Sprintf("bases/%d/kustomization.yaml", n), base); err != nil {
			return err
		}
		if err := b.write(fmt.Sprintf("bases/%d/app.yaml", n), fmt.Sprintf(workload, fmt.Sprintf("base-%d", n))); err != nil {
			return err
		}
	}
	return b.write("overlay/kustomization.yaml", text)
}

const helpers = `{{- define "%[1]s.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
helm.sh/chart: {{ printf "%%s-%%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- range $k, $v := .Values.labels }}
{{ $k }}: {{ $v | quote }}
{{- end }}
{{- end }}
`

const template = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}-%[1]s-%[2]d
  labels: {{- include "%[1]s.labels" . | nindent 4 }}
  annotations: {checksum: {{ .Values.mark | default "none" | sha256sum }}}
spec:
  replicas: {{ .Values.replicas | default 1 }}
  selector: {matchLabels: {app: "{{ .Release.Name }}-%[2]d"}}
  template:
    metadata:
      labels: {{- include "%[1]s.labels" . | nindent 8 }}
        app: "{{ .Release.Name }}-%[2]d"
    spec:
      containers:
      - name: main
        image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
        {{- with .Values.resources }}
        resources: {{- toYaml . | nindent 10 }}
        {{- end }}
`

func chartFiles(b *renderBench) error {
	chart := func(dir, name string, templates int, more string) error {
		if err := b.write(dir+"/Chart.yaml", "apiVersion: v2\nname: "+name+"\nversion: 1.0.0\nappVersion: v1\n"+more); err != nil {
			return err
		}
		if err := b.write(dir+"/templates/_helpers.tpl", fmt.Sprintf(helpers, name)); err != nil {
			return err
		}
		for n := range templates {
			if err := b.write(fmt.Sprintf("%s/templates/%d.yaml", dir, n), fmt.Sprintf(template, name, n)); err != nil {
				return err
			}
		}
		return nil
	}
	dependencies := "dependencies:\n"
	for _, name := range []string{"database", "cache", "queue"} {
		dependencies += "- {name: " + name + ", version: 1.0.0}\n"
		if err := chart("chart/charts/"+name, name, 6, ""); err != nil {
			return err
		}
		values := "image: {repository: registry.example/" + name + "}\nresources: {requests: {cpu: 10m}}\n"
		if err := b.write("chart/charts/"+name+"/values.yaml", values); err != nil {
			return err
		}
	}
	return chart("chart", "web", 22, dependencies)
}
