package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// No request is lost while pods are replaced, scaled down and deleted, however many Services change meanwhile: a container is stopped only when nothing new
// is led to its pod, and what was led there has had a moment to send its request.
func TestNoRequestIsLostByARollout(t *testing.T) {
	i := shared(t)
	from, _ := i.nodePorts()
	nodePort := from + 6
	url := fmt.Sprintf("http://%s:%d/", nodeAddress(t), nodePort)
	a := i.deploy(t, map[string]string{"hello.yaml": helloDeployment("v1", 2, nodePort)})
	a.await(t)
	answers(t, 10*time.Second, url, "version v1")

	others := a.namespace + "-others"
	i.namespace(t, others)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() { i.changeServices(ctx, t, others) })
	lost := make(chan error, 2)
	var answered [2]int
	for k, pause := range []time.Duration{0, 100 * time.Millisecond} {
		running.Go(func() {
			var err error
			if answered[k], err = ask(ctx, url, pause); err != nil {
				lost <- fmt.Errorf("%s between connection and request: %w", pause, err)
			}
		})
	}
	settled := func(replicas int) {
		t.Helper()
		a.await(t)
		eventually(t, 30*time.Second, "the pods of before are gone", func() error {
			select {
			case err := <-lost:
				t.Fatal(err)
			default:
			}
			if n := len(i.pods(t, a.namespace)); n != replicas {
				return fmt.Errorf("%d pods", n)
			}
			return nil
		})
	}
	for n, step := range []struct {
		version  string
		replicas int
	}{{"v2", 2}, {"v1", 4}, {"v2", 2}, {"v1", 1}, {"v2", 2}} {
		a.repo.commit(t, fmt.Sprint("step ", n), map[string]string{"hello.yaml": helloDeployment(step.version, step.replicas, nodePort)})
		settled(step.replicas)
	}
	for _, p := range i.pods(t, a.namespace) {
		i.mustKubectl(t, "-n", a.namespace, "delete", "pod", p.Name)
		settled(2)
		i.mustKubectl(t, "-n", a.namespace, "rollout", "status", "deployment/hello", "--timeout=60s")
	}
	stop()
	running.Wait()
	t.Logf("%d requests were answered, and %d that came late", answered[0], answered[1])
}

// ask sends requests on connections of their own until ctx ends or one is lost, each so long after it is connected, and says how many were answered.
func ask(ctx context.Context, url string, pause time.Duration) (answered int, err error) {
	var dialer net.Dialer
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			return conn, err
		}}}
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return answered, err
		}
		resp, err := client.Do(req)
		if errors.Is(err, context.Canceled) {
			break
		}
		if err != nil {
			return answered, err
		}
		resp.Body.Close()
		answered++
	}
	return answered, nil
}

// changeServices keeps the rules of the node busy: a few hundred Services, one of which is another every few milliseconds.
func (i *instance) changeServices(ctx context.Context, t testing.TB, namespace string) {
	services := i.kube.CoreV1().Services(namespace)
	for n := 0; ctx.Err() == nil; n++ {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s%d", n)}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
		if _, err := services.Create(ctx, s, metav1.CreateOptions{}); err != nil && ctx.Err() == nil {
			t.Errorf("create a Service: %v", err)
			return
		}
		if n >= 300 {
			if err := services.Delete(ctx, fmt.Sprintf("s%d", n-300), metav1.DeleteOptions{}); err != nil && ctx.Err() == nil {
				t.Errorf("delete a Service: %v", err)
				return
			}
		}
	}
}
