package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// cluster is a fake API server that does what a real one does with a binding, and a scheduler that runs on it.
type cluster struct {
	t *testing.T
	*fake.Clientset
	binds, patches atomic.Int32
	bind           func(pod, node string) error // nil: succeeds
}

var podResource = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// start runs the test in a bubble of virtual time.
func start(t *testing.T, test func(t *testing.T, c *cluster)) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, Clientset: fake.NewClientset()}
		c.PrependReactor("create", "pods", func(a k8stesting.Action) (bool, runtime.Object, error) {
			if a.GetSubresource() != "binding" {
				return false, nil, nil
			}
			b := a.(k8stesting.CreateAction).GetObject().(*v1.Binding)
			c.binds.Add(1)
			if c.bind != nil {
				if err := c.bind(b.Name, b.Target.Name); err != nil {
					return true, nil, err
				}
			}
			return true, b, c.assign(b.Namespace, b.Name, b.Target.Name)
		})
		c.PrependReactor("patch", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
			c.patches.Add(1)
			return false, nil, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- Run(ctx, Config{Client: c}) }()
		settle()
		test(t, c)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// settle lets the scheduler read the first lists; client-go looks ten times a second whether they are there.
func settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}

func (c *cluster) assign(namespace, name, node string) error {
	o, err := c.Tracker().Get(podResource, namespace, name)
	if err != nil {
		return err
	}
	p := o.(*v1.Pod).DeepCopy()
	if p.Spec.NodeName != "" {
		return apierrors.NewConflict(podResource.GroupResource(), name, errors.New("already assigned"))
	}
	p.Spec.NodeName = node
	return c.Tracker().Update(podResource, p, namespace)
}

func (c *cluster) node(line string) {
	c.t.Helper()
	if _, err := c.CoreV1().Nodes().Create(c.t.Context(), parseNode(c.t, line), metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	synctest.Wait()
}

func (c *cluster) pod(line string) {
	c.t.Helper()
	p := parsePod(c.t, line)
	p.Spec.SchedulerName = v1.DefaultSchedulerName
	if _, err := c.CoreV1().Pods(p.Namespace).Create(c.t.Context(), p, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	synctest.Wait()
}

func (c *cluster) delete(pod string) {
	c.t.Helper()
	if err := c.CoreV1().Pods("default").Delete(c.t.Context(), pod, metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
	synctest.Wait()
}

// where is the pod's node, or the reason why it has none.
func (c *cluster) where(name string) string {
	c.t.Helper()
	p, err := c.CoreV1().Pods("default").Get(c.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	if p.Spec.NodeName != "" {
		return p.Spec.NodeName
	}
	for _, cond := range p.Status.Conditions {
		if cond.Type == v1.PodScheduled {
			return fmt.Sprintf("%s %s: %s", cond.Status, cond.Reason, cond.Message)
		}
	}
	return "nothing said"
}

func (c *cluster) want(pod, where string) {
	c.t.Helper()
	if got := c.where(pod); got != where {
		c.t.Errorf("%s: %s, want %s", pod, got, where)
	}
}

func (c *cluster) notes() []string {
	list, err := c.EventsV1().Events("").List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		out = append(out, fmt.Sprintf("%s %s %s: %s", e.Type, e.Reason, e.Regarding.Name, e.Note))
	}
	slices.Sort(out)
	return out
}

func TestRunBinds(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.node("a cpu=1 memory=1Gi")
		c.pod("web cpu=500m")
		c.want("web", "a")
		time.Sleep(time.Second)
		synctest.Wait()
		if got := c.notes(); len(got) != 1 || got[0] != "Normal Scheduled web: Successfully assigned default/web to a" {
			t.Errorf("events: %q", got)
		}
	})
}

func TestRunSaysWhyOnceAndTriesAgainWhenThereIsRoom(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.pod("web cpu=500m")
		c.want("web", "False Unschedulable: no nodes available to schedule pods")
		c.node("a cpu=1 memory=1Gi")
		time.Sleep(lastBackoff)
		synctest.Wait()
		c.want("web", "a")
		c.pod("big cpu=600m")
		c.want("big", "False Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.")
		before := c.patches.Load()
		time.Sleep(3 * patience)
		synctest.Wait()
		if n := c.patches.Load() - before; n != 0 {
			t.Errorf("the same reason was written %d times more", n)
		}
		c.delete("web")
		time.Sleep(lastBackoff)
		synctest.Wait()
		c.want("big", "a")
		failed := 0
		for _, n := range c.notes() {
			if strings.Contains(n, "FailedScheduling big") {
				failed++
			}
		}
		if failed != 1 {
			t.Errorf("events: %q", c.notes())
		}
	})
}

func TestRunNeverBooksTwice(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.node("a cpu=1 memory=1Gi")
		c.node("b cpu=1 memory=1Gi")
		for i := range 40 {
			c.pod(fmt.Sprintf("p%d cpu=300m", i))
		}
		time.Sleep(lastBackoff)
		synctest.Wait()
		load := map[string]int{}
		list, _ := c.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
		for _, p := range list.Items {
			load[p.Spec.NodeName]++
		}
		if load["a"] != 3 || load["b"] != 3 || load[""] != 34 {
			t.Errorf("%v, want 3 on each of a and b", load)
		}
	})
}

// A binding fails in two ways: it was refused, or it was done and the answer was lost.
func TestRunBindFails(t *testing.T) {
	for _, done := range []bool{false, true} {
		t.Run(fmt.Sprintf("done=%v", done), func(t *testing.T) {
			start(t, func(t *testing.T, c *cluster) {
				fails := 2
				c.bind = func(pod, node string) error {
					if fails--; fails < 0 {
						return nil
					}
					if done {
						if err := c.assign("default", pod, node); err != nil {
							return err
						}
						time.Sleep(time.Second) // the watch is faster than the error
					}
					return apierrors.NewInternalError(errors.New("no answer"))
				}
				c.node("a cpu=1 memory=1Gi")
				c.pod("web cpu=600m")
				time.Sleep(time.Minute)
				synctest.Wait()
				c.want("web", "a")
				c.pod("more cpu=600m") // web still counts
				c.want("more", "False Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.")
			})
		})
	}
}

func TestRunLeavesOthersAlone(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.node("a cpu=1 memory=1Gi")
		c.pod("gated gated")
		other := parsePod(t, "other")
		other.Spec.SchedulerName = "mine"
		if _, err := c.CoreV1().Pods("default").Create(t.Context(), other, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(patience)
		synctest.Wait()
		c.want("gated", "nothing said")
		c.want("other", "nothing said")
		if n := c.binds.Load() + c.patches.Load(); n != 0 {
			t.Errorf("%d writes", n)
		}
	})
}

func TestRunCountsWhatIsThereBeforeTheFirstDecision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := parsePod(t, "old cpu=900m on=a")
		fresh := parsePod(t, "fresh cpu=200m")
		fresh.Spec.SchedulerName = v1.DefaultSchedulerName
		client := fake.NewClientset(parseNode(t, "a cpu=1 memory=1Gi"), old, fresh)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- Run(ctx, Config{Client: client}) }()
		settle()
		c := &cluster{t: t, Clientset: client}
		c.want("fresh", "False Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.")
		cancel()
		<-done
	})
}

// What pods do that are placed and stay so is no reason to try others again.
func TestRunIsNotKeptBusyByStatus(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.node("a cpu=1 memory=1Gi")
		c.pod("runs cpu=900m")
		c.want("runs", "a")
		c.pod("waits cpu=900m")
		c.pod("friend near=app=x@kubernetes.io/hostname")
		before := c.patches.Load()
		for i := range 100 {
			p, err := c.CoreV1().Pods("default").Get(t.Context(), "runs", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			p.Status.Message = fmt.Sprint(i)
			if _, err := c.CoreV1().Pods("default").UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if n := c.patches.Load() - before; n != 0 {
			t.Errorf("%d writes", n)
		}
		c.pod("company cpu=50m label=app=x")
		time.Sleep(lastBackoff)
		synctest.Wait()
		c.want("friend", "a")
		c.want("waits", "False Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.")
	})
}
