package node

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestReadiness(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, c := range []struct {
		health  Health
		ready   v1.ConditionStatus
		message string
	}{
		{Health{}, v1.ConditionFalse, "container runtime status check may not have completed yet"},
		{Health{Answered: now}, v1.ConditionTrue, "kubelet is posting ready status"},
		{Health{Answered: now.Add(-29 * time.Second)}, v1.ConditionTrue, "kubelet is posting ready status"},
		{Health{Answered: now.Add(-31 * time.Second)}, v1.ConditionFalse, "container runtime is down"},
		{Health{Answered: now, Network: "no cni"}, v1.ConditionFalse, "container runtime network not ready: no cni"},
		{Health{Answered: now, Runtime: "a", Network: "b"}, v1.ConditionFalse, "[container runtime not ready: a, container runtime network not ready: b]"},
	} {
		if status, _, message := readiness(c.health, now); status != c.ready || message != c.message {
			t.Errorf("%+v: %s %s", c.health, status, message)
		}
	}
}

func TestPressureHolds(t *testing.T) {
	low, now := true, time.Unix(1e9, 0)
	p := &pressure{kind: v1.NodeDiskPressure, low: func() bool { return low }}
	if p.condition(now).Status != v1.ConditionTrue {
		t.Error("pressure was not seen")
	}
	low = false
	if p.condition(now.Add(time.Minute)).Status != v1.ConditionTrue || p.condition(now.Add(6*time.Minute)).Status != v1.ConditionFalse {
		t.Error("pressure must hold five minutes, and no longer")
	}
}

func TestMachine(t *testing.T) {
	m, err := NewMachine(t.TempDir(), 7, v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")})
	if err != nil {
		t.Fatal(err)
	}
	c, a := m.Capacity(), m.Allocatable()
	if c.Cpu().IsZero() || c.Memory().IsZero() || c.StorageEphemeral().IsZero() || c.Pods().Value() != 7 {
		t.Errorf("capacity is %v", c)
	}
	if c.Memory().Value()-a.Memory().Value() < 64<<20 {
		t.Errorf("allocatable is %v", a)
	}
	if i := m.info("v1", "r"); i.KernelVersion == "" || i.OSImage == "" || i.OperatingSystem != "linux" {
		t.Errorf("info is %+v", i)
	}
}

// keeperOn runs a keeper in virtual time.
func keeperOn(t *testing.T, client *fake.Clientset, health func() (Health, error), cidr func([]string) error) {
	m, err := NewMachine(t.TempDir(), 7, nil)
	if err != nil {
		t.Fatal(err)
	}
	k := NewKeeper(Config{
		Client: client, Machine: m, Name: "n1", Hostname: "n1", IPs: []string{"192.0.2.1"}, Port: 10250, Labels: map[string]string{"zone": "a"},
		Version: "v1", DataDir: t.TempDir(), RuntimeVersion: func() string { return "r" }, Images: func(context.Context) []v1.ContainerImage { return nil },
		Health:    func(context.Context) (Health, error) { return health() },
		OnPodCIDR: func(_ context.Context, c []string) error { return cidr(c) },
		Event:     func(string, string, string) {}, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	if err := k.Register(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; synctest.Wait() })
}

func ready(t *testing.T, client *fake.Clientset) v1.ConditionStatus {
	n, err := client.CoreV1().Nodes().Get(context.Background(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range n.Status.Conditions {
		if c.Type == v1.NodeReady {
			return c.Status
		}
	}
	return "none"
}

func TestRuntimeMayRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var down atomic.Bool
		keeperOn(t, client, func() (Health, error) {
			if down.Load() {
				return Health{}, errors.New("away")
			}
			return Health{Answered: time.Now()}, nil
		}, func([]string) error { return nil })
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if got := ready(t, client); got != v1.ConditionTrue {
			t.Errorf("ready is %s", got)
		}
		down.Store(true)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := ready(t, client); got != v1.ConditionTrue {
			t.Errorf("a runtime away for 20 s: ready is %s", got)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := ready(t, client); got != v1.ConditionFalse {
			t.Errorf("a runtime away for 40 s: ready is %s", got)
		}
		down.Store(false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := ready(t, client); got != v1.ConditionTrue {
			t.Errorf("a runtime that is back: ready is %s", got)
		}
		l, err := client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(context.Background(), "n1", metav1.GetOptions{})
		if err != nil || time.Since(l.Spec.RenewTime.Time) > 15*time.Second {
			t.Errorf("lease: %v %v", l, err)
		}
	})
}

func TestPodRangeIsReportedUntilTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var told atomic.Int32
		keeperOn(t, client, func() (Health, error) { return Health{Answered: time.Now()}, nil }, func(c []string) error {
			if c[0] != "10.42.0.0/24" {
				t.Errorf("told %v", c)
			}
			if told.Add(1) < 3 {
				return errors.New("not yet")
			}
			return nil
		})
		time.Sleep(time.Second)
		n, err := client.CoreV1().Nodes().Get(context.Background(), "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n.Spec.PodCIDRs = []string{"10.42.0.0/24"}
		if _, err := client.CoreV1().Nodes().Update(context.Background(), n, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if told.Load() != 3 {
			t.Errorf("told %d times", told.Load())
		}
	})
}
