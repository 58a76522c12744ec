package podspec

import (
	v1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	v1res "k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/kubelet/qos"
)

// Constants of the kernel's CPU controllers, as kubelet uses them.
const (
	cpuPeriod = 100000
	minShares = 2
	maxShares = 262144
	minQuota  = 1000
)

// Shares is the weight of a CPU request; nothing asked for gets the smallest.
func Shares(milli int64) int64 {
	if milli == 0 {
		return minShares
	}
	return min(max(milli*1024/1000, minShares), maxShares)
}

// Quota is the CPU time in microseconds of each period; zero is unlimited.
func Quota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*cpuPeriod/1000, minQuota)
}

// containerResources are the limits of one container.
func containerResources(pod *v1.Pod, c *v1.Container, machineMemory int64) *runtimeapi.LinuxContainerResources {
	request := c.Resources.Requests.Cpu()
	if request.IsZero() && !c.Resources.Limits.Cpu().IsZero() {
		request = c.Resources.Limits.Cpu()
	}
	out := &runtimeapi.LinuxContainerResources{
		CpuPeriod:          cpuPeriod,
		CpuShares:          Shares(request.MilliValue()),
		CpuQuota:           Quota(c.Resources.Limits.Cpu().MilliValue()),
		MemoryLimitInBytes: c.Resources.Limits.Memory().Value(),
		OomScoreAdj:        int64(qos.GetContainerOOMScoreAdjust(pod, c, machineMemory)),
	}
	for name, q := range c.Resources.Limits {
		if v1res.IsHugePageResourceName(name) {
			out.HugepageLimits = append(out.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: hugePage(name), Limit: uint64(q.Value())})
		}
	}
	return out
}

// hugePage is the kernel's name of a page size: hugepages-2Mi → 2MB.
func hugePage(name v1.ResourceName) string {
	q, err := apiresource.ParseQuantity(string(name)[len(v1.ResourceHugePagesPrefix):])
	if err != nil {
		return ""
	}
	if n := q.Value(); n >= 1<<30 {
		return itoa(n>>30) + "GB"
	}
	return itoa(q.Value()>>20) + "MB"
}

// PodResources are the limits of the pod's own cgroup: a limit only where every container has one.
func PodResources(pod *v1.Pod) *runtimeapi.LinuxContainerResources {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	out := &runtimeapi.LinuxContainerResources{CpuPeriod: cpuPeriod, CpuShares: Shares(requests.Cpu().MilliValue())}
	cpu, memory := true, true
	each(pod, func(c *v1.Container) {
		cpu = cpu && !c.Resources.Limits.Cpu().IsZero()
		memory = memory && !c.Resources.Limits.Memory().IsZero()
	})
	if pod.Spec.Resources != nil {
		cpu = cpu || !pod.Spec.Resources.Limits.Cpu().IsZero()
		memory = memory || !pod.Spec.Resources.Limits.Memory().IsZero()
	}
	if cpu {
		out.CpuQuota = Quota(limits.Cpu().MilliValue())
	}
	if memory {
		out.MemoryLimitInBytes = limits.Memory().Value()
	}
	return out
}

func each(pod *v1.Pod, visit func(*v1.Container)) {
	for i := range pod.Spec.InitContainers {
		visit(&pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		visit(&pod.Spec.Containers[i])
	}
}
