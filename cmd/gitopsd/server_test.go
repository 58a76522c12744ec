package main

import (
	"strings"
	"testing"
)

// A flag of the other form of the server is refused, by name, before anything is started.
func TestServerRefusesFlagsOfTheOtherForm(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--kubeconfig f --api-port 1", "--api-port"},
		{"--in-cluster --node-name n --pod-cidr 10.0.0.0/16", "--node-name, --pod-cidr"},
		{"--namespace n", "--kubeconfig or --in-cluster"},
		{"--kubeconfig f --in-cluster", "two clusters"},
		{"--kubeconfig /does/not/exist --data-dir /proc/none", "--kubeconfig"},
		{"--kubeconfig f --lease-duration 1s", "--lease-duration"},
		{"--kubeconfig f --path x", "--repo"},
	} {
		cmd := serverCommand()
		cmd.SetArgs(strings.Fields(c.args))
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.args, err)
		}
	}
}
