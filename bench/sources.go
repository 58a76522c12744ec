package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gitopsd/gitopsd/internal/source"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
)

// probe is the argument by which bench starts itself as a process that does nothing but read a repository: its memory is
// that of the daemon's source part.
const probe = "source-probe"

const (
	historyCommits = 1000
	historyBlob    = 1 << 20 // bytes that no compression makes less
)

// sourceFigures fetch a repository of 1 GB, in its history or at its tip, and one commit more; git clone beside it.
func sourceFigures(ctx context.Context) error {
	root, err := os.MkdirTemp("/var/tmp", "gdbench-git-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: &cgi.Handler{Path: "/usr/lib/git-core/git-http-backend", Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "HOME=/nonexistent"}, Stderr: io.Discard}}
	go server.Serve(l)
	defer server.Close()
	for _, shape := range []struct {
		name   string
		write  func(io.Writer)
		middle bool // a commit in the middle of the history is fetched too
	}{
		{"1 GB of history", func(w io.Writer) { noisyCommits(w, false) }, true},
		{"1 GB at the tip", func(w io.Writer) { noisyCommits(w, true) }, false},
		{"300,000 small files", manyFiles, false},
	} {
		repo := filepath.Join(root, strings.ReplaceAll(shape.name, " ", "-"))
		if err := importRepository(ctx, repo, shape.write); err != nil {
			return err
		}
		if err := fetchFigures(ctx, shape.name, repo, "http://"+l.Addr().String()+"/"+filepath.Base(repo), shape.middle); err != nil {
			return err
		}
		if err := os.RemoveAll(repo); err != nil {
			return err
		}
	}
	return nil
}

func fetchFigures(ctx context.Context, name, repo, url string, middle bool) error {
	aim := "200 MiB"
	type asked struct {
		what string
		ref  source.Ref
	}
	refs := []asked{{"", source.Ref{Branch: "main"}}}
	if middle {
		out, err := exec.CommandContext(ctx, "git", "-C", repo, "rev-parse", "main~500").Output()
		if err != nil {
			return err
		}
		refs = append(refs, asked{", a commit in its middle (all of it comes)", source.Ref{Commit: strings.TrimSpace(string(out))}})
	}
	for _, a := range refs {
		what := a.what
		first, second, err := probeSource(ctx, url, a.ref, func() error { return oneMore(ctx, repo) })
		if err != nil {
			return err
		}
		row(name+what+": first fetch", fmt.Sprintf("%.2f s", first.Took.Seconds()), "")
		row(name+what+": most resident memory", fmt.Sprintf("%d MiB", first.Peak>>10), aim)
		row(name+what+": one commit more", fmt.Sprintf("%.2f s", second.Took.Seconds()), "")
		row(name+what+": most resident memory meanwhile", fmt.Sprintf("%d MiB", second.Peak>>10), aim)
		row(name+what+": on disk", fmt.Sprintf("%d MiB", second.Disk>>20), "")
	}
	for _, args := range [][]string{{"clone", "-q", "--bare"}, {"clone", "-q", "--bare", "--depth", "1"}} {
		dir := filepath.Join(filepath.Dir(repo), "clone")
		cmd := exec.CommandContext(ctx, "git", append(args, url, dir)...)
		started := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("git %v: %w: %s", args, err, out)
		}
		took := time.Since(started)
		row(name+": git "+strings.Join(args, " "), fmt.Sprintf("%.2f s", took.Seconds()), "")
		row(name+": git "+strings.Join(args, " ")+", most resident memory", fmt.Sprintf("%d MiB", cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss>>10), "")
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// importRepository makes a bare repository of what is written for git fast-import.
func importRepository(ctx context.Context, dir string, write func(io.Writer)) error {
	if out, err := exec.CommandContext(ctx, "git", "init", "-q", "--bare", "-b", "main", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("git init: %w: %s", err, out)
	}
	cmd := exec.CommandContext(ctx, "git", "-C", dir, "fast-import", "--quiet")
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	w := bufio.NewWriter(in)
	write(w)
	if err := w.Flush(); err != nil {
		return err
	}
	in.Close()
	return cmd.Wait()
}

// noisyCommits each have one blob of noise, in a file of its own or always in the same.
func noisyCommits(w io.Writer, keep bool) {
	noise := rand.NewChaCha8([32]byte{1})
	blob := make([]byte, historyBlob)
	for i := range historyCommits {
		noise.Read(blob)
		name := "data"
		if keep {
			name = fmt.Sprintf("data/%d", i)
		}
		fmt.Fprintf(w, "commit refs/heads/main\ncommitter Ann <ann@example.org> %d +0000\ndata 1\nx\nM 100644 inline %s\ndata %d\n", 1_700_000_000+i, name, len(blob))
		w.Write(blob)
		fmt.Fprintf(w, "\nM 100644 inline app.yaml\ndata <<END\n%sEND\n\n", smallManifest(i))
	}
}

// manyFiles is one commit of many files that are all different.
func manyFiles(w io.Writer) {
	fmt.Fprint(w, "commit refs/heads/main\ncommitter Ann <ann@example.org> 1700000000 +0000\ndata 1\nx\n")
	for i := range 300_000 {
		fmt.Fprintf(w, "M 100644 inline data/%d/%d\ndata <<END\n%sEND\n", i/300, i, smallManifest(i))
	}
	fmt.Fprintf(w, "M 100644 inline app.yaml\ndata <<END\n%sEND\n\n", smallManifest(-2))
}

func smallManifest(i int) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {i: \"%d\"}\n", i)
}

// oneMore pushes a commit that changes the manifest.
func oneMore(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "git", "-C", dir, "fast-import", "--quiet")
	cmd.Stdin = strings.NewReader(fmt.Sprintf("commit refs/heads/main\ncommitter Ann <ann@example.org> %d +0000\ndata 1\nx\nfrom refs/heads/main^0\nM 100644 inline app.yaml\ndata <<END\n%sEND\n\n",
		time.Now().Unix(), smallManifest(-1)))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("git fast-import: %w: %s", err, out)
	}
	return nil
}

// probed is what a probe tells after each fetch.
type probed struct {
	Took time.Duration
	Peak int64 // KiB
	Disk int64
}

// probeSource has a process of its own fetch, and after more was called fetch again.
func probeSource(ctx context.Context, url string, ref source.Ref, more func() error) (first, second probed, err error) {
	self, err := os.Executable()
	if err != nil {
		return first, second, err
	}
	asked, err := json.Marshal(ref)
	if err != nil {
		return first, second, err
	}
	cmd := exec.CommandContext(ctx, self, probe, url, string(asked))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return first, second, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return first, second, err
	}
	if err := cmd.Start(); err != nil {
		return first, second, err
	}
	answers := json.NewDecoder(out)
	if err = answers.Decode(&first); err == nil {
		if err = more(); err == nil {
			in.Close()
			err = answers.Decode(&second)
		}
	}
	if ended := cmd.Wait(); err == nil {
		err = ended
	}
	return first, second, err
}

// runProbe is the other process.
func runProbe(ctx context.Context, url, asked string) error {
	dir, err := os.MkdirTemp("/var/tmp", "gdbench-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var ref source.Ref
	if err := json.Unmarshal([]byte(asked), &ref); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	store, err := source.Open(ctx, source.Config{Dir: dir})
	if err != nil {
		cancel()
		return err
	}
	defer store.Wait()
	defer cancel()
	out := json.NewEncoder(os.Stdout)
	for range 2 {
		_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // the high-water mark begins anew
		started := time.Now()
		snapshot, err := store.Snapshot(ctx, source.Spec{URL: url, Ref: ref})
		if err != nil {
			return err
		}
		took := time.Since(started)
		if _, err := snapshot.FS.Open("app.yaml"); err != nil {
			return err
		}
		if err := out.Encode(probed{took, peak(os.Getpid()), folderSize(dir)}); err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
	return nil
}

func folderSize(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil
	})
	return sum
}

const (
	monorepoPaths = 1000
	monorepoFiles = 50 // of each path
	monorepoRuns  = 7
)

// monorepoFigures have as many Applications read a path each of one repository, and change a file of one path: the time
// from the push to the live object, and how many looked at the commit at all.
func monorepoFigures(ctx context.Context, i *instance, _ string) error {
	mono := &instance{repo: i.repo + "-mono"}
	for k := range monorepoPaths {
		if err := monorepoPath(filepath.Join(mono.repo, "apps", fmt.Sprint(k)), k); err != nil {
			return err
		}
	}
	if err := mono.git("init", "-q", "-b", "main", "."); err != nil {
		return err
	}
	if err := mono.commit("README", "monorepo"); err != nil {
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
	for k := range monorepoPaths {
		fmt.Fprintf(&text, "apiVersion: gitopsd.io/v1alpha1\nkind: Application\nmetadata: {name: app-%d, namespace: bench}\n"+
			"spec: {source: {repo: %s, path: apps/%d, ref: {branch: main}}, destination: {namespace: bench}}\n---\n", k, mono.repo, k)
	}
	name := fmt.Sprintf("monorepo of %d paths and %d files: ", monorepoPaths, monorepoPaths*monorepoFiles)
	started := time.Now()
	if err := i.commit("applications.yaml", text.String()); err != nil {
		return err
	}
	if err := awaitApplied(ctx, client, "bench", monorepoPaths); err != nil {
		return err
	}
	row(name+"all applied", fmt.Sprintf("%.1f s", time.Since(started).Seconds()), "")
	if err := pause(ctx, 15*time.Second); err != nil { // looks that the syncs have left for later are no looks at what comes
		return err
	}
	var times []time.Duration
	most := 0
	for run := range monorepoRuns {
		path := fmt.Sprintf("apps/%d", 100*run)
		if err := mono.commit(path+"/f7.txt", fmt.Sprint("changed ", run)); err != nil {
			return err
		}
		err := await(ctx, func() error {
			c, err := client.Resource(configMaps).Namespace("bench").Get(ctx, fmt.Sprint("app-", 100*run), metav1.GetOptions{})
			if err != nil {
				return err
			}
			if v, _, _ := unstructured.NestedString(c.Object, "data", "f7.txt"); v != fmt.Sprint("changed ", run) {
				return fmt.Errorf("not yet")
			}
			return nil
		})
		if err != nil {
			return err
		}
		live := time.Now()
		pushed, err := os.Stat(filepath.Join(mono.repo, ".git/refs/heads/main")) // git add takes its time with so many files
		if err != nil {
			return err
		}
		times = append(times, live.Sub(pushed.ModTime()))
		if err := pause(ctx, 3*time.Second); err != nil { // whoever else looks at the commit has done so
			return err
		}
		looked, err := lookedAt(ctx, client, mono.head())
		if err != nil {
			return err
		}
		most = max(most, looked)
	}
	spread(name+"a push that changes one, to live", times, "0.5 s")
	row(name+"most Applications that looked at such a commit", fmt.Sprint(most), "1")
	return nil
}

// monorepoPath writes a kustomization of one Service and a ConfigMap of many files.
func monorepoPath(dir string, k int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	names := make([]string, monorepoFiles-2)
	for f := range names {
		names[f] = fmt.Sprintf("f%d.txt", f)
		if err := os.WriteFile(filepath.Join(dir, names[f]), fmt.Appendf(nil, "file %d of %d\n", f, k), 0o644); err != nil {
			return err
		}
	}
	kustomization := fmt.Sprintf("resources: [service.yaml]\ngeneratorOptions: {disableNameSuffixHash: true}\nconfigMapGenerator: [{name: app-%d, files: [%s]}]\n", k, strings.Join(names, ", "))
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(kustomization), 0o644); err != nil {
		return err
	}
	service := fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: app-%d}\nspec: {clusterIP: None, selector: {app: app-%d}}\n", k, k)
	return os.WriteFile(filepath.Join(dir, "service.yaml"), []byte(service), 0o644)
}

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

// lookedAt counts the Applications whose status names a commit.
func lookedAt(ctx context.Context, client dynamic.Interface, commit string) (n int, err error) {
	list, err := client.Resource(applications).Namespace("bench").List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	for _, a := range list.Items {
		if seen, _, _ := unstructured.NestedString(a.Object, "status", "observedCommit"); strings.HasPrefix(seen, commit) {
			n++
		}
	}
	return n, nil
}
