package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gitopsd/gitopsd/internal/nodeagent/image"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// On a disk that is nearly full the images that nothing runs from go, and those that something runs from stay. The
// agent looks every five minutes and lets an image grow two minutes old, as kubelet does: its collector is run here on
// the instance's real runtime and disk in virtual time. With GITOPSD_E2E_SLOW=1 the daemon is waited for, ten minutes.
func TestUnusedImagesGo(t *testing.T) {
	i := prepare(nil)
	smallDisk(t, filepath.Dir(i.dir), 1500)
	t.Cleanup(func() { i.remove(t) })
	i.start(t)
	i.awaitNode(t)
	ns := nameOf(t)
	i.namespace(t, ns)
	i.apply(t, ns, toolboxPod("used", []string{"sleep"}, "", "")+"---\n"+strings.ReplaceAll(toolboxPod("gone", nil, "", ""), toolbox(), helloImage("v1")))
	for _, name := range []string{"used", "gone"} {
		i.pod(t, ns, name, "is ready", ready)
	}
	i.mustKubectl(t, "-n", ns, "delete", "pod", "gone")
	i.collect(t, 0)
	fill(t, filepath.Dir(i.dir), 90)
	if os.Getenv("GITOPSD_E2E_SLOW") == "" {
		i.collect(t, 1)
	}
	eventually(t, 12*time.Minute, "the unused image is removed", func() error {
		if names := i.images(t); strings.Contains(names, helloImage("v1")) {
			return fmt.Errorf("there are %s", names)
		}
		return nil
	})
	if names := i.images(t); !strings.Contains(names, toolbox()) || !strings.Contains(names, "pause") {
		t.Errorf("an image in use is gone: there are %s", names)
	}
	i.mustKubectl(t, "-n", ns, "exec", "used", "--", "/app", "args", "still here")
}

// collect runs the agent's collector twice, with its least age of an image between, and wants so many images removed.
func (i *instance) collect(t *testing.T, want int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		conn := dialEach(i.socket())
		c := image.NewCollector(runtimeapi.NewImageServiceClient(conn), runtimeapi.NewRuntimeServiceClient(conn))
		removed := 0
		for range 2 {
			n, err := c.Collect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			removed += n
			time.Sleep(2 * time.Minute) // of virtual time
		}
		if removed != want {
			t.Errorf("%d images are removed, want %d", removed, want)
		}
	})
}

// dialEach connects to a socket for every call: a connection that waits would hold virtual time up.
type dialEach string

func (d dialEach) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	conn, err := grpc.NewClient("unix://"+string(d), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Invoke(ctx, method, args, reply, opts...)
}

func (d dialEach) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("nothing here streams")
}

// smallDisk mounts a file system of its own, of so many megabytes, until the test ends.
func smallDisk(t testing.TB, dir string, megabytes int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	for _, args := range [][]string{
		{"truncate", "-s", fmt.Sprintf("%dM", megabytes), file},
		{"mkfs.ext4", "-q", "-m", "0", file},
		{"mount", "-o", "loop", file, dir},
	} {
		if out, code := output(exec.Command(args[0], args[1:]...)); code != 0 {
			t.Fatalf("%s: %s", args[0], out)
		}
	}
	t.Cleanup(func() {
		// The kernel lets go of what a container had mounted some time after the container's end.
		eventually(t, time.Minute, "unmount "+dir, func() error { return syscall.Unmount(dir, 0) })
		os.RemoveAll(dir)
	})
}

// fill writes a file that leaves a disk so many percent full.
func fill(t testing.TB, dir string, percent uint64) {
	t.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	size := int64(fs.Bavail-fs.Blocks*(100-percent)/100) * fs.Bsize
	if size <= 0 {
		t.Fatalf("%s is too full already: %d of %d blocks are free", dir, fs.Bavail, fs.Blocks)
	}
	if out, code := output(exec.Command("fallocate", "-l", fmt.Sprint(size), filepath.Join(dir, "ballast"))); code != 0 {
		t.Fatalf("fallocate: %s", out)
	}
}

// images are the names of the images on the instance's node.
func (i *instance) images(t testing.TB) string {
	t.Helper()
	list, err := runtimeapi.NewImageServiceClient(dialEach(i.socket())).ListImages(ctx(t), &runtimeapi.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, im := range list.Images {
		names = append(names, im.RepoTags...)
	}
	return strings.Join(names, " ")
}
