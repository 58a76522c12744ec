package oci

import (
	"encoding/json"

	"github.com/opencontainers/runc/libcontainer/capabilities"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	ocifeatures "github.com/opencontainers/runtime-spec/specs-go/features"
)

// features prints what the runtime can do, in the form of the runtime specification's features.md. The CRI plugin
// learns from it whether recursive read-only mounts and id-mapped mounts work.
func features(inv *invocation, _ []string) (int, error) {
	yes, no := true, false
	f := ocifeatures.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Annotations: map[string]string{
			"org.opencontainers.runc.version":            libcontainerVersion(),
			"org.opencontainers.runc.checkpoint.enabled": "false",
		},
		Hooks:        configs.KnownHookNames(),
		MountOptions: specconv.KnownMountOptions(),
		Linux: &ocifeatures.Linux{
			Namespaces:      specconv.KnownNamespaces(),
			Capabilities:    capabilities.KnownCapabilities(),
			Cgroup:          &ocifeatures.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &no, Rdma: &yes},
			Apparmor:        &ocifeatures.Apparmor{Enabled: &yes},
			Selinux:         &ocifeatures.Selinux{Enabled: &yes},
			IntelRdt:        &ocifeatures.IntelRdt{Enabled: &no},
			MountExtensions: &ocifeatures.MountExtensions{IDMap: &ocifeatures.IDMap{Enabled: &yes}},
			NetDevices:      &ocifeatures.NetDevices{Enabled: &yes},
		},
		PotentiallyUnsafeConfigAnnotations: []string{"bundle", "org.systemd.property."},
	}
	if seccomp.Enabled {
		f.Linux.Seccomp = &ocifeatures.Seccomp{
			Enabled: &yes, Actions: seccomp.KnownActions(), Operators: seccomp.KnownOperators(), Archs: seccomp.KnownArchs(),
			KnownFlags: seccomp.KnownFlags(), SupportedFlags: seccomp.SupportedFlags(),
		}
	}
	enc := json.NewEncoder(inv.out)
	enc.SetIndent("", "    ")
	return 0, enc.Encode(f)
}
