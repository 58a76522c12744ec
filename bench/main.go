// bench prints the figures of docs/performance.md: it starts bin/gitopsd on data directories of its own and measures
// from outside, as a user would with a stopwatch. Medians of several runs; the machine is named first.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gitopsd/gitopsd/examples/image"
	"github.com/google/go-containerregistry/pkg/registry"
)

const program = "../bin/gitopsd"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := func() error { return bench(ctx, os.Args[1:]) }
	if len(os.Args) == 4 && os.Args[1] == probe {
		run = func() error { return runProbe(ctx, os.Args[2], os.Args[3]) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// figures of one running instance, in the order in which they are taken.
var figures = []struct {
	name string
	take func(context.Context, *instance, string) error
}{{"idle", idleFigures}, {"commit", commitFigures}, {"pods", podFigures}, {"heal", healFigures}, {"kubectl", kubectlFigures}, {"engine", engineFigures}, {"monorepo", monorepoFigures}, {"flux", fluxFigures}, {"floor", floorFigures}}

// bench takes the figures that are named, or all.
func bench(ctx context.Context, names []string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("it runs real containers and needs root")
	}
	// Peers are taken only when they are named: they have to be built first. So is the monorepo, which needs an instance of its own.
	wanted := func(name string) bool {
		return len(names) == 0 && name != "flux" && name != "floor" && name != "monorepo" || slices.Contains(names, name)
	}
	machine()
	if wanted("program") {
		if err := programFigures(); err != nil {
			return err
		}
	}
	if wanted("start") {
		if err := startFigures(ctx); err != nil {
			return err
		}
	}
	if wanted("sources") {
		if err := sourceFigures(ctx); err != nil {
			return err
		}
	}
	if wanted("render") {
		if err := renderFigures(ctx); err != nil {
			return err
		}
	}
	if alone := []string{"sources", "render"}; len(names) > 0 && !slices.ContainsFunc(names, func(n string) bool { return !slices.Contains(alone, n) }) {
		return nil // they need no instance
	}
	host, err := serveImages(ctx)
	if err != nil {
		return err
	}
	i, err := newInstance()
	if err != nil {
		return err
	}
	defer i.remove()
	if _, err := i.start(ctx); err != nil {
		return err
	}
	for _, f := range figures {
		if !wanted(f.name) {
			continue
		}
		if err := f.take(ctx, i, host); err != nil {
			return err
		}
	}
	return nil
}

func machine() {
	model := "unknown processor"
	b, _ := os.ReadFile("/proc/cpuinfo")
	for _, line := range strings.Split(string(b), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	memory, _, _ := strings.Cut(read("/proc/meminfo"), "\n")
	fmt.Printf("machine: %d cores of %s, %s, kernel %s, %s\n\n", runtime.NumCPU(), model,
		strings.Join(strings.Fields(memory), " "), strings.TrimSpace(string(kernel)), runtime.Version())
}

func read(file string) string {
	b, _ := os.ReadFile(file)
	return string(b)
}

// row prints a figure, with the aim beside it.
func row(what, figure, aim string) {
	if aim != "" {
		aim = "aim " + aim
	}
	fmt.Printf("%-58s %14s   %s\n", what, figure, aim)
}

// spread prints the median of several times, with the least and the greatest.
func spread(what string, times []time.Duration, aim string) {
	slices.Sort(times)
	round := func(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()) }
	row(fmt.Sprintf("%s (%d runs, %s to %s)", what, len(times), round(times[0]), round(times[len(times)-1])), round(times[len(times)/2])+" s", aim)
}

// serveImages puts hello in two versions into a registry on loopback.
func serveImages(ctx context.Context) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go http.Serve(l, registry.New(registry.Logger(discard)))
	host := l.Addr().String()
	for _, v := range []string{"v1", "v2"} {
		img, err := image.Build(ctx, "github.com/gitopsd/gitopsd/examples/hello", "VERSION="+v)
		if err != nil {
			return "", err
		}
		if err := image.Push(ctx, host+"/hello:"+v, img); err != nil {
			return "", err
		}
	}
	return host, nil
}
