package render_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/gitopsd/gitopsd/internal/render"
)

// worker builds the real program once for all tests.
var worker = sync.OnceValues(func() (string, error) {
	name := filepath.Join(scratch, "gitopsd-render")
	cmd := exec.Command("go", "build", "-o", name, "github.com/gitopsd/gitopsd/cmd/gitopsd-render")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build worker: %w\n%s", err, out)
	}
	return name, nil
})

// scratch is the folder of the programs that tests build.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "gitopsd-render-test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(scratch)
	os.Exit(code)
}

// pool returns a pool of real workers.
func pool(t *testing.T, cfg render.PoolConfig) *render.Pool {
	t.Helper()
	name, err := worker()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Program = name
	p, err := render.NewPool(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func files(pairs ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return m
}

func TestPoolRendersEachKind(t *testing.T) {
	p := pool(t, render.PoolConfig{Workers: 1})
	fsys := files(
		"plain/a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n",
		"kust/kustomization.yaml", "resources: [cm.yaml]\nnamePrefix: x-\n",
		"kust/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n",
		"chart/Chart.yaml", "apiVersion: v2\nname: c\nversion: 0.1.0\n",
		"chart/templates/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\n",
	)
	for path, want := range map[string]string{"plain": "ConfigMap a", "kust": "ConfigMap x-b", "chart": "ConfigMap r"} {
		result, err := p.Render(context.Background(), render.Request{FS: fsys, Path: path, Options: render.Options{Helm: render.HelmOptions{ReleaseName: "r"}}})
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if len(result.Objects) != 1 || render.Name(result.Objects[0].Object) != want {
			t.Errorf("%s: %+v, want %s", path, result.Objects, want)
		}
		t.Logf("%s %s %s", result.Kind, result.Objects[0].Origin, result.Objects[0].YAML)
	}
	t.Log(p.Sandbox())
}
