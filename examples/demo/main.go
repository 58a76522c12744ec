// demo is `make demo`: on this machine it starts gitopsd with the repository of examples/repos/hello, pushes a second
// commit, reverts it, and prints what happened, with the times measured. Everything lives below one folder and under
// names of its own, so that it does not meet an instance that is there already.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gitopsd/gitopsd/examples/image"
	"github.com/google/go-containerregistry/pkg/registry"
)

const (
	home     = "/var/tmp/gitopsd-demo"
	dataDir  = home + "/data"
	repoDir  = home + "/repo"
	blobsDir = home + "/blobs"
	logFile  = home + "/gitopsd.log"
	program  = "bin/gitopsd"
	nodePort = "30080"
)

var instance = []string{"--data-dir", dataDir, "--node-name", "demo", "--api-port", "16443", "--agent-port", "20250",
	"--etcd-port", "22379", "--etcd-peer-port", "22380", "--metrics-port", "20249", "--pod-cidr", "10.52.0.0/16",
	"--service-cidr", "10.53.0.0/16", "--bridge", "gitopsd-demo", "--nft-table", "gitopsd-demo", "--cgroup-parent", "/gitopsd-demo"}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "registry" { // ends by SIGTERM, so nothing may catch that
		must(serveRegistry(os.Args[2]))
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := demo(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		if b, readErr := os.ReadFile(logFile); readErr == nil {
			fmt.Fprintf(os.Stderr, "the daemon said:\n%s", b[max(0, len(b)-3000):])
		}
		fmt.Fprintln(os.Stderr, "take it away with: DEMO_KEEP=0 make demo, or", removal())
		os.Exit(1)
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("it runs real containers and needs root: sudo make demo")
	}
	if err := cleanUp(); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(repoDir, 0o755), os.MkdirAll(blobsDir, 0o755)); err != nil {
		return err
	}
	host, err := startRegistry()
	if err != nil {
		return err
	}
	if err := step("build the image of examples/hello and push it to "+host, func() error { return pushImages(ctx, host) }); err != nil {
		return err
	}
	if err := prepareRepository(host); err != nil {
		return err
	}
	url, err := deploy(ctx)
	if err != nil {
		return err
	}
	if err := changeAndRevert(ctx, url); err != nil {
		return err
	}
	fmt.Println()
	if err := run(program, "status", "--data-dir", dataDir); err != nil {
		return err
	}
	if os.Getenv("DEMO_KEEP") == "0" {
		fmt.Println()
		return step("stop it and take everything away", cleanUp)
	}
	fmt.Printf(`
The demo's web server answers at %s
  look at it    %[2]s status --data-dir %[3]s --watch
                %[2]s kubectl --data-dir %[3]s -n hello get pods -o wide
  change it     edit and commit in %[4]s; gitopsd sees the commit at once
  its log       %[5]s
  stop it       %[2]s down --data-dir %[3]s
  remove it     %[6]s
`, url, program, dataDir, repoDir, logFile, removal())
	return nil
}

// deploy starts gitopsd and waits until the first commit answers.
func deploy(ctx context.Context) (url string, err error) {
	started := time.Now()
	if err := startDaemon(); err != nil {
		return "", err
	}
	ip, err := address()
	if err != nil {
		return "", err
	}
	url = "http://" + net.JoinHostPort(ip, nodePort) + "/"
	for _, s := range []struct{ what, log string }{{"control plane ready", "API ready"}, {"node ready", "node ready"}, {"first commit applied", "msg=synced"}} {
		if err := stepFrom(started, s.what, func() error { return awaitLog(ctx, s.log) }); err != nil {
			return "", err
		}
	}
	return url, stepFrom(started, "web server answers the first commit", func() error { return awaitAnswer(ctx, url, "version v1") })
}

func changeAndRevert(ctx context.Context, url string) error {
	if err := replaceInRepository("hello:v1", "hello:v2"); err != nil {
		return err
	}
	started := time.Now()
	if err := git("commit", "-qam", "hello: version 2"); err != nil {
		return err
	}
	if err := stepFrom(started, "second commit ("+head()+") answers", func() error { return awaitAnswer(ctx, url, "version v2") }); err != nil {
		return err
	}
	if err := stepFrom(started, "and is healthy, the old pods gone", healthy(ctx, url, "version v2")); err != nil {
		return err
	}
	started = time.Now()
	if err := git("revert", "--no-edit", "HEAD"); err != nil {
		return err
	}
	if err := stepFrom(started, "its revert ("+head()+") answers", func() error { return awaitAnswer(ctx, url, "version v1") }); err != nil {
		return err
	}
	return stepFrom(started, "and is healthy, the old pods gone", healthy(ctx, url, "version v1"))
}

// healthy waits until gitopsd calls the newest commit healthy and a row of answers comes from that commit alone.
func healthy(ctx context.Context, url, want string) func() error {
	return func() error {
		if err := run(program, "sync", "root", "--data-dir", dataDir); err != nil {
			return err
		}
		return retry(ctx, time.Minute, func() error {
			for range 20 {
				if err := answers(url, want); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

func step(what string, f func() error) error { return stepFrom(time.Now(), what, f) }

// stepFrom prints what is being done, and the time since started when it is.
func stepFrom(started time.Time, what string, f func() error) error {
	fmt.Printf("%-58s ", what)
	if err := f(); err != nil {
		fmt.Println("failed")
		return fmt.Errorf("%s: %w", what, err)
	}
	fmt.Printf("%6.2f s\n", time.Since(started).Seconds())
	return nil
}

// startRegistry runs the registry that the node pulls from as a process of its own, which outlives this one.
func startRegistry() (host string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	host = l.Addr().String()
	l.Close()
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	copied := filepath.Join(home, "registry") // `go run` deletes its program when it ends
	b, err := os.ReadFile(self)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(copied, b, 0o755); err != nil {
		return "", err
	}
	pid, err := detach(filepath.Join(home, "registry.log"), copied, "registry", host)
	if err != nil {
		return "", err
	}
	return host, os.WriteFile(filepath.Join(home, "registry.pid"), []byte(strconv.Itoa(pid)), 0o644)
}

func serveRegistry(host string) error {
	server := &http.Server{Addr: host, ReadHeaderTimeout: 10 * time.Second,
		Handler: registry.New(registry.WithBlobHandler(registry.NewDiskBlobHandler(blobsDir)))}
	return server.ListenAndServe()
}

func pushImages(ctx context.Context, host string) error {
	for _, version := range []string{"v1", "v2"} {
		img, err := image.Build(ctx, "./examples/hello", "VERSION="+version)
		if err != nil {
			return err
		}
		if err := retry(ctx, 10*time.Second, func() error { return image.Push(ctx, host+"/hello:"+version, img) }); err != nil {
			return err
		}
	}
	return nil
}

// prepareRepository makes a Git repository of the example, with images from our registry.
func prepareRepository(host string) error {
	if err := os.CopyFS(repoDir, os.DirFS("examples/repos/hello")); err != nil {
		return err
	}
	if err := git("init", "-q", "-b", "main", "."); err != nil {
		return err
	}
	if err := replaceInRepository("registry.local/", host+"/"); err != nil {
		return err
	}
	if err := git("add", "-A"); err != nil {
		return err
	}
	return git("commit", "-qm", "hello: version 1")
}

func replaceInRepository(old, new string) error {
	return filepath.WalkDir(repoDir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".yaml") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, []byte(strings.ReplaceAll(string(b), old, new)), 0o644)
	})
}

func git(args ...string) error {
	cmd := exec.Command("git", append([]string{"-C", repoDir, "-c", "user.name=demo", "-c", "user.email=demo@example.org"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w: %s", args[0], err, out)
	}
	return nil
}

func head() string {
	out, _ := exec.Command("git", "-C", repoDir, "rev-parse", "--short=8", "HEAD").Output()
	return strings.TrimSpace(string(out))
}

func startDaemon() error {
	args := append([]string{"up", "--repo", repoDir, "--ref", "main"}, instance...)
	_, err := detach(logFile, program, args...)
	return err
}

// detach starts a program in a session of its own.
func detach(log, program string, args ...string) (pid int, err error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	pid = cmd.Process.Pid // Release forgets it
	return pid, cmd.Process.Release()
}

// cleanUp takes away what this or an earlier demo has made.
func cleanUp() error {
	if _, err := os.Stat(filepath.Join(dataDir, "instance.json")); err == nil {
		if out, err := exec.Command(program, "uninstall", "--yes", "--data-dir", dataDir).CombinedOutput(); err != nil {
			return fmt.Errorf("take the last demo away: %w\n%s", err, out)
		}
	}
	if b, err := os.ReadFile(filepath.Join(home, "registry.pid")); err == nil {
		endRegistry(strings.TrimSpace(string(b)))
	}
	return os.RemoveAll(home)
}

// endRegistry ends a process if it is the registry that we started: numbers are used again.
func endRegistry(pid string) {
	n, err := strconv.Atoi(pid)
	exe, linkErr := os.Readlink("/proc/" + pid + "/exe")
	if err == nil && linkErr == nil && exe == filepath.Join(home, "registry") {
		_ = syscall.Kill(n, syscall.SIGTERM)
	}
}

func removal() string {
	return fmt.Sprintf("%s uninstall --yes --data-dir %s; kill $(cat %s/registry.pid); rm -rf %[3]s", program, dataDir, home)
}

func run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, args[0], err, out.String())
	}
	if args[0] == "status" {
		fmt.Print(out.String())
	}
	return nil
}

func awaitLog(ctx context.Context, text string) error {
	return retry(ctx, 2*time.Minute, func() error {
		b, err := os.ReadFile(logFile)
		if err == nil && strings.Contains(string(b), text) {
			return nil
		}
		if strings.Contains(string(b), "\ngitopsd: ") || strings.HasPrefix(string(b), "gitopsd: ") {
			return fatal{errors.New("gitopsd has ended")}
		}
		return errors.New("not yet")
	})
}

func awaitAnswer(ctx context.Context, url, want string) error {
	return retry(ctx, 2*time.Minute, func() error { return answers(url, want) })
}

// client makes a connection for every request, so that an answer tells of now.
var client = &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func answers(url, want string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && !strings.Contains(string(body), want) {
		err = fmt.Errorf("it answers %q", body)
	}
	return err
}

// fatal is an error that waiting does not mend.
type fatal struct{ error }

func retry(ctx context.Context, within time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil || errors.As(err, &fatal{}) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", within, err)
		case <-tick.C:
		}
	}
}

// address of this machine, as others see it.
func address() (string, error) {
	conn, err := net.Dial("udp4", "198.51.100.1:9") // nothing is sent
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String(), nil
}
