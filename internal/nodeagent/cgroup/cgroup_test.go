package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestPodCgroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("cgroups need root")
	}
	parent := fmt.Sprintf("/gitopsd-test-%d", os.Getpid())
	tree := NewTree(parent, 100)
	if err := tree.Init(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, name := range []string{"burstable", "besteffort", ""} {
			if err := tree.remove(path.Join(parent, name)); err != nil {
				t.Error(err)
			}
		}
	})
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u1"}}
	pod.Spec.Containers = []v1.Container{{Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m")}}}}
	if got := tree.Path(pod); got != parent+"/burstable/podu1" {
		t.Errorf("path is %s", got)
	}
	limits := &runtimeapi.LinuxContainerResources{CpuShares: 102, CpuPeriod: 100000, CpuQuota: 50000, MemoryLimitInBytes: 64 << 20}
	for range 2 {
		if err := tree.Make(pod, limits); err != nil {
			t.Fatal(err)
		}
	}
	m, err := tree.open(tree.Path(pod), nil)
	if err != nil {
		t.Fatal(err)
	}
	read := func(controller, v1File, v2File string) string {
		file := v1File
		if cgroups.IsCgroup2UnifiedMode() {
			file = v2File
		}
		b, err := os.ReadFile(path.Join(m.Path(controller), file))
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(string(b))
	}
	if got := read("memory", "memory.limit_in_bytes", "memory.max"); got != "67108864" {
		t.Errorf("memory limit is %s", got)
	}
	if got := read("cpu", "cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(got, "50000") {
		t.Errorf("cpu quota is %s", got)
	}
	if got := read("pids", "pids.max", "pids.max"); got != "100" {
		t.Errorf("pids limit is %s", got)
	}
	if got := tree.Pods(); len(got) != 1 || got[0] != "u1" {
		t.Errorf("pods are %v", got)
	}
	sleeper := exec.Command("sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	for _, controller := range []string{"memory", "pids"} {
		if err := cgroups.WriteCgroupProc(m.Path(controller), sleeper.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	gone := make(chan struct{})
	go func() { _ = sleeper.Wait(); close(gone) }()
	if err := tree.Remove("u1"); err != nil {
		t.Error(err)
		_ = sleeper.Process.Kill()
	}
	<-gone
	if len(tree.Pods()) > 0 {
		t.Error("the pod's cgroup is left")
	}
}
