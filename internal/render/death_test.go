package render_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gitopsd/gitopsd/internal/render"
)

// The parent dies; its workers do not stay, not even one that is busy.
func TestWorkersEndWithTheirParent(t *testing.T) {
	if os.Getenv("RENDER_TEST_PARENT") != "" {
		p, err := render.NewPool(render.PoolConfig{Program: os.Getenv("RENDER_TEST_PARENT"), Workers: 2})
		if err != nil {
			panic(err)
		}
		if _, err := p.Render(context.Background(), render.Request{FS: files("a.yaml", good)}); err != nil {
			panic(err)
		}
		if _, err := p.Render(context.Background(), render.Request{FS: &within{files("b.yaml", good), func() {
			_, _ = p.Render(context.Background(), render.Request{FS: files("c.yaml", good)}) // the second worker: the first is busy with this
		}}}); err != nil {
			panic(err)
		}
		_, _ = p.Render(context.Background(), render.Request{FS: announcing{chart(`{{ range $i := until 20000 }}{{ range $j := until 20000 }}{{ $x := add $i $j }}{{ end }}{{ end }}`)}})
		return
	}
	program, err := worker()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestWorkersEndWithTheirParent$")
	cmd.Env = append(os.Environ(), "RENDER_TEST_PARENT="+program, "TMPDIR="+t.TempDir()) // it is killed and tidies nothing up
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var line [6]byte
	if _, err := out.Read(line[:]); err != nil {
		t.Fatal(err)
	}
	children := children(cmd.Process.Pid)
	if len(children) < 2 {
		t.Errorf("%d workers", len(children))
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	deadline := time.Now().Add(10 * time.Second)
	for _, pid := range children {
		for alive(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("worker %d lives on", pid)
			}
		}
	}
}

// announcing says on stdout that a render has begun to read.
type announcing struct{ fstest.MapFS }

func (a announcing) ReadFile(name string) ([]byte, error) {
	if strings.HasPrefix(name, "templates/") {
		fmt.Println("begun")
	}
	return a.MapFS.ReadFile(name)
}

func memoryOf(pid int) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	var out []string
	for _, l := range strings.Split(string(data), "\n") {
		if strings.HasPrefix(l, "Rss") || strings.HasPrefix(l, "Private_Dirty") {
			out = append(out, strings.Join(strings.Fields(l), " "))
		}
	}
	return strings.Join(out, ", ")
}

func children(pid int) []int {
	var out []int
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(data), ") ")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(pid) {
			out = append(out, child)
		}
	}
	return out
}

func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(data), ") Z ")
}

// A worker that is killed from outside costs one render at most; the pool replaces it.
func TestWorkerKilled(t *testing.T) {
	p := pool(t, render.PoolConfig{Workers: 1})
	req := render.Request{FS: files("a.yaml", good)}
	if _, err := p.Render(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	for _, pid := range children(os.Getpid()) {
		if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); strings.HasSuffix(exe, "gitopsd-render") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if _, err := p.Render(t.Context(), req); err != nil {
		t.Errorf("an idle worker was killed: %v", err)
	}
}

func TestRenderEndsWithItsContext(t *testing.T) {
	p := pool(t, render.PoolConfig{Workers: 1})
	ctx, cancel := context.WithCancel(t.Context())
	begun := make(chan struct{})
	go func() { <-begun; cancel() }()
	_, err := p.Render(ctx, render.Request{FS: signalling{chart(`{{ range $i := until 20000 }}{{ range $j := until 20000 }}{{ $x := add $i $j }}{{ end }}{{ end }}`), begun}})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := p.Render(t.Context(), render.Request{FS: files("a.yaml", good)}); err != nil {
		t.Fatal(err)
	}
}

type signalling struct {
	fstest.MapFS
	begun chan struct{}
}

func (s signalling) ReadFile(name string) ([]byte, error) {
	if strings.HasPrefix(name, "templates/") {
		close(s.begun)
	}
	return s.MapFS.ReadFile(name)
}

// Without root there are user namespaces, where the machine permits them; what is missing is said.
func TestWithoutRoot(t *testing.T) {
	if program := os.Getenv("RENDER_TEST_UNPRIVILEGED"); program != "" {
		p, err := render.NewPool(render.PoolConfig{Program: program, Workers: 1})
		if err != nil {
			panic(err)
		}
		defer p.Close()
		result, err := p.Render(context.Background(), render.Request{FS: files("a.yaml", good)})
		fmt.Printf("user %d: %v %v\n%s\n", os.Getuid(), result != nil, err, p.Sandbox())
		return
	}
	if os.Getuid() != 0 {
		t.Skip("the other tests run without root already")
	}
	program, err := worker()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	cmd := exec.Command("/proc/self/fd/3", "-test.run", "^TestWithoutRoot$")
	cmd.ExtraFiles = []*os.File{self}
	cmd.Env = []string{"RENDER_TEST_UNPRIVILEGED=" + program, "TMPDIR=/tmp"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	t.Log(string(out))
	if err != nil || !strings.Contains(string(out), "user 65534: true <nil>") || !strings.Contains(string(out), "seccomp") {
		t.Errorf("%v", err)
	}
}

// within does something else once, in the middle of a render.
type within struct {
	fstest.MapFS
	then func()
}

func (w *within) ReadFile(name string) ([]byte, error) {
	if then := w.then; then != nil {
		w.then = nil
		then()
	}
	return w.MapFS.ReadFile(name)
}
