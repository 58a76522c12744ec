package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// update sets the limits of a running container to those of an OCI LinuxResources; what it leaves out stays as it is.
func update(inv *invocation, args []string) (int, error) {
	set := newFlagSet("update")
	file := set.String("resources", "", "file with OCI resources, - for standard input")
	set.StringVar(file, "r", "", "short for --resources")
	if err := set.Parse(args); err != nil {
		return 1, err
	}
	c, err := inv.load(set.Args())
	if err != nil {
		return 1, err
	}
	res, err := readResources(*file)
	if err != nil {
		return 1, fmt.Errorf("read --resources: %w", err)
	}
	config := c.Config()
	setCPU(config.Cgroups.Resources, res.CPU)
	setMemory(config.Cgroups.Resources, res.Memory)
	if err := setBlockIO(config.Cgroups.Resources, res.BlockIO); err != nil {
		return 1, err
	}
	if res.Pids != nil {
		config.Cgroups.Resources.PidsLimit = res.Pids.Limit
	}
	if res.Unified != nil {
		config.Cgroups.Resources.Unified = res.Unified
	}
	config.Cgroups.SkipDevices = true // rules that others put on the container's devices stay
	return 0, c.Set(config)
}

func readResources(file string) (*specs.LinuxResources, error) {
	in := os.Stdin
	switch file {
	case "":
		return nil, errors.New("the flag is missing")
	case "-":
	default:
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	var res specs.LinuxResources
	return &res, json.Unmarshal(data, &res)
}

func setCPU(r *cgroups.Resources, cpu *specs.LinuxCPU) {
	if cpu == nil {
		return
	}
	if cpu.Quota != nil {
		r.CpuQuota = *cpu.Quota
	}
	if cpu.Period != nil && *cpu.Period != 0 {
		r.CpuPeriod = *cpu.Period
	}
	if cpu.Burst != nil {
		r.CpuBurst = cpu.Burst
	}
	if cpu.Shares != nil {
		r.CpuShares = *cpu.Shares
		r.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*cpu.Shares)
	}
	if cpu.RealtimePeriod != nil {
		r.CpuRtPeriod = *cpu.RealtimePeriod
	}
	if cpu.RealtimeRuntime != nil {
		r.CpuRtRuntime = *cpu.RealtimeRuntime
	}
	if cpu.Cpus != "" {
		r.CpusetCpus = cpu.Cpus
	}
	if cpu.Mems != "" {
		r.CpusetMems = cpu.Mems
	}
	if cpu.Idle != nil {
		r.CPUIdle = cpu.Idle
		if cpu.Shares == nil {
			r.CpuShares, r.CpuWeight = 0, 0 // the kernel refuses a weight beside cpu.idle
		}
	}
}

func setMemory(r *cgroups.Resources, mem *specs.LinuxMemory) {
	if mem == nil {
		return
	}
	if mem.Limit != nil {
		r.Memory = *mem.Limit
		if *mem.Limit == -1 && mem.Swap == nil {
			r.MemorySwap = 0 // a limit of swap without one of memory is refused
		}
	}
	if mem.Swap != nil {
		r.MemorySwap = *mem.Swap
	}
	if mem.Reservation != nil {
		r.MemoryReservation = *mem.Reservation
	}
	if mem.CheckBeforeUpdate != nil {
		r.MemoryCheckBeforeUpdate = *mem.CheckBeforeUpdate
	}
}

// setBlockIO takes the weight; limits for single devices cannot be told apart from a forgotten one, and no caller sets them.
func setBlockIO(r *cgroups.Resources, b *specs.LinuxBlockIO) error {
	if b == nil {
		return nil
	}
	if len(b.WeightDevice)+len(b.ThrottleReadBpsDevice)+len(b.ThrottleWriteBpsDevice)+
		len(b.ThrottleReadIOPSDevice)+len(b.ThrottleWriteIOPSDevice) > 0 {
		return errors.New("limits of single block devices cannot be updated")
	}
	if b.Weight != nil {
		r.BlkioWeight = *b.Weight
	}
	return nil
}
